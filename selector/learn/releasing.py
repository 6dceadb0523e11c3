"""From a trained model to the folder that the package loads, and back to a policy."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from selector.learn import card, registry, reproduction
from selector.learn.evaluation import LEARNED
from selector.learn.pipeline import Trained
from selector.learn.registry import Version
from selector.learn.tracking import MODEL, git_commit
from selector.policy import release
from selector.policy.learned import Learned
from selector.policy.release import Release, ReleaseError

CHAMPION = "champion.json"  # names the folder beside it that the package loads


def write(trained: Trained, folder: Path) -> None:
    """The model with its card, as policy ``learned`` reads it; its version is the digest of the data set."""
    data = trained.dataset
    release.write(
        folder,
        trained.fitted.trees,
        trained.fitted.model,
        name=MODEL,
        version=data.digest,
        data_hash=data.digest,
        metrics=_metrics(trained),
        targets=map(str, np.unique(data.targets)),
        card=card.model_card(trained),
        extra={
            "git_commit": git_commit(),
            "recipe": trained.recipe.to_dict(),
            "boosting": asdict(trained.fitted.boosting),
            "slice": reproduction.slice_facts(data, trained.recipe, trained.fitted),
            "lightgbm": lightgbm.__version__,
        },
    )


def export(version: Version, models: Path, name: str) -> Path:
    """Write a registered version to ``models/name`` and make it the one that the package loads; its folder.

    Raises ReleaseError where the folder exists or this version of the package cannot use the model.
    """
    folder = models / name
    with downloaded(version) as made:
        found = release.load(made)
        release.write(
            folder,
            found.trees(),
            found.model,
            name=name,
            version=str(version.number),
            data_hash=found.data_hash,
            metrics=found.metrics,
            targets=found.targets,
            card=(made / "README.md").read_text(encoding="utf-8"),
            extra={**found.extra, "run": version.run_id, "tags": version.tags},
            kernels=found.kernels,
        )
    temporary = models / f".{CHAMPION}"
    temporary.write_text(json.dumps({"model": name}) + "\n")
    os.replace(temporary, models / CHAMPION)
    return folder


@contextmanager
def downloaded(version: Version) -> Iterator[Path]:
    """The release folder of a registered version, in a temporary place."""
    with tempfile.TemporaryDirectory(prefix="selector-model-") as name:
        yield registry.download(version, Path(name))


@contextmanager
def policy(name: str | None) -> Iterator[tuple[Learned, Release]]:
    """Policy ``learned`` with the model of a release folder, an alias or a version number; None: the package's own.

    Raises ReleaseError for a folder that cannot be used, UnknownModel for a name that the registry lacks.
    """
    if name is None or Path(name).is_dir():
        folder = release.champion() if name is None else Path(name)
        yield Learned(folder), release.load(folder)
        return
    if os.sep in name:
        raise ReleaseError(f"there is no model in {name}: no such folder")
    with downloaded(registry.get(name)) as folder:
        yield Learned(folder), release.load(folder)


def _metrics(trained: Trained) -> dict[str, Any]:
    return {
        protocol: {policy: value.to_dict() for policy, value in held_out.scores().items()}
        | {"gap_closed": held_out.gap_closed(), "chance_corrected": held_out.chance_corrected(LEARNED)}
        for protocol, held_out in trained.evaluation.held_out.items()
    }
