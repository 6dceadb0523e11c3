"""Weights of a saved library: mapped where they lie in it, or made of what lies there when it is loaded.

A library's functions take them as their last parameters.  Needs TVM's runtime only, not its compiler.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selector.ffi import tvm_ffi
from selector.threads import with_threads

SYMBOL = "selector_weights"  # where the weights begin in a library
ALIGNMENT = 64  # bytes, of every weight: what TVM's kernels expect
_DONT_NEED = 4  # Linux's madvise: the pages are read from the file again when they are needed


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a library."""

    offset: int  # from SYMBOL, bytes
    shape: tuple[int, ...]  # as the functions take it
    dtype: str
    maker: str = ""  # function (stored, weight) of the library that makes it of flat stored weights; "": it is stored
    stored_size: int = 0  # elements of what it is made of ...
    stored_dtype: str = ""  # ... and their type

    @property
    def elements(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that kernels read."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes in the library."""
        return self.stored_size * np.dtype(self.stored_dtype).itemsize if self.maker else self.nbytes

    def stored(self, start: int) -> np.ndarray:
        """What the library holds, flat, nobody's to write; ``start``: the address of SYMBOL."""
        memory = (ctypes.c_uint8 * self.stored_bytes).from_address(start + self.offset)
        return np.ctypeslib.as_array(memory).view(self.stored_dtype or self.dtype)


def load(path: Path, library: Any, weights: Sequence[StoredWeight], threads: int) -> list[Any]:
    """The weights as tensors, of a library that is loaded from ``path``; they are made on ``threads`` threads.

    They are valid as long as the library is.  Raises ValueError for a library without them.
    """
    if not weights:
        return []
    start = _address(path)
    arrays = [weight.stored(start) for weight in weights]
    lazy = [index for index, weight in enumerate(weights) if weight.maker]
    for index, memory in zip(lazy, _aligned([weights[index].nbytes for index in lazy]), strict=True):
        weight, made = weights[index], memory.view(weights[index].dtype)
        make = library.get_function(weight.maker, query_imports=True)
        with_threads(threads, make, tvm_ffi.from_dlpack(arrays[index]), tvm_ffi.from_dlpack(made))
        _forget(start + weight.offset, weight.stored_bytes)
        arrays[index] = made
    return [tvm_ffi.from_dlpack(array.reshape(one.shape)) for array, one in zip(arrays, weights, strict=True)]


def bind(machine: Any, functions: Iterable[str], weights: Sequence[Any]) -> None:
    """Give functions of a virtual machine their weights: they are called without them from now on."""
    if weights:
        for name in functions:
            machine["save_function"](name, name, True, *weights)


def from_metadata(rows: Iterable[Mapping[str, Any]]) -> list[StoredWeight]:
    """The weights as the compiler wrote them down."""
    return [StoredWeight(**{**row, "shape": tuple(row["shape"])}) for row in rows]


def _address(path: Path) -> int:
    """Where the weights of a loaded library begin.  Raises ValueError."""
    library = ctypes.CDLL(str(path))
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, SYMBOL))
    finally:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))  # whoever has loaded it, keeps it


def _aligned(sizes: Sequence[int]) -> list[np.ndarray]:
    """Bytes for several arrays, in one piece of fresh memory."""
    starts = np.cumsum([0] + [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes])
    memory = np.empty(int(starts[-1]) + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return [memory[first + start : first + start + size] for start, size in zip(starts[:-1], sizes, strict=True)]


def _forget(start: int, size: int) -> None:
    """Let the system take back the whole pages of the file in these bytes, which nobody needs any more."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)
