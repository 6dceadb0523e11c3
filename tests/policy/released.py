"""A small released model, trained on the analytic model's own answers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from selector import features
from selector.lowering.fingerprint import kernel_fingerprint
from selector.policy import release
from selector.target import profile
from selector.workload import ConvWorkload

TARGETS = ("x86-64-v2", "x86-64-v3")


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
def boosters() -> tuple[str, ...]:
    """Three members of an ensemble that follows the roofline."""
    x = training_features()
    y = x[:, features.NAMES.index("ratio_time")] + 0.1 * x[:, features.NAMES.index("out_channels")] - 0.6
    options = {"objective": "regression", "verbose": -1, "num_threads": 1, "num_leaves": 15, "min_data_in_leaf": 5}
    options |= {"bagging_fraction": 0.7, "bagging_freq": 1}
    return tuple(
        lightgbm.train(
            options | {"seed": seed}, lightgbm.Dataset(x, y, feature_name=list(features.NAMES)), num_boost_round=40
        ).model_to_string()
        for seed in range(3)
    )


def write(folder: Path, **changes: Any) -> Path:
    """A release folder; ``changes`` replace arguments of ``selector.policy.release.write``."""
    x = training_features()
    ranges: Mapping[str, tuple[float, float]] = dict(
        zip(features.NAMES, zip(x.min(axis=0).tolist(), x.max(axis=0).tolist(), strict=True), strict=True)
    )
    arguments: dict[str, Any] = {
        "boosters": boosters(),
        "name": "test",
        "version": "3",
        "ranges": ranges,
        "data_hash": "0123456789abcdef",
        "fingerprint": kernel_fingerprint(),
        "metrics": {"mean": 0.98},
        "targets": TARGETS,
        "thresholds": {"band": 0.0, "spread": 0.0},
        "prior": 0.0,
        "card": "# A model for tests\n",
        "extra": {"rows": len(x)},
    }
    release.write(folder, **(arguments | changes))
    return folder
