"""The integer transforms on numpy arrays: exact modulo 2^32, and within the int16 they are stored in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selector.lowering.scheme import SCHEMES, Scheme, schemes, transform_weights
from selector.workload import ConvWorkload

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)


def two_dimensional(scheme: Scheme, name: str, values: np.ndarray) -> np.ndarray:
    """The transform of each axis along that axis of (rows, columns, …)."""
    rows = np.stack(getattr(scheme.rows, name)(list(values)))
    return np.stack(getattr(scheme.columns, name)(list(rows.swapaxes(0, 1)))).swapaxes(0, 1)


@every_scheme
def test_tile_is_exact(scheme: Scheme) -> None:
    rng = np.random.default_rng(scheme.positions)
    rows, columns = scheme.rows, scheme.columns
    w = rng.integers(-255, 256, (3, 3, 5), dtype=np.int64)
    d = rng.integers(-255, 256, (rows.points, columns.points, 5), dtype=np.int64)
    w[..., 0], d[..., 0] = 255, -255
    m = two_dimensional(scheme, "data", d) * two_dimensional(scheme, "weight", w)
    scaled = two_dimensional(scheme, "inverse", m.sum(axis=-1))
    wrapped = (scaled * scheme.odd_inverse).astype(np.uint32).view(np.int32)
    expected = sum(
        (d[i : i + rows.size, j : j + columns.size] * w[i, j]).sum(axis=-1) for i in range(3) for j in range(3)
    )
    assert np.abs(expected).max() < scheme.limit
    np.testing.assert_array_equal(wrapped >> scheme.shift, expected)


@every_scheme
def test_transforms_fit_int16(scheme: Scheme) -> None:
    for name, shape in (("data", (scheme.rows.points, scheme.columns.points)), ("weight", (3, 3))):
        unit = np.eye(math.prod(shape), dtype=np.int64).reshape(*shape, -1)
        growth = np.abs(two_dimensional(scheme, name, unit)).sum(axis=-1).max()
        assert growth * 255 < 1 << 15


@every_scheme
def test_weights_are_transformed_at_compile_time(scheme: Scheme) -> None:
    weight = np.random.default_rng(0).integers(-255, 256, (3, 3, 4, 6)).astype(np.int16)
    found = transform_weights(scheme, weight)
    expected = two_dimensional(scheme, "weight", weight.astype(np.int64))
    np.testing.assert_array_equal(found, expected.reshape(scheme.positions, 4, 6))
    assert {values.dtype for values in found} == {np.dtype(np.int16)}


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (2, 1)},
        {"dilation": (1, 2)},
        {"kernel_height": 1},
        {"kernel_width": 5},
        {"groups": 2},
        {"in_height": 3},
    ],
)
def test_other_shapes_have_no_scheme(change: dict[str, object]) -> None:
    shape: dict[str, object] = {"in_height": 9, "in_width": 9, "kernel_height": 3, "kernel_width": 3}
    plain = ConvWorkload(batch=1, in_channels=16, out_channels=16, **shape)  # type: ignore[arg-type]
    other = ConvWorkload(batch=1, in_channels=16, out_channels=16, **(shape | change))  # type: ignore[arg-type]
    assert schemes(plain, 0) == list(SCHEMES)
    assert schemes(other, 0) == []
