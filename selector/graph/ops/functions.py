"""Which tensors of a block are elementwise functions of one 8-bit tensor.

    quantize(f(dequantize(q)))

``f`` is anything made of the operators below that reads no other tensor, such as a sigmoid or hard-swish; it may
quantize and dequantize on the way.  Every tensor's 256 values are made of those of its operands, however long the
chain is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm

from selector.graph.constants import prim_value
from selector.graph.ir import Bindings, Expr, constant, dtype_of, op_name, static_shape
from selector.graph.quantization import BYTES, DEQUANTIZE, QUANTIZE, params_of, quantizes_to_bytes

_Array = np.ndarray
_HALF = np.float32(0.5)


def _erf(x: _Array) -> _Array:
    return np.array([math.erf(value) for value in x], "float32")


def _sigmoid(x: _Array) -> _Array:
    return (1 / (1 + np.exp(-x.astype("float64")))).astype("float32")


_CHEAP: dict[str, Callable[..., _Array]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.negative": np.negative,
    "relax.abs": np.abs,
    "relax.nn.relu": lambda x: np.maximum(x, np.float32(0)),
    "relax.nn.relu6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "relax.nn.leakyrelu": np.asarray,  # its slope is an attribute, see _computed
    "relax.clip": np.asarray,  # its bounds are immediates, see _computed
}
_DEAR: dict[str, Callable[..., _Array]] = {
    "relax.sigmoid": _sigmoid,
    "relax.tanh": np.tanh,
    "relax.exp": np.exp,
    "relax.log": np.log,
    "relax.sqrt": np.sqrt,
    "relax.erf": _erf,
    "relax.nn.silu": lambda x: x * _sigmoid(x),
    "relax.nn.gelu": lambda x: x * (_HALF + _HALF * _erf(x / np.float32(math.sqrt(2)))),
}
_FUNCTIONS = _CHEAP | _DEAR
_MANY = 3  # so many cheap operators cost more than looking up


@dataclass(frozen=True)
class Function:
    """A tensor as a function of one 8-bit tensor, element by element."""

    data: Expr
    values: _Array  # (256,), of every byte of the data: float32, or of the dtype of an 8-bit tensor
    cheap: int = 0  # operators on the way
    dear: int = 0


class Functions:
    """Those of one block, found binding by binding from the front to the back."""

    def __init__(self, bindings: Bindings) -> None:
        self._known: dict[Expr, Function] = {}
        for binding in bindings:
            self._see(binding.var, binding.value)

    def _see(self, var: Expr, call: Expr) -> None:
        name = op_name(call) or ""
        if name == DEQUANTIZE:
            found = self._dequantized(call)
        elif name == QUANTIZE:
            found = self._quantized(call)
        elif name in _FUNCTIONS and dtype_of(call) == "float32":
            found = self._applied(name, call)
        else:
            found = self._known.get(call) if isinstance(call, tvm.ir.Var) else None
        if found is not None:
            self._known[var] = found

    def lookup(self, var: Expr) -> tuple[Expr, np.ndarray] | None:
        """The 8-bit tensor that ``var``, of 8 bits too, is a function of, and that function's 256 values.

        Entry ``i`` belongs to the byte ``i``, so for int8 the negative numbers come last.  None where there is no such
        function or where computing it is cheaper.
        """
        found = self._known.get(var)
        if found is None or found.values.dtype == np.float32 or not (found.dear or found.cheap >= _MANY):
            return None
        return found.data, found.values

    def _dequantized(self, call: Expr) -> Function | None:
        data, params = call.args[0], params_of(call)
        if params is None or params.dtype not in BYTES:
            return None
        before = self._known.get(data)
        values = params.all_values()
        return Function(data, values) if before is None else replace(before, values=values[before.values.view("uint8")])

    def _quantized(self, call: Expr) -> Function | None:
        params, before = quantizes_to_bytes(call), self._known.get(call.args[0])
        if params is None or before is None:
            return None
        with np.errstate(all="ignore"):  # what is not a number for some of the 256 is so in the network, too
            levels = params.levels(before.values)
        return None if np.isnan(levels).any() else replace(before, values=levels.astype(params.dtype))

    def _applied(self, name: str, call: Expr) -> Function | None:
        """A function of the operands; None unless all are constants or functions of one tensor."""
        operands = call.args[:1] if name == "relax.clip" else call.args
        known = [self._known.get(arg) for arg in operands]
        pairs = list(zip(operands, known, strict=True))
        found = [self._scalar(arg) if item is None else item.values for arg, item in pairs]
        sources = [item for item in known if item is not None]
        arrays = [array for array in found if array is not None]
        if not sources or len(arrays) < len(found):
            return None
        if any(not item.data.same_as(sources[0].data) for item in sources):
            return None
        if any(item is not None and static_shape(arg) != static_shape(call) for arg, item in pairs):
            return None  # a constant of more dimensions
        with np.errstate(all="ignore"):
            values = _computed(name, call, arrays)
        cheap, dear = max(item.cheap for item in sources), max(item.dear for item in sources)
        return Function(sources[0].data, values, cheap + (name in _CHEAP), dear + (name in _DEAR))

    def _scalar(self, expr: Expr) -> _Array | None:
        value = constant(expr)
        return value.reshape(()) if value is not None and value.size == 1 else None


def _computed(name: str, call: Expr, args: Sequence[_Array]) -> _Array:
    """One operator in float32, of the 256 values of its operands."""
    if name == "relax.clip":
        low, high = (np.float32(prim_value(arg)) for arg in call.args[1:3])
        return np.clip(args[0], low, high)
    if name == "relax.nn.leakyrelu":
        return np.where(args[0] > 0, args[0], args[0] * np.float32(call.attrs.alpha))
    return np.asarray(_FUNCTIONS[name](*args), "float32")
