"""Quantized tensors: what a tensor of 8 or 16 bits means, and how a graph says so.

A tensor of integers ``q`` with a scale and a zero point stands for ``(q - zero_point) * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from selector.graph.ir import Expr, Graph, dtype_of, op_name, scalar

BYTES = ("uint8", "int8")  # what counts as 8-bit
INTEGERS = (*BYTES, "uint16", "int16")  # what counts as quantized data
QUANTIZE = "relax.quantize"
DEQUANTIZE = "relax.dequantize"


@dataclass(frozen=True)
class Params:
    """Parameters of a per-tensor quantization."""

    scale: float  # a float32
    zero_point: int
    dtype: str  # one of INTEGERS

    def operands(self) -> tuple[Expr, Expr]:
        """Scale and zero point as ``relax.quantize`` and ``relax.dequantize`` take them."""
        return relax.const(np.float32(self.scale)), relax.const(np.asarray(self.zero_point, self.dtype))

    def quantize(self, data: Expr) -> Expr:
        """The float32 tensor ``data``, quantized."""
        return relax.op.quantize(data, *self.operands(), out_dtype=self.dtype)

    def dequantize(self, data: Expr) -> Expr:
        """The quantized tensor ``data`` as float32."""
        return relax.op.dequantize(data, *self.operands())

    def levels(self, values: np.ndarray) -> np.ndarray:
        """``values`` float32, quantized; still as float32, since some may be NaN."""
        info = np.iinfo(self.dtype)
        return np.clip(np.rint(values / np.float32(self.scale)) + np.float32(self.zero_point), info.min, info.max)

    def all_steps(self) -> np.ndarray:
        """Every byte less the zero point, (256,) float32; for int8 the negative bytes come last.  8 bits only."""
        return np.arange(256).astype("uint8").view(self.dtype).astype("float32") - np.float32(self.zero_point)

    def all_values(self) -> np.ndarray:
        """What every byte means, as ``all_steps`` has them."""
        return self.all_steps() * np.float32(self.scale)


def params_of(call: Expr) -> Params | None:
    """Parameters of a quantize or dequantize; None for any other call, and unless per tensor and constant."""
    name = op_name(call)
    if name not in (QUANTIZE, DEQUANTIZE):
        return None
    whole, real = (call.args[0], call) if name == DEQUANTIZE else (call, call.args[0])
    scale, zero_point, dtype = scalar(call.args[1]), scalar(call.args[2]), dtype_of(whole)
    if scale is None or zero_point is None or scale <= 0 or dtype not in INTEGERS or dtype_of(real) != "float32":
        return None
    return Params(float(scale), int(zero_point), str(dtype))


def dequantized(graph: Graph, expr: Expr) -> tuple[Expr, Params] | None:
    """The 8-bit tensor that ``expr`` is the dequantized form of, with its parameters."""
    call = graph.value(expr)
    params = params_of(call) if op_name(call) == DEQUANTIZE else None
    return None if params is None or params.dtype not in BYTES else (call.args[0], params)


def quantizes_to_bytes(call: Expr) -> Params | None:
    """Parameters of a quantize to 8 bits; None for anything else."""
    params = params_of(call) if op_name(call) == QUANTIZE else None
    return None if params is None or params.dtype not in BYTES else params
