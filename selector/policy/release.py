"""Released models: folders that the compiler loads, and that can refuse to load.

    models/<name>/model-0.txt …   the members of the ensemble, LightGBM text models of what the prior leaves
    models/<name>/manifest.json   what they were trained on, what they need, checksums of every file
    models/<name>/README.md       model card

A model whose features mean something else now, or one of whose bytes changed, does not load.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from selector import data
from selector.features import NAMES, TABLE_VERSION
from selector.lowering import dot
from selector.lowering.fingerprint import kernel_fingerprint
from selector.policy import roofline
from selector.policy.forest import Forest, ForestError
from selector.target import TargetProfile, profile

SCHEMA_VERSION = 2
ENVIRONMENT = "SELECTOR_MODEL"  # a folder that takes the place of the champion
_MANIFEST, _CARD, _CHAMPION = "manifest.json", "README.md", "champion.json"
_RETRAIN = "`selector train` makes a model for this version"


class ReleaseError(ValueError):
    """The folder holds no model that this version can use; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a prediction is not followed."""

    band: float = 0.0  # its log2(t_int16 / t_int8) is closer to zero than this,
    spread: float = 0.0  # or than so many standard deviations of the ensemble,
    margin: float = 0.5  # or a feature lies further outside of its training range than this share of the range

    def unsure(self, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Which predictions are too close to call, (rows,) bool; arguments as ``Release.predict`` gives them."""
        return np.abs(mean) < np.maximum(self.band, self.spread * spread)

    def outside(self, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows (rows, features) are too far out of [low, high] (features,), and by which share of it each is."""
        beyond = np.maximum(low - rows, rows - high) / np.where(high > low, high - low, 1.0)
        return (beyond > self.margin).any(axis=1), beyond


@dataclass(frozen=True)
class Release:
    """A model that was checked and loaded."""

    folder: Path
    name: str
    version: str
    created: str  # UTC, ISO 8601
    targets: tuple[str, ...]  # that it was trained on
    instruction_sets: frozenset[tuple[str, ...]]  # of these targets, see ``instruction_set``
    ranges: Mapping[str, tuple[float, float]]  # of each feature in the training data
    data_hash: str
    fingerprint: str  # of the kernels that were measured
    tvm: str
    metrics: Mapping[str, Any]
    thresholds: Thresholds
    prior: float  # share of the roofline's answer that the members start from
    extra: Mapping[str, Any]
    forest: Forest = field(repr=False)

    @property
    def stale(self) -> str | None:
        """Why its predictions may be out of date: the kernels are not those that were measured.  None: they are."""
        if self.fingerprint == kernel_fingerprint():
            return None
        return (
            f"the model {self.name} {self.version} was trained on other kernels (TVM {self.tvm}): "
            "`selector collect` and `selector train` bring it up to date"
        )

    def texts(self) -> list[str]:
        """The members as LightGBM text models."""
        files = sorted(self.folder.glob("model-*.txt"), key=lambda path: int(path.stem.removeprefix("model-")))
        return [path.read_text() for path in files]

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the members of log2(t_int16 / t_int8), each (rows,) float64."""
        each = self.forest.predict(features)
        return each.mean(axis=0) + roofline.prior(features, self.prior), each.std(axis=0)

    def explain(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What ``predict`` gives, and what each feature changed, (rows, features): see ``Forest.explain``."""
        each, changes = self.forest.explain(features)
        start = roofline.prior(features, self.prior)
        changes[:, roofline.RATIO] += start
        return each.mean(axis=0) + start, each.std(axis=0), changes


def instruction_set(target: TargetProfile) -> tuple[str, ...]:
    """The dot instructions that a CPU has: what tells targets apart in kind, not in degree."""
    return tuple(sorted(row.name for row in (*dot.candidates(target, "int8"), *dot.candidates(target, "int16"))))


def champion() -> Path:
    """Folder of the model in use: ``SELECTOR_MODEL``, else what ``models/champion.json`` names, else the only one.

    Raises ReleaseError where there is none.
    """
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given)
    models = data.folder("models")
    pointer = models / _CHAMPION
    if pointer.is_file():
        named = _read_json(pointer).get("model")
        if not isinstance(named, str) or Path(named).name != named:
            raise ReleaseError(f"{pointer} has to name a folder beside it under 'model', got {named!r}")
        return models / named
    found = sorted(path.parent for path in models.glob(f"*/{_MANIFEST}"))
    if len(found) != 1:
        count = "no model is released" if not found else f"{len(found)} models are released and none is the champion"
        raise ReleaseError(f"{count}: `selector models` shows and promotes them")
    return found[0]


def load(folder: Path) -> Release:
    """The model in a folder.  Raises ReleaseError if it is damaged, incomplete or made for other features."""
    if not folder.is_dir():
        raise ReleaseError(f"there is no model in {folder}: no such folder")
    manifest = _read_json(folder / _MANIFEST)
    if manifest.get("schema") != SCHEMA_VERSION:
        raise ReleaseError(
            f"{folder.name}: schema {manifest.get('schema')!r} is unknown, this version reads {SCHEMA_VERSION}"
        )
    if manifest.get("digest") != _digest(manifest):
        raise ReleaseError(f"{folder.name}: {_MANIFEST} was changed since it was written")
    if manifest["features"] != {"version": TABLE_VERSION, "names": list(NAMES)}:
        raise ReleaseError(
            f"{folder.name}: made for features of version {manifest['features']['version']}, "
            f"these are {TABLE_VERSION}; {_RETRAIN}"
        )
    contents = {name: _read(folder, name, digest) for name, digest in manifest["files"].items()}
    try:
        forest = Forest.parse([contents[name].decode() for name in manifest["members"]])
    except ForestError as error:
        raise ReleaseError(f"{folder.name}: {error}") from None
    if forest.feature_names != NAMES:
        raise ReleaseError(f"{folder.name}: the members were trained on other features than the manifest says")
    return Release(
        folder=folder,
        name=manifest["name"],
        version=manifest["version"],
        created=manifest["created"],
        targets=tuple(manifest["targets"]),
        instruction_sets=frozenset(map(tuple, manifest["instruction_sets"])),
        ranges={name: (low, high) for name, (low, high) in manifest["ranges"].items()},
        data_hash=manifest["data_hash"],
        fingerprint=manifest["fingerprint"],
        tvm=manifest["tvm"],
        metrics=manifest["metrics"],
        thresholds=Thresholds(**manifest["thresholds"]),
        prior=manifest["prior"],
        extra=manifest["extra"],
        forest=forest,
    )


def write(
    folder: Path,
    boosters: Sequence[str],
    *,
    name: str,
    version: str,
    ranges: Mapping[str, tuple[float, float]],
    data_hash: str,
    fingerprint: str,
    metrics: Mapping[str, Any],
    targets: Iterable[str],
    thresholds: Mapping[str, float],
    prior: float,
    card: str,
    extra: Mapping[str, Any],
) -> None:
    """Make the folder of a model, all of it or nothing; ``load`` has read it back by then.

    ``boosters``: LightGBM text models over the features ``NAMES``.  ``ranges``: least and largest value of each feature
    in the training data.  ``targets``: names as ``selector.target.resolve`` takes them.  ``thresholds``: fields of
    Thresholds.  ``prior``: share of the roofline's answer that the boosters start from.  ``metrics`` and ``extra``:
    anything that JSON holds.

    Raises ReleaseError where the folder exists or the parts do not fit together.
    """
    if folder.exists():
        raise ReleaseError(f"{folder} exists: a released model does not change, choose another name")
    if set(ranges) != set(NAMES):
        odd = sorted(set(ranges) ^ set(NAMES))
        raise ReleaseError(f"ranges must be given for every feature and no others, differing in {', '.join(odd)}")
    if not all(low <= high for low, high in ranges.values()):
        raise ReleaseError("a range has to be a least and a largest value")
    unknown = sorted(set(thresholds) - set(Thresholds.__dataclass_fields__))
    if unknown:
        raise ReleaseError(
            f"unknown thresholds {', '.join(unknown)}: there are {', '.join(Thresholds.__dataclass_fields__)}"
        )
    targets = sorted(set(targets))
    files = {f"model-{number}.txt": text.encode() for number, text in enumerate(boosters)}
    members = list(files)
    files[_CARD] = card.encode()
    manifest: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "targets": targets,
        "instruction_sets": sorted({instruction_set(profile(target)) for target in targets}),
        "features": {"version": TABLE_VERSION, "names": list(NAMES)},
        "ranges": {feature: [float(low), float(high)] for feature, (low, high) in ranges.items()},
        "data_hash": data_hash,
        "fingerprint": fingerprint,
        "tvm": tvm.__version__,
        "metrics": dict(metrics),
        "thresholds": {key: float(value) for key, value in thresholds.items()},
        "prior": float(prior),
        "extra": dict(extra),
        "members": members,
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    }
    manifest["digest"] = _digest(manifest)
    files[_MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for file, content in files.items():
            (temporary / file).write_bytes(content)
        load(temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _digest(manifest: Mapping[str, Any]) -> str:
    """Checksum of the manifest without this very entry."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise ReleaseError(f"{folder.name}: the manifest names {name!r}, which is not in the folder")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise ReleaseError(f"{folder.name}: cannot read {name}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ReleaseError(f"{folder.name}: {name} is not the file that was released: its checksum differs")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ReleaseError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ReleaseError(f"{path} is not valid JSON") from None
    if not isinstance(values, dict):
        raise ReleaseError(f"{path} has to be a JSON object")
    return values
