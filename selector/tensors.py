"""Inputs and outputs of a compiled network.  Needs TVM's runtime only, not its compiler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.ffi import tvm_ffi
from selector.wording import counted

_ALIGNMENT = 64  # bytes; what TVM's kernels expect of every tensor


@dataclass(frozen=True)
class TensorSpec:
    """One input of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """As the option --shape has it: ``x=1x3x224x224``."""
        return f"{self.name}={'x'.join(map(str, self.shape))}"

    def check(self, value: np.ndarray) -> None:
        """Raise ValueError if ``value`` is not such a tensor."""
        if value.shape != self.shape or str(value.dtype) != self.dtype:
            raise ValueError(f"input '{self.name}' is {self.dtype} {self.shape}, got {value.dtype} {value.shape}")


class Inputs:
    """Tensors that the inputs of a network are copied into, made once: fresh memory costs more than the copy."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = list(specs)
        self._arrays = [_aligned(spec) for spec in specs]
        self._tensors = [tvm_ffi.from_dlpack(array) for array in self._arrays]

    def filled(self, values: Sequence[np.ndarray]) -> list[Any]:
        """The tensors, holding ``values`` until the next call.

        Raises ValueError for a wrong number of values, shape or dtype.
        """
        if len(values) != len(self._specs):
            raise ValueError(f"the model takes {counted(len(self._specs), 'input')}, got {len(values)}")
        for spec, value in zip(self._specs, values, strict=True):
            if isinstance(value, np.ma.MaskedArray):
                raise ValueError(f"input '{spec.name}' is masked: fill what is masked first, e.g. with filled(0)")
        arrays = [np.asarray(value) for value in values]
        for spec, array in zip(self._specs, arrays, strict=True):
            spec.check(array)
        for mine, array in zip(self._arrays, arrays, strict=True):
            np.copyto(mine, array)
        return self._tensors


def to_numpy(result: Any) -> list[np.ndarray]:
    """A copy of every output of a network, which returns a tensor or a tuple of them."""
    tensors = [result] if isinstance(result, tvm_ffi.Tensor) else list(result)
    return [np.from_dlpack(tensor).copy() for tensor in tensors]


def random_inputs(specs: Sequence[TensorSpec], seed: int = 0) -> list[np.ndarray]:
    """Seeded input: standard normal for floats, the full range for 8-bit integers, 0 and 1 for anything else."""
    rng = np.random.default_rng(seed)
    feed = []
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            feed.append(rng.standard_normal(spec.shape, np.float32).astype(dtype))
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            info = np.iinfo(dtype)
            feed.append(rng.integers(info.min, info.max, spec.shape, dtype, endpoint=True))
        else:
            feed.append(rng.integers(0, 2, spec.shape).astype(dtype))
    return feed


def _aligned(spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    size = dtype.itemsize * int(np.prod(spec.shape))
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(spec.shape)
