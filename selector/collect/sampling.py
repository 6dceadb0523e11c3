"""Random convolutions: realistic ranges of shapes, stratified by kind, log-uniform in multiply-accumulates.

Every workload is NHWC, the only layout that Selector's kernels know, so there is no layout to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selector.collect.formats import canonical, draw_format, range_of, taps, with_format
from selector.workload import ConvWorkload, OutDType, UnsupportedWorkload

MIN_MACS = 20_000
MAX_MACS = 1_200_000_000  # a tenth of a second on the slowest kernels
MAX_WEIGHTS = 5_000_000
_MAX_ELEMENTS = 6_000_000  # of the input and of the output, as in networks
_USUAL_MACS = 600_000_000
_MAX_SIDE = 640  # pixels


@dataclass(frozen=True)
class _Geometry:
    """Everything of a convolution but its image."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def macs_of_pixel(self) -> int:
        """Multiply-accumulates of one output pixel."""
        return math.prod(self.kernel) * self.in_channels // self.groups * self.out_channels


@dataclass(frozen=True)
class Stratum:
    """One kind of convolution and how to draw it."""

    name: str
    share: float  # of all samples
    max_macs: int  # published networks have none above
    min_side: int  # pixels of the output
    max_side: int
    draw: Callable[[np.random.Generator], _Geometry]


def _integer(rng: np.random.Generator, low: float, high: float, multiple: int = 1) -> int:
    """Log-uniform, rounded to a multiple."""
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return max(multiple, round(value / multiple) * multiple)


def _channels(rng: np.random.Generator, low: int, high: int) -> int:
    """A channel count; three of four are multiples of 8."""
    return _integer(rng, low, high, 8 if rng.random() < 0.75 else int(rng.choice([1, 2, 4])))


def _one_of(rng: np.random.Generator, values: Sequence[int], shares: Sequence[float]) -> int:
    return int(rng.choice(values, p=np.array(shares) / sum(shares)))


def _first(rng: np.random.Generator) -> _Geometry:
    size = _one_of(rng, [3, 5, 6, 7, 11], [8, 1, 1, 3, 0.5])
    stride = _one_of(rng, [1, 2, 4], [2, 8, 0.5])
    in_channels = _one_of(rng, [1, 3, 4], [2, 8, 1])
    return _Geometry(in_channels, _channels(rng, 8, 96), (size, size), (stride, stride))


def _pointwise(rng: np.random.Generator) -> _Geometry:
    stride = 2 if rng.random() < 0.06 else 1
    return _Geometry(_channels(rng, 8, 1536), _channels(rng, 8, 1536), (1, 1), (stride, stride))


def _fully_connected(rng: np.random.Generator) -> _Geometry:
    """Of one pixel: with thousands of channels what counts is where the weights come from."""
    return _Geometry(_channels(rng, 64, 4096), _channels(rng, 8, 4096), (1, 1))


def _dense(sizes: Sequence[int], stride: int, high: int) -> Callable[[np.random.Generator], _Geometry]:
    def draw(rng: np.random.Generator) -> _Geometry:
        size = int(rng.choice(sizes))
        spacing = int(rng.choice([2, 3, 4, 6])) if size == 3 and stride == 1 and rng.random() < 0.1 else 1
        low = _channels(rng, 5, high)
        # Neighbouring layers have similar widths.
        ratio = 2.0 ** rng.uniform(-1.5, 1.5)
        wide = min(max(8, round(low * ratio / 8) * 8), high)
        return _Geometry(low, wide, (size, size), (stride, stride), (spacing, spacing))

    return draw


def _separated(rng: np.random.Generator) -> _Geometry:
    """1×k or k×1."""
    size = int(rng.choice([3, 5, 7, 9]))
    kernel = (1, size) if rng.random() < 0.5 else (size, 1)
    return _Geometry(_channels(rng, 8, 512), _channels(rng, 8, 512), kernel)


def _depthwise(rng: np.random.Generator) -> _Geometry:
    size = _one_of(rng, [3, 5, 7], [6, 3, 1])
    stride = _one_of(rng, [1, 2], [3, 1])
    spacing = 2 if stride == 1 and rng.random() < 0.08 else 1
    channels = _channels(rng, 8, 1536)
    multiplier = 2 if rng.random() < 0.08 else 1
    return _Geometry(channels, channels * multiplier, (size, size), (stride, stride), (spacing, spacing), channels)


def _grouped(rng: np.random.Generator) -> _Geometry:
    size = _one_of(rng, [1, 3, 5], [4, 6, 0.5])
    stride = 2 if size > 1 and rng.random() < 0.25 else 1
    width = _one_of(rng, [2, 4, 8, 16, 24, 32, 48, 64, 128], [1, 2, 3, 3, 2, 2, 1, 2, 1])
    groups = _integer(rng, 2, max(2, 1024 / width))
    out_width = width if size > 1 else max(1, round(width * 2.0 ** rng.uniform(-2, 2)))
    return _Geometry(width * groups, out_width * groups, (size, size), (stride, stride), groups=groups)


