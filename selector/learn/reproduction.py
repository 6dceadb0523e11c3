"""Whether a released model follows from its measurements: it is trained again, and what comes out is compared."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selector.learn import baselines, fallback, model
from selector.learn import recipe as recipes
from selector.learn.dataset import Dataset
from selector.learn.recipe import Boosting
from selector.policy.learned import Learned, ModelWarning
from selector.policy.release import Release, ReleaseError


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
    try:
        values = released.extra["recipe"]
        recipe = recipes.parse(values["name"], values)
        found = Boosting(**released.extra["boosting"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"{released.name} cannot be trained again: its manifest has no recipe that this version reads ({error!r})"
        ) from None
    again = model.fit(dataset, recipe, model.tune(dataset, recipe) if tune else found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)  # kernels that changed since change no decision
        theirs = baselines.choices(Learned(released.folder), dataset)
    ours = fallback.shipped(again, dataset, dataset, recipe.thresholds)
    return Reproduction(
        rows=len(dataset),
        digest=dataset.digest,
        released_digest=released.data_hash,
        same_trees=released.texts() == again.texts(),
        same_decisions=int(np.count_nonzero(ours == theirs)),
    )
