"""``selector run``: a compiled library on given or random input."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from selector.cli import common

if TYPE_CHECKING:
    from selector.runtime import Network

TOP = 5
TIMED_RUNS = 10

Library = Annotated[Path, typer.Argument(help="Library that 'selector compile' wrote.")]
Inputs = Annotated[
    list[Path] | None,
    typer.Option("--input", "-i", help="A .npy file per input, in model order.", show_default="seeded random input"),
]
RunThreads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads to run on at most.",
        show_default="those it was compiled for, as far as there are CPUs",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="A .npy file for the output; a folder where there are several.")
]


@common.command
def run(
    library: Library,
    inputs: Inputs = None,
    output: Output = None,
    threads: RunThreads = None,
    seed: Annotated[int, typer.Option(help="Seed of the random input.")] = 0,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Run a compiled network; prints shapes, the largest values and the time.

    Of several shapes those of the input; random input has the first.
    """
    common.existing_file(library, "the library")
    arrays = [_load(path) for path in inputs or []]
    from selector import runtime
    from selector.tensors import random_inputs
    from selector.threads import host_cores

    compiled = runtime.load(library)
    compiled.threads = common.set_threads(threads or min(compiled.threads, host_cores()))
    feed = _checked(arrays, compiled, inputs or []) if arrays else random_inputs(compiled.inputs, seed)
    results = compiled.run(*feed)
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        compiled.run(*feed)
        times.append((time.perf_counter() - start) * 1e3)
    written = _write(results, output) if output else []
    outputs = [_describe(array) for array in results]
    if as_json:
        common.print_json(
            {
                "library": str(library),
                "inputs": [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in feed],
                "random_input": not arrays,
                "outputs": outputs,
                "median_ms": statistics.median(times),
                "written": [str(path) for path in written],
            }
        )
        return
    out = common.console()
    for index, array in enumerate(feed):
        out.print(f"input {index}: {array.dtype} {list(array.shape)}" + ("" if arrays else f", random, seed {seed}"))
    for index, facts in enumerate(outputs):
        top = ", ".join(f"[{place}] {value:.6g}" for place, value in zip(facts["top"], facts["values"], strict=True))
        out.print(f"output {index}: {facts['dtype']} {facts['shape']}, largest: {top}", markup=False)
    out.print(f"median of {TIMED_RUNS} runs: {statistics.median(times):.2f} ms")
    for path in written:
        out.print(f"wrote {path}")


def _load(path: Path) -> np.ndarray:
    common.existing_file(path, "the input")
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise common.BadInput(f"{path} is not an array in .npy format: {error}") from None


def _checked(arrays: list[np.ndarray], network: Network, paths: list[Path]) -> list[np.ndarray]:
    specs = network.inputs
    if len(arrays) != len(specs):
        wanted = ", ".join(spec.name for spec in specs)
        raise common.BadInput(
            f"the network has {len(specs)} input{'s' if len(specs) > 1 else ''} ({wanted}), got {len(arrays)} --input"
        )
    try:
        specs = list(network.variants[network.variant_for(arrays)].inputs)
    except ValueError as error:
        raise common.BadInput(f"{', '.join(map(str, paths))}: {error}") from None
    for array, spec, path in zip(arrays, specs, paths, strict=True):
        try:
            spec.check(array)
        except ValueError as error:
            raise common.BadInput(f"{path}: {error}") from None
    return arrays


def _describe(array: np.ndarray) -> dict[str, Any]:
    flat = array.reshape(-1)
    top = np.argsort(-flat.astype(np.float64), kind="stable")[:TOP]
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "top": [int(place) for place in top],
        "values": [float(flat[place]) for place in top],
    }


def _write(results: list[np.ndarray], output: Path) -> list[Path]:
    try:
        if len(results) == 1 and output.suffix == ".npy":
            np.save(output, results[0])
            return [output]
        output.mkdir(parents=True, exist_ok=True)
        paths = [output / f"output_{index}.npy" for index in range(len(results))]
        for path, array in zip(paths, results, strict=True):
            np.save(path, array)
    except OSError as error:
        raise common.BadInput(f"cannot write {output}: {error.strerror}") from None
    return paths
