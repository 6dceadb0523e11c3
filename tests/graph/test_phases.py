"""Transposed convolutions as convolutions of phases, against their definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from selector.graph.frontends.phases import Axis, for_phases, phase_weights

CASES = [
    # data, kernel, stride, outputs left out at the front, outputs
    ((5, 4), (3, 2), (2, 3), (0, 0), (11, 11)),
    ((5, 4), (3, 2), (2, 3), (1, 0), (10, 11)),
    ((3, 6), (2, 5), (3, 2), (0, 2), (8, 12)),  # a kernel shorter than its stride
    ((4, 4), (4, 4), (1, 2), (3, 1), (4, 8)),
]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "out"), CASES)
def test_is_the_transposed_convolution(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    out: tuple[int, int],
    groups: int,
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 10, (4, *size)), rng.integers(-9, 10, (4, 3, *kernel))
    zero = np.array([2, 0, -5])
    rows, columns = (Axis.of(*parts) for parts in zip(size, out, kernel, stride, padding, strict=True))
    assert rows is not None
    assert columns is not None
    made = phase_weights(w, zero, groups, rows, columns)
    made = made - for_phases(zero, groups, stride[0] * stride[1]).reshape(-1, 1, 1, 1)

    padded = np.pad(x, ((0, 0), (rows.before, rows.after), (columns.before, columns.after)))
    padded = padded.reshape(groups, -1, *padded.shape[1:])
    found = np.zeros((len(made), rows.count, columns.count), int)
    for o, (v, u) in itertools.product(range(len(made)), np.ndindex(rows.taps, columns.taps)):
        window = padded[o * groups // len(made), :, v : v + rows.count, u : u + columns.count]
        found[o] += np.tensordot(made[o, :, v, u], window, 1)
    found = found.reshape(-1, *stride, rows.count, columns.count).transpose(0, 3, 1, 4, 2)
    found = found.reshape(len(found), rows.count * stride[0], columns.count * stride[1])
    found = found[:, rows.first :, columns.first :][:, : out[0], : out[1]]

    extent = [max(p + o, (n - 1) * s + k) for p, o, n, s, k in zip(padding, out, size, stride, kernel, strict=True)]
    whole = np.zeros((groups, 3, *extent), int)
    real = (w - zero.reshape(1, -1, 1, 1)).reshape(groups, -1, 3, *kernel)
    for i, j in np.ndindex(*size):
        at = (slice(i * stride[0], i * stride[0] + kernel[0]), slice(j * stride[1], j * stride[1] + kernel[1]))
        pixel = x.reshape(groups, -1, *size)[:, :, i, j]
        whole[:, :, at[0], at[1]] += np.einsum("gc,gcokl->gokl", pixel, real)
    wanted = whole.reshape(groups * 3, *extent)[:, padding[0] :, padding[1] :][:, : out[0], : out[1]]
    np.testing.assert_array_equal(found, wanted)


def test_data_that_would_have_to_be_cut() -> None:
    assert Axis.of(8, 4, 2, 2, 0) is None
