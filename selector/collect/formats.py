"""Number formats of quantized convolutions: the dtypes, zero points and weight ranges that quantizers produce.

The code of a kernel depends on its weights only through the limits that prove an instruction or a scheme exact.  Two
workloads whose bounds fall on the same side of every limit get the same kernel, constants aside.  ``canonical`` gives
such workloads equal bounds.  What is collected is canonical, so that one convolution met in two networks is measured
once.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from selector.lowering.scheme import SCHEMES
from selector.weights import WeightFacts, is_merged, weight_facts
from selector.workload import ConvWorkload, DataDType, QuantDType

DataZero = Literal["relu", "symmetric", "asymmetric"]

# What the dot rows ask of weights, see selector.weights.
_LARGEST_NEGATABLE = 127
_SAFE_SUM = 128

DTYPES: dict[str, tuple[QuantDType, QuantDType]] = {  # name -> (data, weights)
    "u8s8": ("uint8", "int8"),
    "s8s8": ("int8", "int8"),
    "u8u8": ("uint8", "uint8"),
    "s8u8": ("int8", "uint8"),
}
# Data zero points: after a ReLU, of a symmetric quantizer, and of one that follows the range of the data.
DATA_ZERO_POINTS: dict[DataDType, dict[DataZero, int]] = {
    "uint8": {"relu": 0, "asymmetric": 119},
    "int8": {"relu": -128, "symmetric": 0, "asymmetric": -9},
}


@dataclass(frozen=True, slots=True)
class WeightRange:
    """What a quantizer makes of a float weight tensor.

    ``lowest`` is the weight that lies farthest from what the int8 lowering subtracts (see ``weights.signed_offset``).
    """

    lowest: int
    highest: int
    zero_point: int

    @property
    def has_term2(self) -> bool:
        """Whether weights over the range less their zero point do not fit int8."""
        return not (self.lowest - self.zero_point >= -128 and self.highest - self.zero_point <= 127)

    @property
    def largest(self) -> int:
        """Largest |weight - zero point|."""
        return max(self.zero_point - self.lowest, self.highest - self.zero_point)


# The order is that of preference where a geometry cannot tell two ranges apart.
RANGES: dict[QuantDType, dict[str, WeightRange]] = {
    "int8": {
        "full": WeightRange(-127, 127, 0),
        "7bit": WeightRange(-64, 63, 0),  # two products of data and weights fit 16 bits
        "6bit": WeightRange(-32, 31, 0),  # so do four
        "lowest": WeightRange(-128, 127, 0),  # no sign trick can negate -128
        "asymmetric": WeightRange(-128, 127, 3),  # weights less zero point do not fit int8: Term2 stays
        "asymmetric trimmed": WeightRange(-128, 126, 3),  # the same without a channel that spans all 256 values
    },
    "uint8": {
        "full": WeightRange(0, 255, 124),  # the zero point is off the middle, as it mostly is: Term2 stays
        "trimmed": WeightRange(0, 254, 125),  # the same without a channel that spans all 256 values
        "7bit": WeightRange(0, 127, 64),
        "6bit": WeightRange(32, 95, 64),
        "symmetric": WeightRange(1, 255, 128),
        "lowest": WeightRange(0, 255, 128),
    },
}


@dataclass(frozen=True, slots=True)
class Format:
    """Dtypes of data and weights, and the range of the weights."""

    dtypes: str  # key of DTYPES
    range: str  # key of RANGES[weight dtype]
    share: float  # how often it is drawn, relative to the others
    channelwise: bool = False  # the weight zero point differs between output channels

    @property
    def name(self) -> str:
        """E.g. ``u8s8 7bit``."""
        return f"{self.dtypes} {self.range}" + (" channelwise" if self.channelwise else "")


# What the quantizers of ONNX Runtime, TFLite and PyTorch give by default comes first.
FORMATS: tuple[Format, ...] = (
    Format("u8s8", "full", 4),
    Format("u8s8", "7bit", 4),
    Format("s8s8", "full", 5),
    Format("u8u8", "full", 2),
    Format("u8s8", "lowest", 1.5),
    Format("u8u8", "trimmed", 1),
    Format("u8u8", "7bit", 1),
    Format("s8s8", "7bit", 1),
    Format("s8s8", "lowest", 1),
    Format("u8s8", "6bit", 1),
    Format("u8u8", "symmetric", 0.5),
    Format("s8s8", "6bit", 0.5),
    Format("u8s8", "asymmetric", 0.5),
    Format("s8s8", "asymmetric trimmed", 0.5),
    Format("u8u8", "full", 0.5, channelwise=True),
    Format("s8u8", "full", 0.5),
)


def draw_format(rng: np.random.Generator) -> Format:
    """A format, the common ones more often."""
    shares = np.array([item.share for item in FORMATS])
    return FORMATS[rng.choice(len(FORMATS), p=shares / shares.sum())]


def with_format(workload: ConvWorkload, number_format: Format, data_zero: DataZero = "relu") -> ConvWorkload:
    """The workload in a format, with typical weights; the output has the dtype of the data.

    Data that is unsigned has no symmetric zero point and gets that of a ReLU.
    """
    data_dtype, weight_dtype = DTYPES[number_format.dtypes]
    weight_range = RANGES[weight_dtype][number_format.range]
    zero_points = DATA_ZERO_POINTS[data_dtype]
    typed = replace(
        workload,
        data_dtype=data_dtype,
        weight_dtype=weight_dtype,
        out_dtype=data_dtype,
        data_zero_point=zero_points.get(data_zero, zero_points["relu"]),
        weight_zero_point=None if number_format.channelwise else weight_range.zero_point,
    )
    return canonical(replace(typed, **asdict(range_facts(typed, weight_range))))


def sides(workload: ConvWorkload) -> tuple[bool, ...]:
    """On which side of every limit the weights lie: all that kernels read from the bounds of a workload."""
    accumulator = workload.accumulator_bound()
    return (*_instruction_sides(workload), *(accumulator < scheme.limit for scheme in SCHEMES))


def _instruction_sides(facts: ConvWorkload | WeightFacts) -> tuple[bool, ...]:
    """The limits that decide the instruction, those that cost most if missed first."""
    return (
        facts.term2,
        facts.pair_bound <= _SAFE_SUM,
        facts.quad_bound <= _SAFE_SUM,
        facts.weight_bound <= _LARGEST_NEGATABLE,
    )


def canonical(workload: ConvWorkload) -> ConvWorkload:
    """The representative of all workloads that get the same kernel.

    Zero points become those of the tables above, bounds those of the matching range with typical weights.  Where
    typical weights are on another side of a Winograd limit, the channel bound is moved to the nearest value on the
    workload's own side.
    """
    weight_range = range_of(workload)
    facts = range_facts(workload, weight_range)
    zero_points = DATA_ZERO_POINTS[workload.data_dtype]
    exact = {zero_points[name] for name in ("relu", "symmetric") if name in zero_points}
    data_zero = workload.data_zero_point if workload.data_zero_point in exact else zero_points["asymmetric"]
    typical = replace(
        workload,
        data_zero_point=data_zero,
        weight_zero_point=None if workload.term2 and workload.weight_zero_point is None else weight_range.zero_point,
        **asdict(facts),
    )
    extent = typical.accumulator_bound() // typical.channel_bound
    lowest, highest = 0, taps(workload) * weight_range.largest
    for limit in (scheme.limit for scheme in SCHEMES):
        if workload.accumulator_bound() < limit:
            highest = min(highest, (limit - 1) // extent)
        else:
            lowest = max(lowest, math.ceil(limit / extent))
    return replace(typical, channel_bound=min(max(typical.channel_bound, lowest), highest))


def range_of(workload: ConvWorkload) -> WeightRange:
    """The first range whose weights choose the same instruction as the workload's; none: the nearest that can."""
    wanted = _instruction_sides(workload)

    def differences(weight_range: WeightRange) -> tuple[bool, ...]:
        found = _instruction_sides(range_facts(workload, weight_range))
        return tuple(a != b for a, b in zip(found, wanted, strict=True))

    return min(RANGES[workload.weight_dtype].values(), key=differences)


