"""Whether a released model follows from its measurements: it is trained again, and what comes out is compared."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selector.learn import baselines, model, pipeline
from selector.learn import recipe as recipes
from selector.learn.dataset import Dataset
from selector.learn.model import Fitted
from selector.learn.recipe import Boosting, Recipe
from selector.policy.learned import Learned, ModelWarning
from selector.policy.release import Release, ReleaseError

SLICE = 20  # the fast version looks at one shape in so many


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A released model beside the one that the same recipe makes of a data set."""

    rows: int
    digest: str  # of the data set
    released_digest: str  # of the one that the release was made of
    same_trees: bool  # byte for byte
    same_decisions: int  # rows for which policy `learned` takes the same lowering

    @property
    def reproduced(self) -> bool:
        """Whether every decision is the same."""
        return self.same_decisions == self.rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"reproduced": self.reproduced}


def reproduce(released: Release, dataset: Dataset, *, tune: bool = True) -> Reproduction:
    """Train by the recipe in the release.  Without ``tune``, by the hyper-parameters that its search has found.

    Features of the targets are those of today's profiles in ``datasets/targets``, and of this machine (caches, cores)
    where these are not of the CPU that measured: where they changed, so do the trees.  Raises ReleaseError where the
    release has no recipe that this version reads, DatasetError for too few shapes.
    """
    recipe, found = _recipe(released)
    again = pipeline.fit(dataset, recipe, model.tune(dataset, recipe) if tune else found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)  # kernels that changed since change no decision
        theirs = baselines.choices(Learned(released.folder), dataset)
    ours = dataset.judge(again.model).int16
    return Reproduction(
        rows=len(dataset),
        digest=dataset.digest,
        released_digest=released.data_hash,
        same_trees=released.trees() == again.trees,
        same_decisions=int(np.count_nonzero(ours == theirs)),
    )


def slice_facts(dataset: Dataset, recipe: Recipe, fitted: Fitted) -> dict[str, Any]:
    """What ``reproduce_slice`` compares with: of the slice, its digest, its own trees' and the model's choices."""
    part = _slice(dataset)
    trees = model.fit(part, recipe, fitted.boosting).trees
    return {"digest": part.digest, "trees": _digest(trees), "int16": _bits(part.judge(fitted.model).int16)}


def reproduce_slice(released: Release, dataset: Dataset) -> Reproduction:
    """The fast version: trees of a fixed slice of the shapes, and what the released model chooses there.

    Raises what ``reproduce`` raises.
    """
    recipe, found = _recipe(released)
    try:
        facts = released.extra["slice"]
        digest, trees, chosen = facts["digest"], facts["trees"], facts["int16"]
    except (KeyError, TypeError):
        raise ReleaseError(f"{released.name} says nothing of a slice: reproduce the whole model") from None
    part = _slice(dataset)
    now = _bits(part.judge(released.model).int16)
    return Reproduction(
        rows=len(part),
        digest=part.digest,
        released_digest=digest,
        same_trees=trees == _digest(model.fit(part, recipe, found).trees),
        same_decisions=sum(first == second for first, second in zip(now, chosen, strict=False)),
    )


def _slice(dataset: Dataset) -> Dataset:
    """The rows of one shape in SLICE, the same in every process: those whose names have the least hashes."""
    names = sorted(map(str, np.unique(dataset.shapes)), key=_digest)
    chosen = set(names[: math.ceil(len(names) / SLICE)])
    return dataset.take(np.flatnonzero([str(name) in chosen for name in dataset.shapes]))


def _recipe(released: Release) -> tuple[Recipe, Boosting]:
    """The recipe of a release and the hyper-parameters that were found by it."""
    try:
        values = released.extra["recipe"]
        return recipes.parse(values["name"], values), Boosting(**released.extra["boosting"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"{released.name} cannot be trained again: its manifest has no recipe that this version reads ({error!r})"
        ) from None


def _bits(int16: np.ndarray) -> str:
    return "".join("1" if chosen else "0" for chosen in int16)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
