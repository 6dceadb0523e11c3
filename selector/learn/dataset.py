"""Measurements as a training set: labels, certainty, features and the groups that splits keep together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector import profiles
from selector.collect import table
from selector.collect.record import DatasetError
from selector.policy.release import instruction_set
from selector.profiles import ProfileError, Rates
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload

if TYPE_CHECKING:
    import polars

# What a convolution computes: rows that differ only in data types, weight facts, threads or target are one shape.
_SHAPE_FIELDS = (
    "batch in_height in_width in_channels out_channels kernel_height kernel_width stride padding dilation groups"
).split()


@dataclass(frozen=True)
class Dataset:
    """One row per workload, target and CPU, in the order of their keys; repetitions are merged.

    Arrays have one element (``features``: one row) for each.
    """

    workloads: tuple[ConvWorkload, ...]
    targets: np.ndarray  # str, as named when measured
    cpus: np.ndarray  # str, model name of the CPU that measured
    log2_ratio: np.ndarray  # float64, log2(t_int16 / t_int8): above 0 int8 is faster
    width: np.ndarray  # float64, of the 95 % confidence interval of log2_ratio
    int8_us: np.ndarray  # float64, microseconds of one call
    networks: tuple[frozenset[str], ...]  # published networks that the workload occurs in
    fingerprints: frozenset[str]  # of sources that make the kernels that were measured
    rates: Mapping[str, Rates] = field(default_factory=dict)  # of targets, instead of those that they have

    def __len__(self) -> int:
        return len(self.workloads)

    @cached_property
    def shapes(self) -> np.ndarray:
        """Identifier of the shape of each row, str."""
        return np.array([json.dumps([getattr(work, name) for name in _SHAPE_FIELDS]) for work in self.workloads])

    @cached_property
    def kinds(self) -> np.ndarray:
        """Kind of each row's workload, str."""
        return np.array([work.kind for work in self.workloads])

    @cached_property
    def threads(self) -> np.ndarray:
        """Threads of each row, int."""
        return np.array([work.threads for work in self.workloads])

    @cached_property
    def features(self) -> np.ndarray:
        """(rows, features) float64, columns as in ``selector.features.TABLE``."""
        from selector.features import TABLE, matrix

        values = np.empty((len(self), len(TABLE)))
        for rows, known in self.by_profile():
            values[rows] = matrix([self.workloads[row] for row in rows], known)
        return values

    def by_profile(self) -> Iterator[tuple[np.ndarray, TargetProfile]]:
        """Indices of the rows of each target and CPU, and what features and policies know of it."""
        for target, cpu in sorted(set(zip(self.targets.tolist(), self.cpus.tolist(), strict=True))):
            known = profile(target, measured_on=cpu)
            rows = np.flatnonzero((self.targets == target) & (self.cpus == cpu))
            yield rows, replace(known, rates=self.rates.get(target, known.rates))

    def instruction_sets(self) -> dict[str, tuple[str, ...]]:
        """Target -> its dot instructions: targets may differ in name only."""
        return {str(name): instruction_set(profile(str(name))) for name in np.unique(self.targets)}

    def with_profiles(self, folder: Path) -> Dataset:
        """The same rows, the rates of the targets that have a profile in the folder taken from there.

        Cores and caches stay as they are: those of the machine that measured.  Raises ProfileError where no target has
        one, and for one that cannot be read.
        """
        names = [str(name) for name in np.unique(self.targets)]
        paths = {name: folder / f"{name}.json" for name in names}
        rates = {name: profiles.read(path).rates for name, path in paths.items() if path.is_file()}
        if not rates:
            raise ProfileError(f"no profile of {', '.join(names)} in {folder}")
        return replace(self, rates=rates)

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all that training reads, apart from the features."""
        digest = hashlib.sha256()
        for index, work in enumerate(self.workloads):
            numbers = [float(column[index]) for column in (self.log2_ratio, self.width, self.int8_us)]
            row = [work.to_dict(), str(self.targets[index]), *numbers, sorted(self.networks[index])]
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def take(self, rows: np.ndarray) -> Dataset:
        """The rows with these indices."""
        part = Dataset(
            workloads=tuple(self.workloads[row] for row in rows),
            targets=self.targets[rows],
            cpus=self.cpus[rows],
            log2_ratio=self.log2_ratio[rows],
            width=self.width[rows],
            int8_us=self.int8_us[rows],
            networks=tuple(self.networks[row] for row in rows),
            fingerprints=self.fingerprints,
            rates=self.rates,
        )
        if "features" in self.__dict__:  # computed once, for all of its splits
            part.__dict__["features"] = self.features[rows]
        return part


def load(folders: Sequence[Path], *, rebuild: bool = False) -> Dataset:
    """The usable measurements of all folders together.

    ``rebuild``: build kernels of some rows again, where the sources changed since, to know whether the rows are of
    today's (``selector.collect.validate.described_by``); a released model says so.

    Rows that failed or were emulated are left out.  Raises DatasetError for a folder that is missing, and where no
    row is left.
    """
    import polars

    from selector.collect import store, validate

    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"no folder of measurements at {folder}: write one with `selector collect`")
    frame = polars.concat([store.read(folder) for folder in folders], how="diagonal_relaxed")
    dataset = from_frame(frame)
    if not len(dataset):
        names = ", ".join(map(str, folders))
        raise DatasetError(f"no usable measurement in {names}: rows must be measured without error and not emulated")
    if rebuild:
        dataset = replace(dataset, fingerprints=validate.described_by(frame.filter(~polars.col("emulated"))))
    return dataset


def from_frame(frame: polars.DataFrame) -> Dataset:
    """The training set of the columns that ``selector.collect.store.read`` gives."""
    import polars

    usable = frame.filter(
        (polars.col("status") != "error") & ~polars.col("emulated") & polars.col("log2_ratio").is_finite()
    )
    repetitions: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in usable.iter_rows(named=True):
        repetitions.setdefault((row["key"], row["cpu"]), []).append(row)
    rows = [_merge(repetitions[key]) for key in sorted(repetitions)]
    return Dataset(
        workloads=tuple(row["workload"] for row in rows),
        targets=np.array([row["target"] for row in rows], dtype=str),
        cpus=np.array([row["cpu"] for row in rows], dtype=str),
        log2_ratio=np.array([row["log2_ratio"] for row in rows], dtype=float),
        width=np.array([row["width"] for row in rows], dtype=float),
        int8_us=np.array([row["int8_us"] for row in rows], dtype=float),
        networks=tuple(row["networks"] for row in rows),
        fingerprints=frozenset(usable["fingerprint"].unique().to_list()),
    )


def _merge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Repetitions of one measurement as one: medians, and an interval at least as wide as their disagreement."""
    ratios = [row["log2_ratio"] for row in rows]
    width = float(np.median([row["log2_high"] - row["log2_low"] for row in rows]))
    if len(rows) > 1:
        width = max(width / len(rows) ** 0.5, max(ratios) - min(ratios))
    return {
        "workload": table.workload(rows[0]),
        "target": rows[0]["target"],
        "cpu": rows[0]["cpu"],
        "log2_ratio": float(np.median(ratios)),
        "width": width,
        "int8_us": float(np.median([np.median(row["int8_warm_us"]) for row in rows])),
        "networks": frozenset(name for row in rows for name in row["networks"] or ()),
    }
