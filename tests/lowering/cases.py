"""Convolutions of every kind with constants and data, as hypothesis strategies and as plain functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from hypothesis import strategies as st

from selector.weights import weight_facts
from selector.workload import ConvConstants, ConvWorkload, Requantize

WEIGHTS: dict[str, Callable[[np.random.Generator, tuple[int, ...], int, int], np.ndarray]] = {
    # name -> (rng, shape, low, high) -> signed weights; what the names promise is what saturation proofs look at
    "full": lambda rng, shape, low, high: rng.integers(low, high + 1, shape),
    "extreme": lambda rng, shape, low, high: rng.choice([low, low + 1, high], shape),
    "symmetric": lambda rng, shape, low, high: rng.integers(low + 1, high + 1, shape),
    "7bit": lambda rng, shape, low, high: rng.integers(-64, 65, shape),
    "6bit": lambda rng, shape, low, high: rng.integers(-32, 33, shape),
    "positive": lambda rng, shape, low, high: np.full(shape, high),
    "negative": lambda rng, shape, low, high: np.full(shape, low),
}


@dataclass(frozen=True)
class Case:
    """One convolution, ready to run."""

    workload: ConvWorkload
    constants: ConvConstants
    data: np.ndarray  # (N, H, W, C)

    def __repr__(self) -> str:
        """Short enough for hypothesis to print; the arrays follow from the seed that drew them."""
        return f"Case({self.workload}, {self.constants.requantize})"


def make_case(
    workload: ConvWorkload,
    *,
    seed: int = 0,
    weights: str = "full",
    extreme_data: bool = False,
    bias: bool = True,
) -> Case:
    """A case of ``workload`` with random constants and data; its facts about the weights are filled in.

    ``weights`` is a key of WEIGHTS, and speaks of uint8 weights less 128.
    """
    rng = np.random.default_rng(seed)
    work = workload
    shape = (work.out_channels, work.kernel_height, work.kernel_width, work.group_in_channels)
    info = np.iinfo(work.weight_dtype)
    shift = 128 if work.weight_dtype == "uint8" else 0
    weight = (WEIGHTS[weights](rng, shape, -128, 127) + shift).astype(work.weight_dtype)
    if work.weight_zero_point is None:
        zero_point = rng.integers(info.min, info.max + 1, work.out_channels)
    else:
        zero_point = np.full(work.out_channels, work.weight_zero_point)
    constants = ConvConstants(
        weight=weight,
        weight_zero_point=zero_point.astype(np.int32),
        bias=rng.integers(-(1 << 14), 1 << 14, work.out_channels).astype(np.int32) if bias else None,
        requantize=None if work.out_dtype == "int32" else random_requantize(rng, work),
    )
    limits = np.iinfo(work.data_dtype)
    data_shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    if extreme_data:
        data = rng.choice([limits.min, limits.max], data_shape)
    else:
        data = rng.integers(limits.min, limits.max + 1, data_shape)
    return Case(with_facts(work, constants), constants, data.astype(work.data_dtype))


def depthwise(kernel: int, stride: int = 1, channels: int = 64, **facts: int) -> ConvWorkload:
    """A depthwise convolution of several chunks of channels and tiles of columns, whose output is narrowed."""
    pad = kernel // 2
    return ConvWorkload(
        batch=1,
        in_height=28,
        in_width=28,
        in_channels=channels,
        out_channels=channels,
        kernel_height=kernel,
        kernel_width=kernel,
        stride=(stride, stride),
        padding=(pad, pad, pad, pad),
        groups=channels,
        out_dtype="uint8",
        **facts,
    )


def with_facts(workload: ConvWorkload, constants: ConvConstants) -> ConvWorkload:
    """The workload with what its weights say about it."""
    facts = weight_facts(
        constants.weight, constants.weight_zero_point, groups=workload.groups, dilation_width=workload.dilation[1]
    )
    return replace(workload, **asdict(facts))


def random_requantize(rng: np.random.Generator, workload: ConvWorkload) -> Requantize:
    """Scales that spread the accumulators over the output's range; half of the draws hit many ties."""
    taps = workload.kernel_height * workload.kernel_width * workload.group_in_channels
    width = np.dtype(workload.data_dtype).itemsize - 1, np.dtype(workload.out_dtype).itemsize % 4 - 1
    spread = 256.0 ** (max(width[1], 0) - width[0]) / (np.sqrt(taps) * 100)
    if rng.random() < 0.5:
        multiplier = np.full(workload.out_channels, 2.0 ** np.floor(np.log2(spread)))
    else:
        multiplier = spread * rng.uniform(0.3, 2, workload.out_channels)
    offset = np.round(rng.normal(0, 30, workload.out_channels) * 4) / 4 if rng.random() < 0.5 else None
    zero_point, out_min, out_max = 0, None, None
    if workload.out_dtype == "float32":
        if rng.random() < 0.5:
            out_min, out_max = 0.0, float(rng.choice([6.0, 40.5]))
    else:
        info = np.iinfo(workload.out_dtype)
        zero_point = int(rng.choice([info.min, info.max, 0, rng.integers(info.min, info.max + 1)]))
        if rng.random() < 0.5:
            low, high = np.sort(rng.integers(info.min, info.max + 1, 2))
            out_min = float(low) if rng.random() < 0.7 else None
            out_max = float(high) if rng.random() < 0.7 else None
    return Requantize(
        multiplier=multiplier.astype(np.float32),
        offset=None if offset is None else offset.astype(np.float32),
        zero_point=zero_point,
        out_min=out_min,
        out_max=out_max,
    )


