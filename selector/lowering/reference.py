"""The definition of a quantized convolution in numpy: what every kernel has to equal, bit for bit."""

from __future__ import annotations

import numpy as np

from selector.workload import ConvConstants, ConvWorkload


def accumulate(workload: ConvWorkload, constants: ConvConstants, data: np.ndarray) -> np.ndarray:
    """``sum (Qa - zp_a)(Qw - zp_w)`` in int64.  data (N, H, W, C) -> (N, OH, OW, O)."""
    work = workload
    top, left, bottom, right = work.padding
    x = np.pad(data.astype(np.int64) - work.data_zero_point, ((0, 0), (top, bottom), (left, right), (0, 0)))
    w = constants.weight.astype(np.int64) - constants.weight_zero_point.astype(np.int64).reshape(-1, 1, 1, 1)
    w = w.reshape(work.groups, work.group_out_channels, *w.shape[1:])
    x = x.reshape(*x.shape[:3], work.groups, work.group_in_channels)
    out = np.zeros((work.batch, work.out_height, work.out_width, work.groups, work.group_out_channels), np.int64)
    for i in range(work.kernel_height):
        for j in range(work.kernel_width):
            rows = slice(i * work.dilation[0], i * work.dilation[0] + (work.out_height - 1) * work.stride[0] + 1)
            columns = slice(j * work.dilation[1], j * work.dilation[1] + (work.out_width - 1) * work.stride[1] + 1)
            window = x[:, rows, columns][:, :: work.stride[0], :: work.stride[1]]
            out += np.einsum("nhwgc,goc->nhwgo", window, w[:, :, i, j])
    return out.reshape(*out.shape[:3], work.out_channels)


def convolve(workload: ConvWorkload, constants: ConvConstants, data: np.ndarray) -> np.ndarray:
    """The output tensor (N, OH, OW, O) in ``workload.out_dtype``, requantized as ``Requantize`` says."""
    acc = accumulate(workload, constants, data)
    if constants.bias is not None:
        acc = acc + constants.bias
    requantize = constants.requantize
    if requantize is None:
        return acc.astype(np.int32)
    value = acc.astype(np.float32) * requantize.multiplier.astype(np.float32)
    if requantize.offset is not None:
        value = value + requantize.offset.astype(np.float32)
    if workload.out_dtype == "float32":
        return np.clip(value, requantize.out_min, requantize.out_max) if _clips(requantize) else value
    limits = np.iinfo(workload.out_dtype)
    low = limits.min if requantize.out_min is None else max(limits.min, requantize.out_min)
    high = limits.max if requantize.out_max is None else min(limits.max, requantize.out_max)
    return np.clip(np.rint(value).astype(np.float64) + requantize.zero_point, low, high).astype(workload.out_dtype)


def _clips(requantize) -> bool:  # type: ignore[no-untyped-def]
    return requantize.out_min is not None or requantize.out_max is not None
