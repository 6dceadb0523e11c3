"""TVM's tuner as a peer: what it is given to schedule is the convolution, and what it finds still computes it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import tvm

from selector.lowering.reference import accumulate
from selector.metaschedule_peer import convolution, metaschedule, schedules
from selector.peers import PeerUnavailable
from selector.target import resolve
from selector.workload import ConvConstants, ConvWorkload

TUNING = os.environ.get("SELECTOR_TEST_TUNING") == "1"  # two minutes, and xgboost


def assert_computes(module: tvm.IRModule, work: ConvWorkload) -> None:
    """The compiled function gives the reference's sums."""
    rng = np.random.default_rng(0)
    data = rng.integers(-255, 256, (work.batch, work.in_height, work.in_width, work.in_channels)).astype(np.int16)
    shape = (work.out_channels, work.kernel_height, work.kernel_width, work.group_in_channels)
    weight = rng.integers(-255, 256, shape).astype(np.int16)
    expected = accumulate(work, ConvConstants(weight, np.zeros(work.out_channels, np.int32)), data)
    hwio = weight.transpose(1, 2, 3, 0)
    if work.group_in_channels == 1:
        hwio = hwio[:, :, 0]
    out = tvm.runtime.tensor(np.zeros(expected.shape, np.int32))
    function = tvm.compile(module, target=resolve("native"))["main"]
    function(tvm.runtime.tensor(data), tvm.runtime.tensor(np.ascontiguousarray(hwio)), out)
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize(
    "work",
    [
        ConvWorkload(2, 6, 5, 8, 12, 3, 3, stride=(2, 1), padding=(1, 0, 1, 2)),
        ConvWorkload(1, 9, 8, 6, 4, 3, 2, dilation=(2, 3), groups=2),
        ConvWorkload(1, 6, 5, 8, 16, 3, 3, padding=(1, 1, 1, 1), groups=8),
        ConvWorkload(1, 4, 4, 8, 12, 1, 1),
    ],
    ids=["padded", "grouped", "depthwise", "1x1"],
)
def test_what_is_tuned_is_the_convolution(work: ConvWorkload) -> None:
    assert_computes(convolution(work), work)


def test_without_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PeerUnavailable, match="needs xgboost"):
        metaschedule(8)


@pytest.mark.skipif(not TUNING, reason="set SELECTOR_TEST_TUNING=1 to tune a convolution")
@pytest.mark.filterwarnings("default")
def test_tuned_schedules_compute_the_same(tmp_path: Path) -> None:
    work = ConvWorkload(1, 6, 5, 8, 12, 3, 3, padding=(1, 1, 1, 1))
    found = schedules(work, "native", 4, tmp_path)
    for module in found:
        assert_computes(module, work)
    records = (tmp_path / "database_tuning_record.json").read_bytes()
    assert len(schedules(work, "native", 4, tmp_path)) == len(found)
    assert (tmp_path / "database_tuning_record.json").read_bytes() == records  # nothing was tuned again