STRATA: tuple[Stratum, ...] = (
    Stratum("first", 0.07, 400_000_000, 8, 320, _first),
    Stratum("1x1", 0.25, MAX_MACS, 1, 224, _pointwise),
    Stratum("fully connected", 0.04, MAX_WEIGHTS, 1, 1, _fully_connected),
    Stratum("3x3", 0.22, MAX_MACS, 2, 320, _dense([3], 1, 640)),
    Stratum("3x3 stride 2", 0.08, MAX_MACS, 2, 160, _dense([3], 2, 640)),
    Stratum("5x5", 0.04, MAX_MACS, 2, 128, _dense([5], 1, 256)),
    Stratum("7x7", 0.02, MAX_MACS, 2, 128, _dense([7], 1, 128)),
    Stratum("1xk", 0.04, 600_000_000, 4, 64, _separated),
    Stratum("depthwise", 0.16, 120_000_000, 2, 224, _depthwise),
    Stratum("grouped", 0.08, 600_000_000, 3, 128, _grouped),
)


def sample(count: int, seed: int, *, threads: Sequence[int] = (1, 2)) -> list[ConvWorkload]:
    """``count`` distinct random convolutions, each once for every thread count (next to each other).

    The strata have fixed shares in every prefix.  Equal arguments give equal lists; a longer list starts with the
    shorter one.
    """
    rng = np.random.default_rng(seed)
    drawn = [0] * len(STRATA)
    seen: dict[ConvWorkload, None] = {}
    while len(seen) < count:
        index = max(range(len(STRATA)), key=lambda i: STRATA[i].share * (len(seen) + 1) - drawn[i])
        workload = _draw(rng, STRATA[index])
        if workload not in seen:
            seen[workload] = None
            drawn[index] += 1
    return [replace(workload, threads=number) for workload in seen for number in threads]


def _draw(rng: np.random.Generator, stratum: Stratum) -> ConvWorkload:
    """One workload of a stratum, with one thread."""
    while True:
        macs = math.exp(rng.uniform(math.log(MIN_MACS), math.log(stratum.max_macs)))
        if macs > _USUAL_MACS and rng.random() < 0.75:
            continue
        for _ in range(100):  # a shape for this size, which keeps the sizes log-uniform
            shape = _shape(rng, stratum, macs)
            if shape is not None:
                return _formatted(rng, shape)


def _shape(rng: np.random.Generator, stratum: Stratum, macs: float) -> ConvWorkload | None:
    """A shape of about ``macs``; None: the image would be smaller or larger than those of networks."""
    geometry = stratum.draw(rng)
    pixels = macs / geometry.macs_of_pixel()
    aspect = 2.0 ** rng.uniform(-1.5, 1.5) if rng.random() < 0.2 else 1.0
    height, width = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
    if stratum.name == "1x1" and pixels < 512 and rng.random() < 0.2:
        height, width = 1, round(pixels)  # a dense layer
    elif min(height, width) < stratum.min_side or max(height, width) > stratum.max_side:
        return None
    extent = [(size - 1) * spacing + 1 for size, spacing in zip(geometry.kernel, geometry.dilation, strict=True)]
    padding = (0, 0, 0, 0)
    if max(extent) > 1 and rng.random() < 0.85:
        (top, bottom), (left, right) = (_same(rng, e, s) for e, s in zip(extent, geometry.stride, strict=True))
        padding = (top, left, bottom, right)
    # The smallest input that gives this output, or one more for a stride of 2.
    extra = [int(rng.integers(s)) for s in geometry.stride]
    in_height, in_width = (
        (out - 1) * s + e - pad + more
        for out, s, e, pad, more in zip(
            (height, width),
            geometry.stride,
            extent,
            (padding[0] + padding[2], padding[1] + padding[3]),
            extra,
            strict=True,
        )
    )
    if min(in_height, in_width) < 1 or max(in_height, in_width) > _MAX_SIDE:
        return None
    try:
        workload = ConvWorkload(
            1,
            in_height,
            in_width,
            geometry.in_channels,
            geometry.out_channels,
            kernel_height=geometry.kernel[0],
            kernel_width=geometry.kernel[1],
            stride=geometry.stride,
            padding=padding,
            dilation=geometry.dilation,
            groups=geometry.groups,
        )
    except UnsupportedWorkload:
        return None
    elements = max(workload.data_bytes(), math.prod((workload.out_height, workload.out_width, workload.out_channels)))
    fits = MIN_MACS <= workload.macs() <= stratum.max_macs and workload.weight_bytes() <= MAX_WEIGHTS
    return workload if fits and elements <= _MAX_ELEMENTS else None


def _same(rng: np.random.Generator, extent: int, stride: int) -> tuple[int, int]:
    """Padding before and after that keeps the size; with a stride either even, or as TensorFlow has it."""
    before = (extent - 1) // 2
    if stride > 1 and rng.random() < 0.4:
        return max(before - 1, 0), extent - 1 - before
    return before, extent - 1 - before


def _formatted(rng: np.random.Generator, shape: ConvWorkload) -> ConvWorkload:
    """The shape with random dtypes, zero points and weight ranges."""
    data_zero = rng.choice(["relu", "symmetric", "asymmetric"], p=[0.5, 0.1, 0.4])
    workload = with_format(shape, draw_format(rng), data_zero)
    if rng.random() < 0.3:  # weights without outliers: their magnitudes spread over the whole range
        spread = taps(workload) * range_of(workload).largest // 2
        workload = canonical(replace(workload, channel_bound=spread))
    out_dtypes: tuple[OutDType, ...] = (workload.data_dtype, "float32", "int32")
    return replace(workload, out_dtype=out_dtypes[rng.choice(3, p=[0.92, 0.05, 0.03])])
