"""A small released model, trained on the analytic model's own answers."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from selector import features
from selector.policy import release
from selector.policy.forest import Forest
from selector.policy.model import BOUNDED, Intervals, Model
from selector.target import profile
from selector.workload import ConvWorkload

TARGETS = ("x86-64-v2", "x86-64-v3")
INTERVALS = Intervals(at=(0.0, 1.0), nearer=(0.05, 0.1), further=(0.05, 0.2))


def training_workloads() -> list[ConvWorkload]:
    """Convolutions of a few kinds, from small to medium."""
    return [
        ConvWorkload(
            1, size, size, channels, channels if groups else 2 * channels, kernel, kernel,
            stride=(stride, stride), padding=(kernel // 2,) * 4, groups=channels if groups else 1,
            weight_bound=bound, pair_bound=2 * bound, quad_bound=4 * bound, channel_bound=1 << 16, term2=bound > 127,
        )
        for size in (7, 14, 28)
        for channels in (16, 64, 128)
        for kernel in (1, 3)
        for stride in (1, 2)
        for bound in (32, 64, 127, 128)
        for groups in (False, True)
        if kernel == 3 or not groups
    ]  # fmt: skip


@functools.cache
def training_features() -> np.ndarray:
    """Features of the workloads on both targets."""
    return np.concatenate([features.matrix(training_workloads(), profile(target)) for target in TARGETS])


@functools.cache
def trees() -> str:
    """Trees that follow the roofline."""
    x = training_features()
    y = x[:, features.RATIO] + 0.1 * x[:, features.NAMES.index("macs")] - 2
    options = {"objective": "regression", "verbose": -1, "num_threads": 1, "num_leaves": 15, "min_data_in_leaf": 5}
    data = lightgbm.Dataset(x, y, feature_name=list(features.NAMES))
    return lightgbm.train(options, data, num_boost_round=40).model_to_string()


@functools.cache
def model() -> Model:
    """The model of ``trees``, for the CPUs whose profiles the targets have."""
    described = [(features.describe(training_workloads(), profile(target)), profile(target)) for target in TARGETS]
    x = training_features()
    columns = {name: x[:, features.NAMES.index(name)] for name in BOUNDED}
    return Model(
        forest=Forest.parse(trees()),
        prior=0.0,
        dots=frozenset(name for layers, _ in described for pair in layers.dots for name in pair),
        cpus=frozenset(target.rates.source for _, target in described if target.rates),
        ranges={name: (float(column.min()), float(column.max())) for name, column in columns.items()},
        trust={},
        known=INTERVALS,
        unknown=INTERVALS,
    )


def write(folder: Path, *, text: str | None = None, **changes: Any) -> Path:
    """A release folder of these trees (None: ``trees``).

    ``changes`` are fields of the model, or arguments of ``selector.policy.release.write``.
    """
    fields = {name: changes.pop(name) for name in Model.__dataclass_fields__ if name in changes}
    arguments: dict[str, Any] = {
        "name": "test",
        "version": "3",
        "data_hash": "0123456789abcdef",
        "metrics": {"mean": 0.98},
        "targets": TARGETS,
        "card": "# A model for tests\n",
        "extra": {"rows": len(training_features())},
    }
    release.write(folder, trees() if text is None else text, replace(model(), **fields), **(arguments | changes))
    return folder
