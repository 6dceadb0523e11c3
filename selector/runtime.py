"""Running compiled networks on TVM's runtime alone: 3 MB of library instead of a compiler of 250 MB.

A process that only runs networks imports this module; it starts in a third of a second and stays small.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selector import cpuinfo, mapped_weights
from selector.ffi import tvm_ffi
from selector.quiet import without_scope_warnings
from selector.tensors import Inputs, TensorSpec, to_numpy
from selector.threads import start_pool, use_threads

METADATA = "selector_metadata"  # function of every compiled network: no arguments, returns JSON as a uint8 tensor
_CPU = (1, 0)  # DLPack's device type and the index of the device
_POOLED = 2  # TVM's allocator that keeps what a run has freed for the next


class ModelError(ValueError):
    """The model cannot be used; one line: what was wanted, what was given, what to do."""


@dataclass(frozen=True)
class Variant:
    """A compiled network in one set of shapes."""

    function: str  # of the library
    inputs: tuple[TensorSpec, ...]  # in the order that run takes them

    def __str__(self) -> str:
        """Its shapes: ``x=1x3x224x224``."""
        return " ".join(map(str, self.inputs))


class Network:
    """A compiled network: what runs it, its inputs, and the threads it runs on."""

    def __init__(self, start: Callable[[], Any], threads: int, variants: Sequence[Variant]) -> None:
        self._start = start
        self.threads = threads
        self.variants = list(variants)  # one for each set of shapes, in the order they were given
        self._ready: dict[int, tuple[Any, Inputs]] = {}  # function and staged inputs of those that have run
        self._by_shapes = {tuple(spec.shape for spec in one.inputs): i for i, one in enumerate(self.variants)}

    @property
    def inputs(self) -> list[TensorSpec]:
        """Inputs in the order that run takes them, in the first of the shapes."""
        return list(self.variants[0].inputs)

    @functools.cached_property
    def vm(self) -> Any:
        """TVM's virtual machine; made on first use, since what is compiled for another CPU cannot be loaded here."""
        return self._start()

    def variant_for(self, inputs: Sequence[np.ndarray]) -> int:
        """Position in ``variants`` of the one for inputs of these shapes.

        Where there is one it is that, whatever the shapes: it says itself what is wrong with them.
        Raises ValueError, which lists the shapes that there are.
        """
        shapes = tuple(np.shape(value) for value in inputs)
        index = self._by_shapes.get(shapes)
        if index is None and len(self.variants) > 1:
            given = " ".join("x".join(map(str, shape)) or "a scalar" for shape in shapes) or "no input"
            raise ValueError(f"the network is compiled for {', '.join(map(str, self.variants))}; got {given}")
        return index or 0

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network once.  ``inputs`` in the model's order, with its shapes and dtypes; every output, in order.

        Of several variants the one with the shapes of ``inputs`` runs.
        One call at a time: a network's memory is its own, so threads of a program need one each.
        Raises ValueError for a wrong number of inputs, shape or dtype.
        """
        function, staged = self._prepared(self.variant_for(inputs))
        tensors = staged.filled(inputs)
        use_threads(self.threads)
        return to_numpy(function(*tensors))

    def _prepared(self, index: int) -> tuple[Any, Inputs]:
        """The function of a variant, looked up once, and what its inputs are copied into."""
        if index not in self._ready:
            variant = self.variants[index]
            staged = Inputs(variant.inputs)
            self._ready[index] = self.vm[variant.function], staged
        return self._ready[index]


def load(path: str | os.PathLike[str]) -> Network:
    """Load what ``CompiledModel.save`` wrote, to run it.

    Raises FileNotFoundError, and ModelError for a file that is no compiled network of this machine's architecture, or
    one that uses instructions which this machine lacks.
    """
    library = open_library(path)
    return Network(library.start, library.threads, library.variants)


@dataclass(frozen=True)
class Library:
    """A loaded library."""

    module: Any
    metadata: dict[str, Any]  # what the compiler wrote into it
    weights: list[Any]  # tensors that its functions take, shared by all virtual machines

    @property
    def threads(self) -> int:
        """CPU threads that the network runs on."""
        return int(self.metadata["threads"])

    @property
    def variants(self) -> list[Variant]:
        """The network in each of its shapes."""
        return variants_of(self.metadata)

    def start(self) -> Any:
        """A virtual machine whose functions take inputs alone."""
        machine = virtual_machine(self.module)
        mapped_weights.bind(machine, [variant.function for variant in self.variants], self.weights)
        return machine


def open_library(path: str | os.PathLike[str]) -> Library:
    """Load a library and its weights.  Raises as ``load`` does."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    start_pool()
    load_runtime()
    weights = []
    try:
        # an absolute path, because the loader looks a bare name up in the system's folders
        with without_scope_warnings():
            module = tvm_ffi.load_module(str(source.resolve()))
            metadata = json.loads(np.from_dlpack(virtual_machine(module)[METADATA]()).tobytes())
            missing = cpuinfo.lacking(metadata["instructions"])
            if not missing:
                rows = mapped_weights.from_metadata(metadata.get("weights", []))
                weights = mapped_weights.load(source.resolve(), module, rows, int(metadata["threads"]))
    except Exception as error:  # tvm raises several kinds for a malformed library
        raise ModelError(
            f"{source} is not a network compiled by Selector for this machine ({str(error).strip().splitlines()[-1]}); "
            "make one with 'selector compile net.onnx -o net.so'"
        ) from error
    if missing:
        raise ModelError(f"{source} is compiled for {metadata['target']}: this machine lacks {', '.join(missing)}")
    return Library(module, metadata, weights)


def virtual_machine(library: Any) -> Any:
    """TVM's virtual machine on a library; its functions are looked up by name."""
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](*_CPU, _POOLED)
    return machine


def variants_of(metadata: dict[str, Any]) -> list[Variant]:
    """Variants of a network as the compiler wrote them down; older libraries have one, without its name."""
    functions = metadata["functions"] if "functions" in metadata else {"main": metadata["inputs"]}
    return [
        Variant(name, tuple(TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in inputs))
        for name, inputs in functions.items()
    ]


def load_runtime() -> None:
    """Load TVM's runtime library, unless TVM has been imported and has loaded it.

    It lies in the folder that ``TVM_LIBRARY_PATH`` names, or in the package apache-tvm.  Raises ImportError.
    """
    if "tvm" in sys.modules:
        return
    folders = [Path(os.environ[name]) for name in ("TVM_LIBRARY_PATH",) if os.environ.get(name)]
    package = importlib.util.find_spec("tvm")
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "lib")
    try:
        tvm_ffi.libinfo.load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
    except RuntimeError:
        raise ImportError(
            "TVM's runtime is not installed: install the package 'apache-tvm', or name the folder of its "
            "libtvm_runtime.so in TVM_LIBRARY_PATH"
        ) from None
