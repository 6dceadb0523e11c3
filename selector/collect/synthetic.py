"""Constants and data for a workload that comes without a network: random, but with the facts that choose kernels."""

from __future__ import annotations

import numpy as np

from selector.workload import ConvConstants, ConvWorkload, Requantize

_SAFE_PAIR = _SAFE_QUAD = 128  # bounds up to which pmaddubsw kernels are exact (see selector.weights)


def synthesize(workload: ConvWorkload, seed: int = 0) -> tuple[ConvConstants, np.ndarray]:
    """Constants whose weight facts fall on the same side of every limit as the workload's, and data (N, H, W, C)."""
    rng = np.random.default_rng(seed)
    work = workload
    limits = np.iinfo(work.data_dtype)
    shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    data = rng.integers(limits.min, limits.max + 1, shape).astype(work.data_dtype)
    weight, zero_point = _weights(work, rng)
    bias = rng.integers(-1000, 1000, work.out_channels).astype(np.int32)
    requantize = None
    if work.out_dtype != "int32":
        taps = work.kernel_height * work.kernel_width * work.group_in_channels
        multiplier = np.full(work.out_channels, 1 / (64 * np.sqrt(taps)), np.float32)
        requantize = Requantize(multiplier, zero_point={"uint8": 128, "int8": 0}.get(work.out_dtype, 0))
    return ConvConstants(weight, zero_point, bias, requantize), data


def _weights(work: ConvWorkload, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (work.out_channels, work.kernel_height, work.kernel_width, work.group_in_channels)
    limits = np.iinfo(work.weight_dtype)
    if work.term2:  # only weights over the whole range of the dtype keep their zero point
        highest = limits.max if work.weight_bound > 127 else limits.max - 1  # see selector.weights.signed_offset
        weight = rng.integers(limits.min, highest + 1, shape)
        weight.reshape(len(weight), -1)[:, 0] = limits.min
        weight.reshape(len(weight), -1)[:, -1] = highest
        middle = (limits.min + limits.max + 1) // 2
        zero_point = work.weight_zero_point if work.weight_zero_point not in (None, middle) else middle + 3
        return weight.astype(work.weight_dtype), np.full(len(weight), zero_point, np.int32)
    if work.quad_bound <= _SAFE_QUAD:
        bound = _SAFE_QUAD // 4
    elif work.pair_bound <= _SAFE_PAIR:
        bound = _SAFE_PAIR // 2
    else:
        bound = 127
    signed = rng.integers(-bound, bound + 1, shape)
    edge = signed.reshape(-1)
    edge[: min(4, edge.size)] = bound  # so that the next better instruction is ruled out, as for the workload
    if work.weight_bound > 127:
        edge[0] = -128
    zero_point = work.weight_zero_point if work.weight_zero_point is not None else 0
    weight = np.clip(signed + zero_point, limits.min, limits.max)
    return weight.astype(work.weight_dtype), np.full(len(weight), zero_point, np.int32)