def _zero_points(low: int, high: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from((low, high, 0)), st.integers(low, high))


@st.composite
def _channels(draw: st.DrawFn, kind: str) -> tuple[int, int, int]:
    """(groups, input channels, output channels)."""
    if kind == "depthwise":
        groups = draw(st.integers(2, 70))
        return groups, groups, groups * draw(st.sampled_from((1, 1, 2, 3)))
    if kind == "grouped":
        groups = draw(st.integers(2, 5))
        return groups, groups * draw(st.integers(2, 20)), groups * draw(st.integers(1, 20))
    least, most = {"first": (1, 4), "winograd": (8, 70)}.get(kind, (1, 70))
    return 1, draw(st.integers(least, most)), draw(st.integers(1, 70))


@st.composite
def _kernel(draw: st.DrawFn, kind: str) -> tuple[int, int]:
    """(height, width)."""
    size = st.integers(1, 5)
    if kind == "1x1":
        return 1, 1
    if kind == "winograd":
        return draw(st.sampled_from(((3, 3), (3, 3), (5, 5), (2, 2), (4, 3), (1, 3), (5, 1), (1, 9))))
    shape = draw(st.sampled_from(("3x3", "1xk", "kx1", "any")))
    return {"3x3": (3, 3), "1xk": (1, draw(size)), "kx1": (draw(size), 1)}.get(shape) or (draw(size), draw(size))


BYTES = ("uint8", "int8")
WORDS = ("uint16", "int16")


@st.composite
def workloads(draw: st.DrawFn, data: tuple[str, ...] = BYTES) -> ConvWorkload:
    """Workloads over the whole space of quantized convolutions of ``data``, small ones."""
    kind = draw(st.sampled_from(("1x1", "dense", "depthwise", "grouped", "first", "winograd")))
    groups, in_channels, out_channels = draw(_channels(kind))
    kernel, stride, dilation = draw(_kernel(kind)), (1, 1), (1, 1)
    if kind == "winograd":
        stride = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (1, 2))))
    else:
        stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = [draw(st.integers(0, extent[axis % 2])) for axis in range(4)]  # top, left, bottom, right
    least = [max(1, extent[axis] - padding[axis] - padding[axis + 2]) for axis in (0, 1)]
    weight_dtype = draw(st.sampled_from(("int8", "uint8")))
    data_dtype = draw(st.sampled_from(data))
    outputs = ("int32", "uint8", "int8", "float32") if data == BYTES else (*WORDS, *BYTES, "float32")
    data_range, weight_range = np.iinfo(data_dtype), np.iinfo(weight_dtype)
    return ConvWorkload(
        batch=draw(st.integers(1, 2)),
        in_height=least[0] + draw(st.integers(0, 9)),
        in_width=least[1] + draw(st.integers(0, 9)),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride=stride,
        padding=(padding[0], padding[1], padding[2], padding[3]),
        dilation=dilation,
        groups=groups,
        data_dtype=data_dtype,  # type: ignore[arg-type]
        weight_dtype=weight_dtype,  # type: ignore[arg-type]
        out_dtype=draw(st.sampled_from(outputs)),  # type: ignore[arg-type]
        data_zero_point=draw(_zero_points(int(data_range.min), int(data_range.max))),
        weight_zero_point=draw(st.one_of(st.none(), _zero_points(int(weight_range.min), int(weight_range.max)))),
        threads=draw(st.integers(1, 2)),
    )


@st.composite
def cases(draw: st.DrawFn, data: tuple[str, ...] = BYTES) -> Case:
    """Cases over the whole space of workloads, weights and data."""
    return make_case(
        draw(workloads(data)),
        seed=draw(st.integers(0, 1 << 30)),
        weights=draw(st.sampled_from(sorted(WEIGHTS))),
        extreme_data=draw(st.booleans()),
        bias=draw(st.booleans()),
    )