def range_facts(workload: ConvWorkload, weight_range: WeightRange) -> WeightFacts:
    """Facts of typical weights over a range in the geometry of a workload."""
    return _range_facts(
        (workload.kernel_height, workload.kernel_width, workload.group_in_channels),
        workload.weight_dtype,
        weight_range,
        workload.groups,
        workload.dilation[1],
    )


@functools.lru_cache(maxsize=4096)
def _range_facts(
    kernel: tuple[int, int, int], dtype: QuantDType, weight_range: WeightRange, groups: int, dilation_width: int
) -> WeightFacts:
    count = math.prod(kernel)
    weight = np.full((1, count), weight_range.zero_point, dtype)
    set_extremes(weight, weight_range, extreme_taps(kernel, groups, dilation_width))
    zero_point = np.full(1, weight_range.zero_point)
    facts = weight_facts(weight.reshape(1, *kernel), zero_point, groups=groups, dilation_width=dilation_width)
    typical = round(typical_mean(count) * weight_range.largest * count)
    return replace(facts, channel_bound=max(facts.channel_bound, typical))


def extreme_taps(kernel: tuple[int, int, int], groups: int, dilation_width: int) -> list[int]:
    """Weights of one channel, flat over (KH, KW, C/groups), that reach all three bounds if they are extreme."""
    height, width, channels = kernel
    if groups > 1 and channels == 1:
        return [0, width] if height > 1 else [0]  # one tap and the one below
    run = width * channels if is_merged(groups, dilation_width) else channels
    return [tap for tap in (0, 1, 4, 5) if tap < run]  # two pairs of two neighbours, one in each of two vectors


def set_extremes(weight: np.ndarray, weight_range: WeightRange, first: list[int]) -> None:
    """Put the extremes of a range into weights (O, taps): the taps ``first`` of channel 0, two taps of the others."""
    weight[0, first] = weight_range.lowest
    if weight_range.has_term2:  # decided channel by channel: each has to span the range
        weight[:, 0] = weight_range.lowest
        weight[:, -1] = weight_range.highest


def typical_mean(count: int) -> float:
    """Mean magnitude of ``count`` weights relative to the largest: of normally distributed ones, about."""
    return math.sqrt(2 / math.pi) / math.sqrt(2 * math.log(2 * count))


def taps(workload: ConvWorkload) -> int:
    """Weights of one output channel."""
    return workload.kernel_height * workload.kernel_width * workload.group_in_channels
