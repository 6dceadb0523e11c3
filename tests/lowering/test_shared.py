"""Kernels of one layer on other images and batches, which read the same packed constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector.lowering import LOWERINGS, build
from selector.lowering.build import can_share
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import depthwise, make_case, workloads

SHARDS = 2
EXAMPLES = 6  # of a shard


def check(workload: ConvWorkload, like: ConvWorkload, number: int, target: str) -> None:
    """Kernels of ``workload`` with the constants of ``like`` are exact, and their constants are the same bytes."""
    case, other = make_case(workload, seed=number), make_case(like, seed=number)
    profile = execute.profile(target)
    kernels = [build(case.workload, case.constants, profile, name, other.workload) for name in LOWERINGS]
    if can_share(case.workload, other.workload):
        for name, kernel in zip(LOWERINGS, kernels, strict=True):
            theirs = build(other.workload, other.constants, profile, name)
            assert (kernel.template, kernel.row) == (theirs.template, theirs.row)
            for mine, packed in zip(kernel.constants, theirs.constants, strict=True):
                np.testing.assert_array_equal(mine, packed, strict=True)
    execute.check(kernels, case, target)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_other_images_and_batches(shard: int) -> None:
    @seed(shard)
    @settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate, Phase.shrink])
    @given(
        workload=workloads(),
        more=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)),
        grown=st.booleans(),
        target=st.sampled_from(execute.HERE),
    )
    def other_images(workload: ConvWorkload, more: tuple[int, int, int], grown: bool, target: str) -> None:
        batch, height, width = more
        larger = replace(
            workload,
            batch=workload.batch + batch,
            in_height=workload.in_height + height,
            in_width=workload.in_width + width,
        )
        check(*((larger, workload) if grown else (workload, larger)), shard, target)

    other_images()


def dense(rows: int, channels: int = 320, out_channels: int = 200) -> ConvWorkload:
    """A dense layer of so many rows."""
    return ConvWorkload(1, 1, rows, channels, out_channels, 1, 1, out_dtype="float32")


@pytest.mark.parametrize("target", execute.HERE)
def test_dense_layers_of_other_batches(target: str) -> None:
    for rows in (1, 4, 8):
        check(dense(rows), dense(1), 0, target)
        check(dense(1), dense(rows), 0, target)


def test_one_row_or_column_takes_another_scheme() -> None:
    image = ConvWorkload(1, 6, 6, 16, 16, 3, 3, padding=(1, 1, 1, 1))
    line = replace(image, in_height=1)
    assert can_share(image, replace(image, batch=4, in_height=9, in_width=3))
    assert can_share(replace(image, in_height=2), image)
    assert not can_share(image, line)
    assert not can_share(line, image)


def test_fewer_rows_than_a_depthwise_kernel_is_packed_for() -> None:
    image = depthwise(3)
    assert can_share(replace(image, in_height=4), image)
    assert can_share(image, replace(image, in_height=3))
    assert not can_share(replace(image, in_height=3), image)
