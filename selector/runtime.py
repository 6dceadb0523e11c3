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
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from tvm_ffi.libinfo import load_lib_ctypes

from selector import cpuinfo, elf
from selector.quiet import without_scope_warnings
from selector.tensors import Inputs, TensorSpec, to_numpy
from selector.threads import start_pool, use_threads

METADATA = "selector_metadata"  # function of every compiled network: no arguments, returns JSON as a uint8 tensor
_CPU = (1, 0)  # DLPack's device type and the index of the device
_POOLED = 2  # TVM's allocator that keeps what a run has freed for the next


class ModelError(ValueError):
    """The model cannot be used; one line: what was wanted, what was given, what to do."""


class Network:
    """A compiled network: what runs it, its inputs, and the threads it runs on."""

    def __init__(self, start: Callable[[], Any], threads: int, inputs: Sequence[TensorSpec]) -> None:
        self._start = start
        self.threads = threads
        self.inputs = list(inputs)  # in the order that run takes them

    @functools.cached_property
    def vm(self) -> Any:
        """TVM's virtual machine; made on first use, since what is compiled for another CPU cannot be loaded here."""
        return self._start()

    @functools.cached_property
    def _main(self) -> Any:
        return self.vm["main"]

    @functools.cached_property
    def _staged(self) -> Inputs:
        return Inputs(self.inputs)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network once.  ``inputs`` in the model's order, with its shapes and dtypes; every output, in order.

        One call at a time: a network's memory is its own, so threads of a program need one each.
        Raises ValueError for a wrong number of inputs, shape or dtype.
        """
        tensors = self._staged.filled(inputs)
        use_threads(self.threads)
        return to_numpy(self._main(*tensors))


def load(path: str | os.PathLike[str]) -> Network:
    """Load what ``CompiledModel.save`` wrote, to run it.

    A library is code, which runs as soon as it is loaded: load those of people whom you trust.
    Raises FileNotFoundError, and ModelError for a file that is no compiled network of this machine's architecture, or
    one that uses instructions which this machine lacks.
    """
    _, machine, metadata = open_library(path)
    return Network(lambda: machine, int(metadata["threads"]), input_specs(metadata))


def open_library(path: str | os.PathLike[str]) -> tuple[Any, Any, dict[str, Any]]:
    """(library, virtual machine on it, what the compiler wrote into it).  Raises as ``load`` does."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    start_pool()
    load_runtime()
    try:
        damage = elf.problem(source)
        if damage:
            raise ValueError(damage)
        # an absolute path, because the loader looks a bare name up in the system's folders
        with without_scope_warnings():
            library = tvm_ffi.load_module(str(source.resolve()))
            machine = virtual_machine(library)
            metadata = _read_metadata(np.from_dlpack(machine[METADATA]()).tobytes())
            missing = cpuinfo.lacking(metadata["instructions"])
    except Exception as error:  # tvm raises several kinds for a malformed library
        raise ModelError(
            f"{source} is not a network compiled by Selector for this machine ({_last_line(error)}); "
            "make one with 'selector compile net.onnx -o net.so'"
        ) from error
    if missing:
        raise ModelError(f"{source} is compiled for {metadata['target']}: this machine lacks {', '.join(missing)}")
    return library, machine, metadata


def virtual_machine(library: Any) -> Any:
    """TVM's virtual machine on a library; its functions are looked up by name."""
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](*_CPU, _POOLED)
    return machine


def _read_metadata(text: bytes) -> dict[str, Any]:
    """What the compiler wrote into a library.  Raises ValueError where it is something else."""
    values = json.loads(text)
    try:
        texts = [values["target"], *values["instructions"]]
        numbers = [values["threads"], *(size for spec in input_specs(values) for size in spec.shape)]
        sound = isinstance(values["decisions"], list) and all(isinstance(number, int) for number in numbers)
    except (KeyError, TypeError):
        sound = False
    if not sound or not all(isinstance(text, str) for text in texts):
        raise ValueError("what the compiler wrote into it is of another version")
    return values


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def input_specs(metadata: dict[str, Any]) -> list[TensorSpec]:
    """Inputs of a network as the compiler wrote them down."""
    return [TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in metadata["inputs"]]


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
        load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
    except RuntimeError:
        raise ImportError(
            "TVM's runtime is not installed: install the package 'apache-tvm', or name the folder of its "
            "libtvm_runtime.so in TVM_LIBRARY_PATH"
        ) from None
