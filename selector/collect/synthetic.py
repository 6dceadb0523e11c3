"""Constants and data for a workload that comes without a network: random, but with the facts that choose kernels."""

from __future__ import annotations

import numpy as np

from selector.collect.formats import extreme_taps, range_of, set_extremes, taps
from selector.workload import ConvConstants, ConvWorkload, Requantize


def synthesize(workload: ConvWorkload, seed: int = 0) -> tuple[ConvConstants, np.ndarray]:
    """Constants whose weight facts fall on the same side of every limit as the workload's, and data (N, H, W, C).

    The facts of a canonical workload (see ``formats.canonical``) are met to the digit.
    """
    rng = np.random.default_rng(seed)
    work = workload
    limits = np.iinfo(work.data_dtype)
    shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    data = rng.integers(limits.min, limits.max, shape, dtype=np.dtype(work.data_dtype), endpoint=True)
    weight, zero_point = _weights(work, rng)
    bias = rng.integers(-1000, 1000, work.out_channels).astype(np.int32)
    requantize = None
    if work.out_dtype != "int32":
        multiplier = np.full(work.out_channels, 1 / (64 * np.sqrt(taps(work))), np.float32)
        requantize = Requantize(multiplier, zero_point={"uint8": 128, "int8": 0}.get(work.out_dtype, 0))
    return ConvConstants(weight, zero_point, bias, requantize), data


def _weights(work: ConvWorkload, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights (O, KH, KW, C/groups) and zero points (O,): random ones, extremes, no sum above the channel bound."""
    kernel = (work.kernel_height, work.kernel_width, work.group_in_channels)
    weight_range = range_of(work)
    count = taps(work)
    extremes = np.full((work.out_channels, count), weight_range.zero_point, work.weight_dtype)
    set_extremes(extremes, weight_range, extreme_taps(kernel, work.groups, work.dilation[1]))
    centred = extremes.astype(np.int32) - weight_range.zero_point
    free = centred == 0
    negative = rng.random(centred.shape, np.float32) < 0.5
    below, above = weight_range.zero_point - weight_range.lowest, weight_range.highest - weight_range.zero_point
    room = np.where(negative, below, above) * free  # largest magnitude of each weight
    left = np.maximum(work.channel_bound - np.abs(centred).sum(axis=1), 0)  # for the free weights of a channel
    zero_point = np.full(work.out_channels, weight_range.zero_point, np.int32)
    if work.weight_zero_point is None and weight_range.has_term2:
        zero_point[1::2] -= 1
        left[1::2] = np.maximum(left[1::2] - count, 0)  # each magnitude may grow by one
    magnitude = _magnitudes(rng, room, left)
    weight = centred + np.where(negative, -magnitude, magnitude) + weight_range.zero_point
    weight = weight.astype(work.weight_dtype).reshape(work.out_channels, *kernel)
    return weight, zero_point


def _magnitudes(rng: np.random.Generator, room: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Random integers (O, taps) of at most ``room``, every row's sum at most ``left`` (O,), that of row 0 as near."""
    mean = left.min() / max(room.sum(axis=1).max(), 1)  # relative to the room
    power = max(1 / max(mean, 1e-3) - 1, 0)  # the mean of u ** power is 1 / (power + 1)
    drawn = room * rng.random(room.shape, np.float32) ** np.float32(power)
    shrink = np.minimum(1, left / np.maximum(drawn.sum(axis=1), 1))
    result = np.floor(drawn * shrink[:, None]).astype(np.int32)
    missing = left[0] - result[0].sum()
    spare = room[0] - result[0]
    result[0] += np.clip(missing - (np.cumsum(spare) - spare), 0, spare).astype(np.int32)
    return result
