"""Measurements as a training set: labels, certainty, features and the groups that splits keep together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selector import profiles
from selector.collect import table
from selector.collect.pairs import pairs
from selector.collect.record import DatasetError
from selector.features import TABLE, Layers, describe
from selector.lowering import dot
from selector.policy.model import Judgement, Model
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
    """One row for each pair of ``selector.collect.pairs``, in its order.

    Arrays have one element (``features``: one row) for each.
    """

    workloads: tuple[ConvWorkload, ...]
    targets: np.ndarray  # str, as named when measured
    cpus: np.ndarray  # str, model name of the CPU that measured
    log2_ratio: np.ndarray  # float64, log2(t_int16 / t_int8): above 0 int8 is faster
    width: np.ndarray  # float64, of the 95 % confidence interval of log2_ratio
    int8_us: np.ndarray  # float64, microseconds of one call
    networks: tuple[frozenset[str], ...]  # published networks that the workload occurs in
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
    def layers(self) -> Layers:
        """What policies know of each row, all of them as workloads of their own."""
        x, seconds = np.empty((len(self), len(TABLE))), np.empty((len(self), 2))
        names: list[tuple[tuple[str, str], str]] = [(("", ""), "")] * len(self)
        for rows, known in self.by_profile():
            found = describe([self.workloads[row] for row in rows], known)
            which = list(found.row_of)
            x[rows], seconds[rows] = found.x[which], found.seconds[which]
            for row, place in zip(rows, which, strict=True):
                names[row] = found.dots[place], found.forms[place]
        dots, forms = (tuple(column) for column in zip(*names, strict=True))
        return Layers(x, seconds, dots, forms, tuple(range(len(self))))

    @property
    def features(self) -> np.ndarray:
        """(rows, features) float64, columns as in ``selector.features.TABLE``."""
        return self.layers.x

    def judge(self, model: Model) -> Judgement:
        """What a model says of every row, as the compiler asks it."""
        parts = [(rows, model.judge(self.layers.take(rows), target)) for rows, target in self.by_profile()]
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        whole = Judgement.join([part for _, part in parts])
        return whole.take(order)

    def by_profile(self) -> Iterator[tuple[np.ndarray, TargetProfile]]:
        """Indices of the rows of each target and CPU, and what features and policies know of it."""
        for target, cpu in sorted(set(zip(self.targets.tolist(), self.cpus.tolist(), strict=True))):
            known = profile(target, measured_on=cpu)
            rows = np.flatnonzero((self.targets == target) & (self.cpus == cpu))
            yield rows, replace(known, rates=self.rates.get(target, known.rates))

    def instruction_sets(self) -> dict[str, frozenset[str]]:
        """Target -> names of the dot rows that its CPU has: targets may differ in name only."""
        return {str(name): _instruction_set(profile(str(name))) for name in np.unique(self.targets)}

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
            rates=self.rates,
        )
        if "layers" in self.__dict__:  # computed once, for all of its splits
            part.__dict__["layers"] = self.layers.take(rows)
        return part


def load(folders: Sequence[Path], *, rebuild: bool = False) -> Dataset:
    """The rows that count of all folders together, see ``selector.collect.pairs``.

    ``rebuild``: build kernels of some rows again, to be sure that the rows are of today's: a released model says so.
    The first folder is one's own; the rows of further ones are checked first, one by one: they may be of others.

    Raises DatasetError for a folder that is missing or has a row that is not sound, where no row counts, and where
    kernels came out differently.
    """
    import polars

    from selector.collect import check, store
    from selector.collect import rebuild as rebuilding

    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"no folder of measurements at {folder}: write one with `selector collect`")
    frames = [store.read(folders[0]), *(store.read(folder, examine=check.require_sound) for folder in folders[1:])]
    frame = polars.concat(frames, how="diagonal_relaxed")
    dataset = from_frame(frame)
    if not len(dataset):
        names = ", ".join(map(str, folders))
        raise DatasetError(f"no row of {names} counts: each failed, stayed noisy, was emulated or is of other kernels")
    if rebuild:
        rebuilding.require_todays(frame)
    return dataset


def from_frame(frame: polars.DataFrame) -> Dataset:
    """The training set of the columns that ``selector.collect.store.read`` gives."""
    merged = pairs(frame)
    rows = list(merged.iter_rows(named=True))
    return Dataset(
        workloads=tuple(map(table.workload, rows)),
        targets=merged["target"].to_numpy().astype(str),
        cpus=merged["cpu"].to_numpy().astype(str),
        log2_ratio=merged["log2_ratio"].to_numpy().astype(float),
        width=merged["width"].to_numpy().astype(float),
        int8_us=merged["int8_us"].to_numpy().astype(float),
        networks=tuple(frozenset(row["networks"] or ()) for row in rows),
    )


def _instruction_set(target: TargetProfile) -> frozenset[str]:
    return frozenset(row.name for row in (*dot.candidates(target, "int8"), *dot.candidates(target, "int16")))
