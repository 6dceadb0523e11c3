"""Elementwise functions of one 8-bit tensor, as tables of 256 entries.

    quantize(f(dequantize(q)))  ->  table[q]

``f`` is anything made of the operators below that reads no other tensor, such as a sigmoid or hard-swish; it may
quantize and dequantize on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from selector.graph.constants import prim_value
from selector.graph.integer import params_of
from selector.graph.ir import Expr, Graph, constant, dtype_of, op_name
from selector.graph.kernels import Params

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
    "relax.nn.leakyrelu": np.asarray,  # its slope is an attribute, see _evaluate
    "relax.clip": np.asarray,  # its bounds are immediates, see _evaluate
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


def lookup(graph: Graph, call: Expr, out: Params) -> tuple[Expr, np.ndarray] | None:
    """The 8-bit tensor that a ``relax.quantize`` is a function of, and that function's 256 values.

    Entry ``i`` belongs to the byte ``i``, so for int8 the negative numbers come last.  None where there is no such
    function or where computing it is cheaper.
    """
    found = _Function(graph)
    if not found.scan(call.args[0]) or found.data is None or not (found.dear or found.cheap >= _MANY):
        return None
    with np.errstate(all="ignore"):  # what is not a number for some of the 256 is so in the network, too
        stored = np.arange(256).astype("uint8").view(str(dtype_of(found.data)))
        levels = _levels(found.evaluate(call.args[0], stored.astype("float32")), out)
    return None if np.isnan(levels).any() else (found.data, levels.astype(out.dtype))


def _levels(values: _Array, params: Params) -> _Array:
    """Quantized values, still as float32, since some may be NaN."""
    info = np.iinfo(params.dtype)
    return np.clip(np.rint(values / np.float32(params.scale)) + np.float32(params.zero_point), info.min, info.max)


class _Function:
    """An elementwise expression over one dequantized tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.data: Expr | None = None
        self.cheap = 0
        self.dear = 0
        self._scanned: dict[Expr, bool] = {}
        self._values: dict[Expr, _Array] = {}

    def scan(self, expr: Expr) -> bool:
        """Whether ``expr`` is such an expression; counts its operators."""
        if expr not in self._scanned:
            self._scanned[expr] = self._scan(expr)
        return self._scanned[expr]

    def _scan(self, expr: Expr) -> bool:
        call = self.graph.value(expr)
        name = op_name(call)
        if name is None:
            value = constant(call)
            return value is not None and value.size == 1 and value.ndim <= 1
        if name == "relax.dequantize":
            params = params_of(call, dtype_of(call.args[0]))
            return params is not None and (self._scan_inner(call.args[0]) or self._is_data(call.args[0]))
        if name not in _FUNCTIONS or dtype_of(call) != "float32":
            return False
        self.cheap += name in _CHEAP
        self.dear += name in _DEAR
        return all(self.scan(arg) for arg in (call.args[:1] if name == "relax.clip" else call.args))

    def _scan_inner(self, expr: Expr) -> bool:
        """Whether the 8-bit tensor ``expr`` is computed by such an expression itself."""
        call = self.graph.value(expr)
        if op_name(call) != "relax.quantize" or params_of(call, dtype_of(call)) is None:
            return False
        before = self.data, self.cheap, self.dear, dict(self._scanned)
        if self.scan(call.args[0]):
            return True
        self.data, self.cheap, self.dear, self._scanned = before
        return False

    def _is_data(self, expr: Expr) -> bool:
        """Whether ``expr`` can be the one tensor that everything is a function of."""
        self.data = expr if self.data is None else self.data
        return bool(self.data.same_as(expr))

    def evaluate(self, expr: Expr, levels: _Array) -> _Array:
        """The expression in float32, one operator at a time, where the tensor has the values ``levels``."""
        if expr not in self._values:
            self._values[expr] = self._evaluate(expr, levels)
        return self._values[expr]

    def _evaluate(self, expr: Expr, levels: _Array) -> _Array:
        call = self.graph.value(expr)
        name = op_name(call)
        if name is None:
            return np.asarray(constant(call)).reshape(())
        if name == "relax.dequantize":
            params = params_of(call, dtype_of(call.args[0]))
            assert params is not None
            assert self.data is not None
            if not self.data.same_as(call.args[0]):
                inner = self.graph.value(call.args[0])
                between = params_of(inner, dtype_of(inner))
                assert between is not None
                levels = _levels(self.evaluate(inner.args[0], levels), between)
            return (levels - np.float32(params.zero_point)) * np.float32(params.scale)
        if name == "relax.clip":
            low, high = (np.float32(prim_value(arg)) for arg in call.args[1:3])
            return np.clip(self.evaluate(call.args[0], levels), low, high)
        args = [self.evaluate(arg, levels) for arg in call.args]
        if name == "relax.nn.leakyrelu":
            return np.where(args[0] > 0, args[0], args[0] * np.float32(call.attrs.alpha))
        return np.asarray(_FUNCTIONS[name](*args), "float32")
