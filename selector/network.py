"""Compiled networks that run.  Needs TVM's runtime only, not its compiler."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.pool import Pool
from selector.tensors import Inputs, TensorSpec, to_numpy
from selector.threads import host_cores, with_threads

SHORT = 50e-6  # seconds; calls that take less keep Python's lock: waiting for it again would take longer


@dataclass(frozen=True)
class Variant:
    """A compiled network in one set of shapes."""

    function: str  # of the library
    inputs: tuple[TensorSpec, ...]  # in the order that run takes them
    outputs: tuple[TensorSpec, ...] = ()  # in the order that run gives them

    def __str__(self) -> str:
        """Its shapes: ``x=1x3x224x224``."""
        return " ".join(map(str, self.inputs))


class Network:
    """A compiled network: what runs it, its inputs and outputs, and the threads it runs on.

    Any number of threads may call it.  Each call has a virtual machine of its own, of at most ``concurrency`` (None:
    the number of CPUs); what cannot run at once waits.  Constants are shared.  A child of a fork may call it, too.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        threads: int,
        variants: Sequence[Variant],
        concurrency: int | None = None,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.threads = threads
        self.variants = list(variants)  # one for each set of shapes, in the order they were given
        self._start = start
        self._parallel = threads > 1  # whether kernels were made for several threads
        self._machines = Pool(lambda: Machine(start(), self.variants), concurrency or host_cores())
        self._by_shapes = {tuple(spec.shape for spec in one.inputs): i for i, one in enumerate(self.variants)}

    @property
    def inputs(self) -> list[TensorSpec]:
        """Inputs in the order that run takes them, in the first of the shapes."""
        return list(self.variants[0].inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Outputs in the order that run gives them, in the first of the shapes."""
        return list(self.variants[0].outputs)

    @functools.cached_property
    def vm(self) -> Any:
        """A virtual machine of TVM's, for one thread at a time."""
        return self._start()

    def variant_for(self, inputs: Sequence[np.ndarray]) -> int:
        """Position in ``variants`` of the one for inputs of these shapes.

        Where there is one it is that, whatever the shapes: it says itself what is wrong with them.
        Raises ValueError, which lists the shapes that there are.
        """
        if len(self.variants) == 1:
            return 0
        shapes = tuple(np.shape(value) for value in inputs)
        index = self._by_shapes.get(shapes)
        if index is None:
            given = " ".join("x".join(map(str, shape)) or "a scalar" for shape in shapes) or "no input"
            raise ValueError(f"the network is compiled for {', '.join(map(str, self.variants))}; got {given}")
        return index

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network once.  ``inputs`` in the model's order, with its shapes and dtypes; every output, in order.

        Of several variants the one with the shapes of ``inputs`` runs.
        Raises ValueError for a wrong number of inputs, shape or dtype.
        """
        index = self.variant_for(inputs)
        with self._machines.borrow() as machine:
            if self._parallel:
                return with_threads(self.threads, machine.run, index, inputs)
            return machine.run(index, inputs)

    def run_named(self, inputs: Mapping[str, np.ndarray] | None = None, **more: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network once, with inputs and outputs by name.

        Raises ValueError for names that the network lacks or that are missing, and as ``run`` does.
        """
        return self.by_name(self.run(*self.in_order({**(inputs or {}), **more})))

    def in_order(self, named: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Inputs by name as ``run`` takes them.  Raises ValueError for names that are unknown or missing."""
        names = [spec.name for spec in self.inputs]
        wrong = [f"has no input '{name}'" for name in named if name not in names]
        wrong += [f"needs the input '{name}' too" for name in names if name not in named]
        if wrong:
            raise ValueError(f"the network {wrong[0]}; its inputs are {', '.join(names)}")
        return [named[name] for name in names]

    def by_name(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What ``run`` gave, by the names of the outputs; by numbers for a library that does not tell them."""
        names = [spec.name for spec in self.outputs] or [f"output_{index}" for index in range(len(outputs))]
        return dict(zip(names, outputs, strict=True))


class Machine:
    """A virtual machine and the memory that its inputs are copied into: for one call at a time."""

    def __init__(self, vm: Any, variants: Sequence[Variant]) -> None:
        self.vm = vm
        self._variants = variants
        self._ready: dict[int, tuple[Any, Inputs]] = {}  # function and staged inputs of those that have run

    def prepared(self, index: int) -> tuple[Any, Inputs]:
        """The function of a variant, looked up once, and what its inputs are copied into."""
        if index not in self._ready:
            variant = self._variants[index]
            self._ready[index] = self.vm[variant.function], Inputs(variant.inputs)
        return self._ready[index]

    def run(self, index: int, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Copies of the outputs of a variant."""
        function, staged = self.prepared(index)
        tensors = staged.filled(inputs)
        started = time.perf_counter()
        result = function(*tensors)
        if function.release_gil and time.perf_counter() - started < SHORT:
            function.release_gil = False
        return to_numpy(result)
