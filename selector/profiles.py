"""Stored target profiles: what a CPU can do, in a JSON file each.

The user's own lie in ``targets`` under ``selector.data.cache_folder()`` and come first; those that come with Selector
lie in ``datasets/targets``, whose README describes the format.
"""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from selector import data, schema
from selector.schema import Count, Natural, Positive, SchemaError, Word

SCHEMA_VERSION = 1

RateKind: TypeAlias = Literal["measured", "modelled", "written"]

# LLVM features that decide which kernels a CPU can execute; others of a target, such as tuning flags, do not matter.
INSTRUCTION_SETS = frozenset(
    "sse2 ssse3 sse4.1 avx avx2 fma avx512f avx512bw avx512vl avx512vnni avxvnni neon dotprod i8mm sve".split()
)


class ProfileError(ValueError):
    """A stored profile cannot be used; the message says which and why."""


class ProfileWarning(UserWarning):
    """A stored profile was left out, for the reason given."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a CPU computes and moves data; of one core unless it says otherwise."""

    kind: RateKind  # measured on the CPU itself, by LLVM's scheduling model, written by hand
    source: str  # where the figures come from: the CPU they were measured on, or the specification
    dots: tuple[tuple[str, Positive], ...]  # name of a dot row -> 10^9 multiply-accumulates a second, registers only
    l1_gbs: Positive  # streaming reads from a buffer that fits this level, 10^9 bytes a second
    l2_gbs: Positive
    l3_gbs: Positive  # that of memory where there is no such level
    dram_gbs: Positive
    dram_all_gbs: Positive  # all cores together
    loops: tuple[tuple[str, Positive], ...] = ()  # the same for the inner loop of a 1×1 convolution, data in L1

    def dot(self, name: str) -> float | None:
        """Rate of a dot row; None: not known."""
        return dict(self.dots).get(name)

    def loop(self, name: str) -> float | None:
        """Rate of the inner loop that uses a dot row; None: not known."""
        return dict(self.loops).get(name)


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """One CPU as its file describes it."""

    name: Word  # LLVM cpu name, and the name of the file
    arch: str  # "x86_64", "aarch64", or the first part of the triple
    features: frozenset[str] = field(repr=False)  # LLVM feature names
    vector_bits: Count
    cores: Count
    l1_bytes: Count  # data cache of one core
    l2_bytes: Count  # per core
    l3_bytes: Natural  # shared; 0: none
    rates: Rates
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d\Z")]  # YYYY-MM-DD
    note: str = ""  # how the figures were obtained

    def matches(self, name: str, features: frozenset[str]) -> bool:
        """Whether it describes the CPU of this name with these LLVM features, as far as the kernels can tell."""
        return name == self.name and features & INSTRUCTION_SETS == self.features & INSTRUCTION_SETS

    def is_measured_on(self, model: str) -> bool:
        """Whether the CPU of this model name measured it."""
        return self.rates.kind == "measured" and self.rates.source == model

    def to_dict(self) -> dict[str, Any]:
        """Plain values as the file has them; ``from_dict`` is the way back."""
        rates = asdict(self.rates) | {"dots": dict(self.rates.dots), "loops": dict(self.rates.loops)}
        values = asdict(self) | {"features": sorted(self.features), "rates": rates}
        return {"schema_version": SCHEMA_VERSION} | values

    @staticmethod
    def from_dict(values: object) -> StoredProfile:
        """The checked profile.  Raises ProfileError with what was wanted and where."""
        if not isinstance(values, dict):
            raise ProfileError(f"wanted a JSON object, got {type(values).__name__}")
        version, table = values.get("schema_version"), {**values}
        table.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise ProfileError(f"schema_version must be {SCHEMA_VERSION}, got {version!r:.40}")
        if isinstance(table.get("rates"), dict):
            table["rates"] = {
                name: list(rate.items()) if isinstance(rate, dict) else rate for name, rate in table["rates"].items()
            }
        try:
            return schema.build(StoredProfile, table)
        except SchemaError as error:
            raise ProfileError(str(error)) from None


def find(name: str, features: frozenset[str], measured_on: str | None = None) -> StoredProfile | None:
    """The stored profile of a CPU, the user's first; None where there is none.

    ``measured_on``: model name of a CPU whose measurements of the target come before others of the same folder: those
    of further CPUs lie in folders of their own, named after them.

    Files are read once for as long as they do not change; one that cannot be used is left out with a ProfileWarning.
    """
    if not _is_file_name(name):
        return None
    for folder in _folders():
        usual = _stored(folder / f"{name}.json", features)
        if measured_on is not None and (usual is None or not usual.is_measured_on(measured_on)):
            others = (_stored(path, features) for path in sorted(folder.glob(f"*/{name}.json")))
            usual = next((other for other in others if other is not None and other.is_measured_on(measured_on)), usual)
        if usual is not None:
            return usual
    return None


def of_cpu(model: str) -> StoredProfile | None:
    """A stored profile, of any target, that was measured on the CPU of this model name; None: there is none."""
    found = (profile for _, profile in scan() if isinstance(profile, StoredProfile))
    return next((profile for profile in found if profile.is_measured_on(model)), None)


def scan() -> Iterator[tuple[Path, StoredProfile | ProfileError]]:
    """Every file of every folder with its profile, or with what is wrong with it; the user's first, by name."""
    for folder in _folders():
        for path in sorted(folder.glob("*.json")):
            try:
                yield path, read(path)
            except ProfileError as error:
                yield path, error


def read(path: Path) -> StoredProfile:
    """The profile in a file.  Raises ProfileError, with the path, if it cannot be read or is none."""
    try:
        found = StoredProfile.from_dict(schema.decode(schema.read(path)))
    except OSError as error:
        raise ProfileError(f"cannot read the target profile {path}: {error.strerror}") from None
    except ValueError as error:  # SchemaError, ProfileError
        raise ProfileError(f"{path} is not a target profile: {error}") from None
    if found.name != path.stem:
        raise ProfileError(f"{path} is not a target profile: it describes '{found.name}', so name it {found.name}.json")
    return found


def modelled_folder() -> Path:
    """Where the modelled profiles of measured targets lie: ``find`` does not look there."""
    return data.folder("targets") / "modelled"


def write(profile: StoredProfile, folder: Path | None = None) -> Path:
    """Store a profile (None: among the user's own) in place of one of the same name; returns its path.

    Raises ProfileError if the folder cannot be written.
    """
    folder = folder or _folders()[0]
    path = folder / f"{profile.name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(profile.to_dict(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ProfileError(f"cannot write the target profile {path}: {error.strerror}") from None
    return path


def three_digits(rate: float) -> float:
    """A rate as it is stored: further digits would be noise of a measurement, and more than a model knows."""
    return float(f"{rate:.3g}")


def _folders() -> tuple[Path, Path]:
    return data.cache_folder() / "targets", data.folder("targets")


def _stored(path: Path, features: frozenset[str]) -> StoredProfile | None:
    """The profile in a file, if there is one that can be used and is of a target with these features."""
    try:
        status = path.stat()
    except OSError:
        return None
    found = _load(str(path), status.st_mtime_ns, status.st_size)
    return found if found is not None and found.matches(path.stem, features) else None


@functools.lru_cache(maxsize=64)
def _load(path: str, _modified: int, _size: int) -> StoredProfile | None:
    try:
        return read(Path(path))
    except ProfileError as error:
        warnings.warn(f"{error}; it is left out", ProfileWarning, stacklevel=5)
        return None


def _is_file_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name) is not None
