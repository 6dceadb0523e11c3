"""Which rows are trained on and which are held out.  A shape is never on both sides, whatever its data types are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.collect.record import DatasetError
from selector.learn.dataset import Dataset

_NETWORK_BLOCKS = 3


@dataclass(frozen=True)
class Split:
    """Row indices of one fold."""

    name: str  # of what is held out
    train: np.ndarray
    test: np.ndarray
    block: str  # folds of a block share hyper-parameters, tuned on the rows that all of them train on


def by_shape(dataset: Dataset, folds: int, seed: int) -> list[Split]:
    """Folds of whole shapes: all their targets, threads, data types; kinds in equal shares as far as shapes allow.

    Raises DatasetError where there are fewer shapes than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    shapes = len(np.unique(dataset.shapes))
    if shapes < folds:
        raise DatasetError(f"{folds} folds need {folds} shapes or more, the measurements have {shapes}")
    # every kind with fewer rows than folds in one stratum: scikit-learn warns of such strata
    counts = {kind: int((dataset.kinds == kind).sum()) for kind in np.unique(dataset.kinds)}
    strata = np.array([kind if counts[kind] >= folds else "rare" for kind in dataset.kinds])
    if (strata == "rare").sum() < folds:
        strata[strata == "rare"] = max(counts, key=lambda kind: counts[kind])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = splitter.split(np.empty(len(dataset)), strata, dataset.shapes)
    return [Split(str(number), train, test, str(number)) for number, (train, test) in enumerate(parts)]


def by_network(dataset: Dataset) -> list[Split]:
    """One fold per published network: its rows are held out, and every row with a shape that occurs in it.

    Networks are many: they are tuned for in a few blocks, on rows without any of a block's networks.
    """
    splits = []
    for number, name in enumerate(sorted({name for names in dataset.networks for name in names})):
        test = np.array([name in names for names in dataset.networks])
        seen = np.isin(dataset.shapes, dataset.shapes[test])
        if not seen.all():
            splits.append(Split(name, np.flatnonzero(~seen), np.flatnonzero(test), str(number % _NETWORK_BLOCKS)))
    return splits


def by_target(dataset: Dataset) -> list[Split]:
    """One fold per target: an instruction set that training has not seen, on shapes and mostly on CPUs that it has."""
    sets = dataset.instruction_sets()
    splits = []
    for name, instructions in sets.items():
        test = np.flatnonzero(dataset.targets == name)
        train = np.flatnonzero([sets[str(target)] != instructions for target in dataset.targets])
        if len(train):
            splits.append(Split(name, train, test, name))
    return splits


def by_cpu(dataset: Dataset) -> list[Split]:
    """One fold per CPU: all rows that it measured, under every target; none where all rows are of one CPU.

    This alone says how a model does on a CPU that nobody measured: other folds leave rows of the same CPU in training.
    """
    names = np.unique(dataset.cpus) if len(np.unique(dataset.cpus)) > 1 else ()
    parts = [(str(name), dataset.cpus == name) for name in names]
    return [Split(name, np.flatnonzero(~test), np.flatnonzero(test), name) for name, test in parts]


def blocks(splits: Sequence[Split]) -> dict[str, np.ndarray]:
    """Rows that every fold of a block trains on: hyper-parameters tuned there have seen none of its held-out rows."""
    rows: dict[str, np.ndarray] = {}
    for split in splits:
        rows[split.block] = np.intersect1d(rows.get(split.block, split.train), split.train)
    return rows
