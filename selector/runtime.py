"""Running compiled networks on TVM's runtime alone: 3 MB of library instead of a compiler of 250 MB.

A process that only runs networks imports this module; it starts in a third of a second and stays small.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selector import cpuinfo, elf, mapped_weights
from selector.ffi import tvm_ffi
from selector.network import Network, Variant
from selector.quiet import without_scope_warnings
from selector.tensors import TensorSpec
from selector.threads import start_pool
from selector.wording import last_line

METADATA = "selector_metadata"  # function of every compiled network: no arguments, returns JSON as a uint8 tensor
_CPU = (1, 0)  # DLPack's device type and the index of the device
_POOLED = 2  # TVM's allocator that keeps what a run has freed for the next


class ModelError(ValueError):
    """The model cannot be used; one line: what was wanted, what was given, what to do."""


def load(path: str | os.PathLike[str], concurrency: int | None = None) -> Network:
    """Load what ``CompiledModel.save`` wrote, to run it; at most ``concurrency`` calls at once (None: a CPU each).

    A library is code, which runs as soon as it is loaded: load those of people whom you trust.
    Raises FileNotFoundError, ValueError for a concurrency below 1, and ModelError for a file that is no compiled
    network of this machine's architecture, or one that uses instructions which this machine lacks.
    """
    library = open_library(path)
    return Network(library.start, library.threads, library.variants, concurrency)


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
        damage = elf.problem(source)
        if damage:
            raise ValueError(damage)
        # an absolute path, because the loader looks a bare name up in the system's folders
        with without_scope_warnings():
            module = tvm_ffi.load_module(str(source.resolve()))
            metadata = _read_metadata(np.from_dlpack(virtual_machine(module)[METADATA]()).tobytes())
            missing = cpuinfo.lacking(metadata["instructions"])
            if not missing:
                rows = mapped_weights.from_metadata(metadata.get("weights", []))
                weights = mapped_weights.load(source.resolve(), module, rows, int(metadata["threads"]))
    except Exception as error:  # tvm raises several kinds for a malformed library
        raise ModelError(
            f"{source} is not a network compiled by Selector for this machine ({last_line(error)}); "
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
    outputs = metadata.get("outputs", {})
    return [Variant(name, _specs(inputs), _specs(outputs.get(name, ()))) for name, inputs in functions.items()]


def _specs(items: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in items)


def _read_metadata(text: bytes) -> dict[str, Any]:
    """What the compiler wrote into a library.  Raises ValueError where it is something else."""
    values = json.loads(text)
    try:
        texts = [values["target"], *values["instructions"]]
        specs = [spec for one in variants_of(values) for spec in (*one.inputs, *one.outputs)]
        numbers = [values["threads"], *(size for spec in specs for size in spec.shape)]
        sound = isinstance(values["decisions"], list) and all(isinstance(number, int) for number in numbers)
    except (AttributeError, KeyError, TypeError):
        sound = False
    if not sound or not all(isinstance(text, str) for text in texts):
        raise ValueError("what the compiler wrote into it is of another version")
    return values


def load_runtime() -> None:
    """Load TVM's runtime library, unless TVM has been imported and has loaded it.

    It lies in the folder that ``TVM_LIBRARY_PATH`` names, beside this module where ``selector export-runtime`` packed
    both, or in the package apache-tvm.  Raises ImportError.
    """
    if "tvm" in sys.modules:
        return
    folders = [Path(os.environ[name]) for name in ("TVM_LIBRARY_PATH",) if os.environ.get(name)]
    folders.append(Path(__file__).parent / "lib")
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
