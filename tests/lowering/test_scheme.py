"""The integer transforms on numpy arrays: exact modulo 2^32, and within the int16 they are stored in."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from selector.lowering.scheme import F2, F4, F12, F14, F21, F24, F41, F42, SCHEMES, Scheme, schemes, transform_weights
from selector.workload import ConvWorkload

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)


def two_dimensional(scheme: Scheme, name: str, values: np.ndarray) -> np.ndarray:
    """The transform of each axis along that axis of (rows, columns, …)."""
    rows = np.stack(getattr(scheme.rows, name)(list(values)))
    return np.stack(getattr(scheme.columns, name)(list(rows.swapaxes(0, 1)))).swapaxes(0, 1)


def workload(kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> ConvWorkload:
    """A convolution of 16 channels and 8 by 8 outputs."""
    height, width = (7 * step + size for step, size in zip(stride, kernel, strict=True))
    return ConvWorkload(1, height, width, 16, 16, *kernel, stride=stride)


@every_scheme
def test_tile_is_exact(scheme: Scheme) -> None:
    rng = np.random.default_rng(scheme.points)
    rows, columns = scheme.rows, scheme.columns
    w = rng.integers(-255, 256, (rows.taps, columns.taps, 5), dtype=np.int64)
    d = rng.integers(-255, 256, (rows.points, columns.points, 5), dtype=np.int64)
    w[..., 0], d[..., 0] = 255, -255
    m = two_dimensional(scheme, "data", d) * two_dimensional(scheme, "weight", w)
    scaled = two_dimensional(scheme, "inverse", m.sum(axis=-1))
    wrapped = (scaled * scheme.odd_inverse).astype(np.uint32).view(np.int32)
    expected = sum(
        (d[i : i + rows.size, j : j + columns.size] * w[i, j]).sum(axis=-1)
        for i in range(rows.taps)
        for j in range(columns.taps)
    )
    assert np.abs(expected).max() < scheme.limit
    np.testing.assert_array_equal(wrapped >> scheme.shift, expected)


@every_scheme
def test_transforms_fit_int16(scheme: Scheme) -> None:
    rows, columns = scheme.rows, scheme.columns
    for name, shape in (("data", (rows.points, columns.points)), ("weight", (rows.taps, columns.taps))):
        unit = np.eye(math.prod(shape), dtype=np.int64).reshape(*shape, -1)
        growth = np.abs(two_dimensional(scheme, name, unit)).sum(axis=-1).max()
        assert growth * 255 < 1 << 15


@pytest.mark.parametrize("scheme", [F4, F42, F24, F2], ids=lambda scheme: scheme.name)
def test_weights_are_transformed_at_compile_time(scheme: Scheme) -> None:
    weight = np.random.default_rng(0).integers(-255, 256, (3, 3, 4, 6)).astype(np.int16)
    found = transform_weights(scheme, workload((3, 3)), weight, np.zeros_like(weight[0, 0]))
    expected = two_dimensional(scheme, "weight", weight.astype(np.int64))
    np.testing.assert_array_equal(found, expected.reshape(scheme.points, 4, 6))
    assert {values.dtype for values in found} == {np.dtype(np.int16)}


@pytest.mark.parametrize(
    ("kernel", "stride", "scheme", "products", "parts"),
    [
        ((3, 3), (1, 1), F4, 36, 1),
        ((5, 5), (1, 1), F4, 11 * 11, 4),
        ((3, 3), (2, 2), F4, 10 * 10, 4),
        ((2, 2), (1, 1), F4, 5 * 5, 1),
        ((5, 3), (1, 1), F42, 11 * 4, 2),
        ((1, 3), (1, 1), F14, 6, 1),
        ((7, 1), (1, 1), F41, 6 + 6 + 5, 3),
        ((1, 9), (1, 2), F14, 6 + 5 + 6 + 5, 4),
    ],
)
def test_parts_of_kernels(
    kernel: tuple[int, int], stride: tuple[int, int], scheme: Scheme, products: int, parts: int
) -> None:
    work = workload(kernel, stride)
    split = scheme.split(work)
    assert (split.products, split.parts) == (products, parts)
    taps = np.zeros(kernel, np.int64)
    for row, column in itertools.product(split.rows, split.columns):
        taps[row.offset :: stride[0], column.offset :: stride[1]][: row.taps, : column.taps] += 1
    assert (taps == 1).all()
    weight = np.random.default_rng(0).integers(-255, 256, (*kernel, 2)).astype(np.int16)
    transformed = transform_weights(scheme, work, weight, np.zeros_like(weight[0, 0]))
    assert len(transformed) == products
    assert all(values.any() for values in transformed)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (3, 3)},  # as many products as without
        {"dilation": (1, 2)},
        {"kernel_height": 7, "kernel_width": 7},  # nine parts
        {"groups": 2},
        {"kernel_height": 1, "kernel_width": 1},
        {"in_channels": 4},
    ],
)
def test_other_shapes_have_no_scheme(change: dict[str, object]) -> None:
    shape: dict[str, object] = {"in_height": 9, "in_width": 9, "kernel_height": 3, "kernel_width": 3, "in_channels": 16}
    plain = ConvWorkload(batch=1, out_channels=16, **shape)  # type: ignore[arg-type]
    other = ConvWorkload(batch=1, out_channels=16, **(shape | change))  # type: ignore[arg-type]
    assert schemes(plain, 0) == [F4, F42, F24, F2]
    assert schemes(other, 0) == []


def test_an_axis_of_one_tap_or_output_stays_as_it_is() -> None:
    assert schemes(workload((1, 3)), 0) == [F14, F12]
    assert schemes(workload((5, 1)), 0) == [F41, F21]
    row_of_outputs = replace(workload((3, 3)), in_height=3)
    assert schemes(row_of_outputs, 0) == [F14, F12]
