"""Pieces of kernels on their own: preparing bands of data, interleaving rows, register tiles, kernel modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm

from selector.lowering import LOWERINGS, build, dot, pipeline
from selector.lowering.interleave import interleave
from selector.lowering.prepare import Band
from selector.lowering.register_tile import tile_shapes
from selector.lowering.tir import T, function, load, store
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import make_case

WORK = ConvWorkload(2, 7, 5, 3, 4, 3, 3, padding=(1, 2, 0, 1), data_zero_point=9)


def evaluate(body: Callable[..., None], data: np.ndarray, size: int, dtype: str) -> np.ndarray:
    """What ``body(data, out)`` writes."""
    func = function("f", [("data", data.size, str(data.dtype)), ("out", size, dtype)], body)
    executable = tvm.compile(tvm.IRModule({"f": func}), target=execute.cpu("native"))
    out = tvm.runtime.tensor(np.zeros(size, dtype))
    executable["f"](tvm.runtime.tensor(data.reshape(-1)), out)
    return out.numpy()


@pytest.mark.parametrize(
    ("work", "out_rows"),
    [
        (WORK, 2),
        (replace(WORK, padding=(0, 0, 0, 0)), 3),
        (replace(WORK, stride=(2, 2), dilation=(2, 1)), 1),
        (replace(WORK, kernel_height=1, kernel_width=1, stride=(3, 3), padding=(0, 0, 0, 0)), 2),
        (replace(WORK, kernel_height=1, stride=(2, 1), padding=(2, 0, 1, 0)), 4),
    ],
    ids=["padded", "bare", "strided", "pointwise", "row"],
)
@pytest.mark.parametrize(("dtype", "offset"), [("int16", -9), ("uint8", 0), ("int8", -128)])
def test_band_is_the_padded_input(work: ConvWorkload, out_rows: int, dtype: str, offset: int) -> None:
    data = make_case(work).data
    band = Band(work, out_rows, dtype, offset, 9 + offset)
    image, first_row = 1, min(1, work.out_height - out_rows)

    def body(source: Any, out: Any) -> None:
        band.emit(source, out, T.int32(image), T.int32(first_row), 32)

    found = evaluate(body, data, band.elements, dtype)
    top, left, bottom, right = work.padding
    padded = np.pad(
        data[image].astype(int) + offset, ((top, bottom), (left, right), (0, 0)), constant_values=9 + offset
    )
    step = work.stride[0] if work.kernel_height == 1 else 1
    start = first_row * work.stride[0]
    expected = padded[start::step][: band.rows]
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "lanes"), [("uint8", 32), ("uint8", 16), ("int16", 16), ("int16", 8), ("uint8", 8)])
def test_interleave(depth: int, dtype: str, lanes: int) -> None:
    data = np.arange(depth * lanes).astype(dtype)

    def body(source: Any, out: Any) -> None:
        rows = [load(source, d * lanes, lanes) for d in range(depth)]
        block = min(lanes, 16 // np.dtype(dtype).itemsize)
        for i, value in enumerate(interleave(rows, lanes, block)):
            store(out, i * lanes, value, lanes)

    found = evaluate(body, data, data.size, dtype)
    np.testing.assert_array_equal(found, data.reshape(depth, lanes).T.reshape(-1))


@pytest.mark.parametrize("target", execute.LEVELS)
@pytest.mark.parametrize("row", dot.DOTS, ids=lambda row: row.name)
def test_register_tiles_leave_room(row: dot.Dot, target: str) -> None:
    profile = execute.profile(target)
    shapes = tile_shapes(row, profile.vector_registers)
    assert shapes
    for pixels, vectors in shapes:
        if row.by_lane:
            working = vectors + pixels + row.temporaries  # weights of a group, data of all groups, a product
        else:
            working = (vectors + 1) * row.groups + row.ones + row.temporaries  # weights, data, the constant, products
        assert pixels * vectors + working <= profile.vector_registers


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_kernel_module(lowering: str) -> None:
    """A kernel's name says what it is, and it runs as a module of its own."""
    case = make_case(replace(WORK, out_dtype="uint8"))
    kernel = build(case.workload, case.constants, execute.profile("native"), lowering)
    assert kernel.name == f"qconv2d_first_{lowering}__{kernel.template}_{kernel.row}"
    assert f"{kernel.name}" in pipeline.compile_kernel(kernel, "native").mod.inspect_source()


def test_unknown_lowering() -> None:
    case = make_case(WORK)
    with pytest.raises(KeyError):
        build(case.workload, case.constants, execute.profile("native"), "int4")
