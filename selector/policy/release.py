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
from typing import Annotated, Any, Literal, TypeVar

import tvm
from msgspec import Meta

from selector import data, schema
from selector.features import FEATURE_VERSION, NAMES
from selector.lowering.version import KERNEL_VERSION
from selector.policy.forest import Forest
from selector.policy.model import BOUNDED, Intervals, Model
from selector.schema import Natural, SchemaError, Share, Word

SCHEMA_VERSION = 3
ENVIRONMENT = "SELECTOR_MODEL"  # a folder that takes the place of the champion
_TREES, _MANIFEST, _CARD, _CHAMPION = "trees.txt", "manifest.json", "README.md", "champion.json"
_TREES_BYTES = 8 << 20  # at most: those of a released model have 2 MB
_T = TypeVar("_T")
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


@dataclass(frozen=True, slots=True)
class _Champion:
    """``champion.json``."""

    model: Word  # the folder beside it


@dataclass(frozen=True, slots=True)
class _Version:
    """What says whether the rest of a manifest can be read."""

    schema: Natural


@dataclass(frozen=True, slots=True)
class _Features:
    """The features of a manifest."""

    version: Natural
    names: tuple[str, ...]


_Bound = Annotated[float, Meta(ge=-1e9, le=1e9)]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model without its trees; fields as in ``Model``."""

    prior: Share
    trust: dict[str, Share]
    dots: frozenset[str]
    cpus: frozenset[str]
    ranges: dict[str, tuple[_Bound, _Bound]]
    intervals: dict[Literal["known", "unknown"], Intervals | None]

    def __post_init__(self) -> None:
        if self.ranges.keys() != set(BOUNDED):
            odd = ", ".join(sorted(self.ranges.keys() ^ set(BOUNDED)))
            raise ValueError(f"ranges must be given for bounded features and no others, differing in {odd:.200}")
        if not all(low <= high for low, high in self.ranges.values()):
            raise ValueError("a range has to be a least and a largest value")


@dataclass(frozen=True, slots=True)
class _Manifest:
    """``manifest.json``; fields as in ``Release``."""

    name: Word
    version: Word
    created: str
    targets: tuple[str, ...]
    features: _Features
    model: _Model
    data_hash: str
    kernels: Natural
    tvm: str
    metrics: dict[str, Any]
    extra: dict[str, Any]
    files: dict[str, str]  # SHA-256 of each

    def __post_init__(self) -> None:
        if self.files.keys() != {_TREES, _CARD}:
            raise ValueError(f"files have to be {_TREES} and {_CARD}")


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
        try:
            return models / schema.build(_Champion, _read_json(pointer), closed=False).model
        except SchemaError:
            raise ReleaseError(f"{pointer} has to name a folder beside it under 'model'") from None
    found = sorted(path.parent for path in models.glob(f"*/{_MANIFEST}"))
    if len(found) != 1:
        count = "no model is released" if not found else f"{len(found)} models are released and none is the champion"
        raise ReleaseError(f"{count}: `selector models` shows and promotes them")
    return found[0]


def load(folder: Path) -> Release:
    """The model in a folder.  Raises ReleaseError, and nothing else, if it is damaged, or made for other features."""
    if not os.path.isdir(folder):  # that of Path raises where a name is too long
        raise ReleaseError(f"there is no model in {folder}: no such folder")
    path = folder / _MANIFEST
    values = _read_json(path)
    version = _build(path, _Version, values).schema
    if version != SCHEMA_VERSION:
        raise ReleaseError(f"{folder.name}: schema {version} is unknown, this version reads {SCHEMA_VERSION}")
    if values.get("digest") != _digest(values):
        raise ReleaseError(f"{folder.name}: {_MANIFEST} was changed since it was written")
    features = _build(path, _Features, values.get("features"))
    if (features.version, features.names) != (FEATURE_VERSION, NAMES):
        raise ReleaseError(f"{folder.name}: made for features {features.version}, not {FEATURE_VERSION}; {_RETRAIN}")
    manifest = _build(path, _Manifest, values)
    contents = {name: _read(folder, name, digest) for name, digest in manifest.files.items()}
    try:
        forest = Forest.parse(contents[_TREES].decode())
    except ValueError as error:  # ForestError, Unicode
        raise ReleaseError(f"{folder.name}: {_TREES}: {error}") from None
    if forest.feature_names != NAMES:
        raise ReleaseError(f"{folder.name}: the trees were trained on other features than the manifest says")
    given = manifest.model
    return Release(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        created=manifest.created,
        targets=manifest.targets,
        data_hash=manifest.data_hash,
        kernels=manifest.kernels,
        tvm=manifest.tvm,
        metrics=manifest.metrics,
        extra=manifest.extra,
        model=Model(forest, given.prior, given.dots, given.cpus, given.ranges, given.trust, **given.intervals),
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
            "ranges": {feature: list(ends) for feature, ends in model.ranges.items()},
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


def _digest(manifest: Mapping[str, Any]) -> str:
    """Checksum of the manifest without this very entry."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    try:
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise ReleaseError(f"{_MANIFEST} is nested too deeply") from None


def _read(folder: Path, name: str, digest: str) -> bytes:
    content = _content(folder / name, _TREES_BYTES)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ReleaseError(f"{folder.name}: {name} is not the file that was released: its checksum differs")
    return content


def _content(path: Path, most: int = schema.BYTES) -> bytes:
    try:
        return schema.read(path, most)
    except OSError as error:
        raise ReleaseError(f"cannot read {path}: {error.strerror}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = schema.decode(_content(path))
    except SchemaError as error:
        raise ReleaseError(f"{path} is {error}") from None
    if not isinstance(values, dict):
        raise ReleaseError(f"{path} has to be a JSON object")
    return values


def _build(path: Path, kind: type[_T], values: object) -> _T:
    try:
        return schema.build(kind, values, closed=False)
    except SchemaError as error:
        raise ReleaseError(f"cannot use {path}: {error}") from None
