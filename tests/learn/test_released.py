"""The released model follows from the measurements in the repository: a slice of it, in seconds."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import pytest

from selector.learn import dataset, reproduction
from selector.policy import release

MEASUREMENTS = Path(__file__).parents[2] / "datasets/measurements"


@pytest.fixture(scope="module")
def reproduced() -> reproduction.Reproduction:
    return reproduction.reproduce_slice(release.load(release.champion()), dataset.load([MEASUREMENTS]))


def test_its_rows_and_choices(reproduced: reproduction.Reproduction) -> None:
    assert reproduced.digest == reproduced.released_digest
    assert reproduced.rows > 500
    assert reproduced.reproduced


def test_its_trees(reproduced: reproduction.Reproduction) -> None:
    made_with = release.load(release.champion()).extra["lightgbm"]
    if lightgbm.__version__ != made_with:
        pytest.skip(f"it was trained with LightGBM {made_with}; this is {lightgbm.__version__}, whose trees may differ")
    assert reproduced.same_trees
