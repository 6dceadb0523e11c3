"""Released models: folders that the compiler loads, and that can refuse to load.

    models/<name>/trees.txt       the boosted trees, a LightGBM text model
    models/<name>/manifest.json   what they were trained on, how far they are followed, checksums of every file
    models/<name>/README.md       model card

A model whose features mean something else now, or one of whose bytes changed, does not load.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import tvm

from selector import data
from selector.features import FEATURE_VERSION, NAMES
from selector.lowering.version import KERNEL_VERSION
from selector.policy.forest import Forest, ForestError
from selector.policy.model import BOUNDED, Intervals, Model

SCHEMA_VERSION = 3
ENVIRONMENT = "SELECTOR_MODEL"  # a folder that takes the place of the champion
_TREES, _MANIFEST, _CARD, _CHAMPION = "trees.txt", "manifest.json", "README.md", "champion.json"
_RETRAIN = "`selector train` makes a model for this version"


class ReleaseError(ValueError):
    """The folder holds no model that this version can use; the message says why and what to do."""


@dataclass(frozen=True)
class Release:
    """A model that was checked and loaded, and where it comes from."""

    folder: Path
    name: str
    version: str
    created: str  # UTC, ISO 8601
    targets: tuple[str, ...]  # that it was trained on
    data_hash: str
    kernels: int  # number of the kernels that were measured
    tvm: str
    metrics: Mapping[str, Any]
    extra: Mapping[str, Any]
    model: Model = field(repr=False)

    @property
    def stale(self) -> str | None:
        """Why its predictions may be out of date: the kernels are not those that were measured.  None: they are."""
        if self.kernels == KERNEL_VERSION:
            return None
        return (
            f"the model {self.name} {self.version} was trained on kernels {self.kernels}, these are {KERNEL_VERSION}: "
            "`selector collect` and `selector train` bring it up to date"
        )

    def trees(self) -> str:
        """The trees as LightGBM's text model."""
        return (self.folder / _TREES).read_text()


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
    if manifest["features"] != {"version": FEATURE_VERSION, "names": list(NAMES)}:
        raise ReleaseError(
            f"{folder.name}: made for features {manifest['features'].get('version')}, not {FEATURE_VERSION}; {_RETRAIN}"
        )
    contents = {name: _read(folder, name, digest) for name, digest in manifest["files"].items()}
    try:
        forest = Forest.parse(contents[_TREES].decode())
    except ForestError as error:
        raise ReleaseError(f"{folder.name}: {error}") from None
    if forest.feature_names != NAMES:
        raise ReleaseError(f"{folder.name}: the trees were trained on other features than the manifest says")
    return Release(
        folder=folder,
        name=manifest["name"],
        version=manifest["version"],
        created=manifest["created"],
        targets=tuple(manifest["targets"]),
        data_hash=manifest["data_hash"],
        kernels=manifest["kernels"],
        tvm=manifest["tvm"],
        metrics=manifest["metrics"],
        extra=manifest["extra"],
        model=_model(manifest["model"], forest),
    )


def write(
    folder: Path,
    trees: str,
    model: Model,
    *,
    name: str,
    version: str,
    data_hash: str,
    metrics: Mapping[str, Any],
    targets: Iterable[str],
    card: str,
    extra: Mapping[str, Any],
    kernels: int = KERNEL_VERSION,
) -> None:
    """Make the folder of a model, all of it or nothing; ``load`` has read it back by then.

    ``trees``: the LightGBM text model that ``model`` was parsed from.  ``targets``: names as
    ``selector.target.resolve`` takes them.  ``metrics`` and ``extra``: anything that JSON holds.

    Raises ReleaseError where the folder exists or the parts do not fit together.
    """
    if folder.exists():
        raise ReleaseError(f"{folder} exists: a released model does not change, choose another name")
    if set(model.ranges) != set(BOUNDED):
        odd = sorted(set(model.ranges) ^ set(BOUNDED))
        raise ReleaseError(f"ranges must be given for bounded features and no others, differing in {', '.join(odd)}")
    if not all(low <= high for low, high in model.ranges.values()):
        raise ReleaseError("a range has to be a least and a largest value")
    files = {_TREES: trees.encode(), _CARD: card.encode()}
    manifest: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "targets": sorted(set(targets)),
        "features": {"version": FEATURE_VERSION, "names": list(NAMES)},
        "model": {
            "prior": model.prior,
            "trust": dict(sorted(model.trust.items())),
            "dots": sorted(model.dots),
            "cpus": sorted(model.cpus),
            "ranges": {feature: list(model.ranges[feature]) for feature in BOUNDED},
            "intervals": {
                name: None if item is None else asdict(item)
                for name, item in (("known", model.known), ("unknown", model.unknown))
            },
        },
        "data_hash": data_hash,
        "kernels": kernels,
        "tvm": tvm.__version__,
        "metrics": dict(metrics),
        "extra": dict(extra),
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


def _model(values: Mapping[str, Any], forest: Forest) -> Model:
    """The model of a manifest's entry ``model``."""
    intervals = {
        name: None if item is None else Intervals(**{key: tuple(numbers) for key, numbers in item.items()})
        for name, item in values["intervals"].items()
    }
    return Model(
        forest=forest,
        prior=values["prior"],
        dots=frozenset(values["dots"]),
        cpus=frozenset(values["cpus"]),
        ranges={name: (low, high) for name, (low, high) in values["ranges"].items()},
        trust=dict(values["trust"]),
        **intervals,
    )


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
