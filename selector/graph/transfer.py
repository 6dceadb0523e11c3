"""Arrays to tensors and back, for networks so small that the copies would show in their run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm

from selector.graph.legalize import TensorSpec

_SHARED = frozenset("float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64".split())  # as DLPack has them


class Inputs:
    """Tensors that the inputs of a network are copied into, made once: fresh memory costs more than the copy."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = list(specs)
        self._tensors = [tvm.runtime.empty(spec.shape, spec.dtype, tvm.cpu()) for spec in specs]
        self._views = [
            np.from_dlpack(tensor) if spec.dtype in _SHARED else None
            for spec, tensor in zip(specs, self._tensors, strict=True)
        ]

    def filled(self, values: Sequence[np.ndarray]) -> list[Any]:
        """The tensors, holding ``values`` until the next call.

        Raises ValueError for a wrong number of values, shape or dtype.
        """
        if len(values) != len(self._specs):
            raise ValueError(f"the model takes {len(self._specs)} inputs, got {len(values)}")
        arrays = [np.asarray(value) for value in values]
        for spec, array in zip(self._specs, arrays, strict=True):
            spec.check(array)
        for tensor, view, array in zip(self._tensors, self._views, arrays, strict=True):
            if view is None:
                tensor.copyfrom(np.ascontiguousarray(array))
            else:
                np.copyto(view, array)
        return self._tensors


def to_numpy(result: Any) -> list[np.ndarray]:
    """A copy of every output of a network, which returns a tensor or a tuple of them."""
    tensors = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [np.from_dlpack(item).copy() if str(item.dtype) in _SHARED else item.numpy() for item in tensors]
