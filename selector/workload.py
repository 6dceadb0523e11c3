"""The one record that every stage shares: a quantized 2-D convolution.

Layout is NHWC throughout.  A dense (matmul) layer of M rows is the 1×1 convolution over an image of 1×M pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

QuantDType = Literal["uint8", "int8"]
DataDType = Literal["uint8", "int8", "uint16", "int16"]
OutDType = Literal["uint8", "int8", "uint16", "int16", "int32", "float32"]
INT32_MAX = (1 << 31) - 1
_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
_BYTES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "float32": 4}


class UnsupportedWorkload(ValueError):
    """The convolution cannot be lowered by Selector; the message says which property is unsupported."""


@dataclass(frozen=True, slots=True)
class ConvWorkload:
    """Shape, dtypes and weight facts of one quantized convolution.

    It is the key of a decision, of a measurement and of a kernel: two convolutions with equal workloads compile to
    the same code (their constants differ).
    """

    batch: int
    in_height: int  # pixels
    in_width: int  # pixels
    in_channels: int  # all groups together
    out_channels: int  # all groups together
    kernel_height: int
    kernel_width: int
    stride: tuple[int, int] = (1, 1)  # height, width
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right, in pixels
    dilation: tuple[int, int] = (1, 1)  # height, width
    groups: int = 1
    data_dtype: DataDType = "uint8"  # 16-bit data: the int16 lowering alone takes it
    weight_dtype: QuantDType = "int8"
    out_dtype: OutDType = "int32"  # int32: the accumulator itself
    data_zero_point: int = 0
    weight_zero_point: int | None = 0  # None: differs between output channels
    weight_bound: int = 128  # this and the next four: see selector.weights.WeightFacts
    pair_bound: int = 256
    quad_bound: int = 512
    channel_bound: int = (1 << 31) // 255
    term2: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "in_height", "in_width", "in_channels", "out_channels", "kernel_height", "kernel_width"):
            if getattr(self, name) < 1:
                raise UnsupportedWorkload(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise UnsupportedWorkload(
                f"groups must divide both channel counts, got groups={self.groups}, "
                f"in_channels={self.in_channels}, out_channels={self.out_channels}"
            )
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0:
            raise UnsupportedWorkload(
                f"stride and dilation must be at least 1 and padding at least 0, got "
                f"{self.stride}, {self.dilation}, {self.padding}"
            )
        if self.out_height < 1 or self.out_width < 1:
            raise UnsupportedWorkload(
                f"the kernel {self.kernel_height}x{self.kernel_width} is larger than the padded input "
                f"{self.in_height}x{self.in_width}"
            )

    @property
    def out_height(self) -> int:
        """Output rows."""
        top, _, bottom, _ = self.padding
        extent = (self.kernel_height - 1) * self.dilation[0] + 1
        return (self.in_height + top + bottom - extent) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Output columns."""
        _, left, _, right = self.padding
        extent = (self.kernel_width - 1) * self.dilation[1] + 1
        return (self.in_width + left + right - extent) // self.stride[1] + 1

    @property
    def group_in_channels(self) -> int:
        """Input channels that one output channel sees."""
        return self.in_channels // self.groups

    @property
    def group_out_channels(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def kind(self) -> Literal["first", "depthwise", "grouped", "1x1", "dense"]:
        """Stratum used in tables: first layer (at most 4 channels), depthwise, grouped, 1×1, dense (anything else)."""
        if self.groups > 1:
            return "depthwise" if self.group_in_channels == 1 else "grouped"
        if self.in_channels <= 4:
            return "first"
        return "1x1" if self.kernel_height == self.kernel_width == 1 else "dense"

    def macs(self) -> int:
        """Multiply-accumulates of one call, padding included."""
        taps = self.kernel_height * self.kernel_width * self.group_in_channels
        return self.batch * self.out_height * self.out_width * self.out_channels * taps

    def data_elements(self) -> int:
        """Elements of the input tensor."""
        return self.batch * self.in_height * self.in_width * self.in_channels

    def data_bytes(self) -> int:
        """Bytes of the input tensor."""
        return self.data_elements() * _BYTES[self.data_dtype]

    def weight_bytes(self) -> int:
        """Bytes of the quantized weights as the network stores them."""
        return self.out_channels * self.kernel_height * self.kernel_width * self.group_in_channels

    def out_bytes(self) -> int:
        """Bytes of the output tensor."""
        return self.batch * self.out_height * self.out_width * self.out_channels * _BYTES[self.out_dtype]

    @property
    def data_range(self) -> tuple[int, int]:
        """Lowest and highest value of the data's dtype."""
        return _RANGES[self.data_dtype]

    @property
    def has_16bit_data(self) -> bool:
        """Whether the data is uint16 or int16."""
        return self.data_dtype in ("uint16", "int16")

    @property
    def is_split(self) -> bool:
        """Whether the accumulator may be too large for 32 bits, so that it is summed in pieces that are not."""
        return self.accumulator_bound() > INT32_MAX

    def accumulator_bound(self) -> int:
        """Largest |accumulator| that the constant weights and the data's zero point allow."""
        low, high = self.data_range
        return self.channel_bound * max(high - self.data_zero_point, self.data_zero_point - low)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and Parquet."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ConvWorkload:
        """The workload that ``to_dict`` wrote, after a trip through JSON or not."""
        pairs = {name: tuple(values[name]) for name in ("stride", "padding", "dilation")}
        return ConvWorkload(**{**values, **pairs})

    def describe(self) -> str:
        """Short human form, e.g. ``1x56x56x64 -> 64, 3x3 s1``."""
        text = f"{self.batch}x{self.in_height}x{self.in_width}x{self.in_channels} -> {self.out_channels}, "
        text += f"{self.kernel_height}x{self.kernel_width} s{self.stride[0]}"
        if self.stride[0] != self.stride[1]:
            text += f"x{self.stride[1]}"
        if self.dilation != (1, 1):
            text += f" d{self.dilation[0]}x{self.dilation[1]}"
        return text + (f" g{self.groups}" if self.groups > 1 else "")


@dataclass(frozen=True)
class Requantize:
    """How the accumulator becomes the output (numerics of ONNX's QLinearConv).

    The accumulator is exact, and an int32 unless ``ConvWorkload.is_split``; float32(acc) is the nearest one.
    Quantized: ``clip(round_half_even(float32(acc) * multiplier + offset) + zero_point, out_min, out_max)``;
    float32: ``float32(acc) * multiplier + offset``, clipped to ``[out_min, out_max]`` where those are given.
    All arithmetic is float32, one rounding an operation (no fused multiply-add); a missing offset adds nothing.
    """

    multiplier: np.ndarray  # (O,) float32: s_a * s_w / s_y, or s_a * s_w for a float32 output
    offset: np.ndarray | None = None  # (O,) float32: a float bias, in units of the output scale
    zero_point: int = 0
    out_min: float | None = None  # quantized units (float32 output: real units); None: the dtype's own limit
    out_max: float | None = None


@dataclass(frozen=True)
class ConvConstants:
    """What is known at compile time about one convolution besides its workload."""

    weight: np.ndarray  # (O, KH, KW, C/groups) uint8 or int8, as the network stores it
    weight_zero_point: np.ndarray  # (O,) int32
    bias: np.ndarray | None = None  # (O,) int32, added to the accumulator
    requantize: Requantize | None = None  # None: the output is the int32 accumulator
