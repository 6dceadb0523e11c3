"""``selector run``: a compiled library on given or random input."""

from __future__ import annotations

import statistics
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from selector.cli import common
from selector.wording import counted

if TYPE_CHECKING:
    from selector.runtime import Network

TOP = 5
TIMED_RUNS = 10

Library = Annotated[Path, typer.Argument(help="Library that 'selector compile' wrote.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        help="A .npy file per input, in model order; or NAME=FILE.npy; or one .npz of all.",
        show_default="seeded random input",
    ),
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
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="A .npy file for the output; a folder, or one .npz, where there are several.",
        show_default="none",
    ),
]


class _Given(NamedTuple):
    """One array from the command line."""

    name: str | None  # of the input; None: it goes by its place
    array: np.ndarray
    path: Path


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
    given = [item for text in inputs or [] for item in _given(text)]
    from selector import runtime
    from selector.tensors import random_inputs
    from selector.threads import host_cores

    compiled = runtime.load(library)
    compiled.threads = common.set_threads(threads or min(compiled.threads, host_cores()))
    feed = _checked(given, compiled) if given else random_inputs(compiled.inputs, seed)
    results = compiled.run(*feed)
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        compiled.run(*feed)
        times.append((time.perf_counter() - start) * 1e3)
    named = compiled.by_name(results)
    written = _write(named, output) if output else []
    outputs = [{"name": name} | _describe(array) for name, array in named.items()]
    if as_json:
        common.print_json(
            {
                "library": str(library),
                "inputs": [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in feed],
                "random_input": not given,
                "outputs": outputs,
                "median_ms": statistics.median(times),
                "written": [str(path) for path in written],
            }
        )
        return
    out = common.console()
    for index, array in enumerate(feed):
        out.print(f"input {index}: {array.dtype} {list(array.shape)}" + ("" if given else f", random, seed {seed}"))
    for index, facts in enumerate(outputs):
        top = ", ".join(f"[{place}] {value:.6g}" for place, value in zip(facts["top"], facts["values"], strict=True))
        out.print(f"output {index}: {facts['dtype']} {facts['shape']}, largest: {top}", markup=False)
    out.print(f"median of {TIMED_RUNS} runs: {statistics.median(times):.2f} ms")
    for path in written:
        out.print(f"wrote {path}")


def _given(text: str) -> list[_Given]:
    """The arrays that one ``--input`` names."""
    name, found, rest = text.partition("=")
    path = Path(rest if found and not Path(text).exists() else text)
    if path.suffix != ".npz":
        return [_Given(name if str(path) != text else None, _load(path), path)]
    common.existing_file(path, "the input")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found_in = [_Given(key, arrays[key], path) for key in arrays.files]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise common.BadInput(f"{path} holds no arrays in .npz format: {error}") from None
    if not found_in:
        raise common.BadInput(f"{path} holds no arrays")
    return found_in


def _load(path: Path) -> np.ndarray:
    common.existing_file(path, "the input")
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise common.BadInput(f"{path} is not an array in .npy format: {error}") from None


def _checked(given: list[_Given], network: Network) -> list[np.ndarray]:
    """The arrays in the network's order.  Raises BadInput."""
    specs = network.inputs
    named = {item.name: item for item in given if item.name is not None}
    if named and len(named) < len(given):
        raise common.BadInput("name all inputs or none, and none twice")
    try:
        if named:
            network.in_order({name: item.array for name, item in named.items()})
            given = [named[spec.name] for spec in specs]
        if len(given) != len(specs):
            wanted = ", ".join(spec.name for spec in specs)
            text = f"{counted(len(specs), 'input')} ({wanted})"
            raise common.BadInput(f"the network has {text}, got {len(given)} --input")
        specs = list(network.variants[network.variant_for([item.array for item in given])].inputs)
    except ValueError as error:
        raise common.BadInput(f"{', '.join(str(item.path) for item in given)}: {error}") from None
    for item, spec in zip(given, specs, strict=True):
        try:
            spec.check(item.array)
        except ValueError as error:
            raise common.BadInput(f"{item.path}: {error}") from None
    return [item.array for item in given]


def _describe(array: np.ndarray) -> dict[str, Any]:
    flat = array.reshape(-1)
    top = np.argsort(-flat.astype(np.float64), kind="stable")[:TOP]
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "top": [int(place) for place in top],
        "values": [float(flat[place]) for place in top],
    }


def _write(named: dict[str, np.ndarray], output: Path) -> list[Path]:
    results = list(named.values())
    try:
        if output.suffix == ".npz":
            np.savez(output, **named)  # type: ignore[arg-type]
            return [output]
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
