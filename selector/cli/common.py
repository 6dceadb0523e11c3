"""What every command shares: options, output for people and machines, progress, exit codes.

Exit codes: 0 done, 1 the work failed, 2 bad input or usage.  Errors are one line on standard error; ``--debug`` shows
the traceback instead.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from selector.wording import counted

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_MOSTLY = 0.5
PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe

Model = Annotated[Path, typer.Argument(help="Quantized network: ONNX (QDQ or QOperator) or TFLite.")]
Target = Annotated[
    str, typer.Option(help="'native', an LLVM cpu name (znver3, x86-64-v2, cortex-a72), or a TVM target as JSON.")
]
# Names and default are also those of ``selector.policy.registry``; to import it takes TVM's compiler, and seconds.
POLICIES = "learned, measure, roofline, rule, int8 or int16"
DEFAULT_POLICY = "learned"
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy", help=f"Who chooses the lowering of each convolution: {POLICIES}.", show_default=DEFAULT_POLICY
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads the network runs on.", show_default="the CPUs of this machine")
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="Shape of an input, e.g. images=1x3x640x640; several of one input make a library for each of them.",
        show_default="file's",
    ),
]
Batch = Annotated[
    list[int] | None,
    typer.Option(
        "--batch",
        min=1,
        help="First dimension of all inputs without --shape; several make a library for each of them.",
        show_default="file's",
    ),
]
LazyWeights = Annotated[
    bool,
    typer.Option(
        "--lazy-weights/--no-lazy-weights",
        help="Keep weights small in the library, and transform them when it is loaded.",
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(
        help="Most bytes of the library, e.g. 20MB: lowerings that gain little time for many bytes are given up.",
        show_default="any",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# The errors that say the user's input is at fault.  By name: importing them would load TVM's compiler, which takes
# seconds, and which a device that only runs networks does not have.
BAD_INPUT_TYPES = (
    "selector.cli.common.BadInput",
    "selector.collect.architectures.ArchitectureError",
    "selector.collect.llvm_mca.ModelUnavailable",
    "selector.collect.record.DatasetError",
    "selector.cross.LinkerNotFound",
    "selector.kernel_cases.ShapesError",
    "selector.learn.errors.RecipeError",
    "selector.learn.errors.UnknownModel",
    "selector.peers.PeerUnavailable",
    "selector.policy.budget.SizeError",
    "selector.policy.registry.UnknownPolicy",
    "selector.policy.release.ReleaseError",
    "selector.profiles.ProfileError",
    "selector.report.roofline.PlotUnavailable",
    "selector.runtime.ModelError",
    "selector.runtime_wheel.NoRuntime",
    "selector.target.NotMeasurable",
    "selector.target.UnknownTarget",
)

# Packages that do not come with Selector itself, as they are imported, and the extra that brings them.
EXTRAS = {
    "ai_edge_litert": "tflite",
    "cloudpickle": "collect",
    "lightgbm": "train",
    "matplotlib": "bench",
    "mlflow": "train",
    "onnxruntime": "bench",
    "optuna": "train",
    "pebble": "collect",
    "polars": "collect",
    "psutil": "collect",
    "pyarrow": "collect",
    "sklearn": "train",
    "tflite": "tflite",
    "tomli": "train",
    "tornado": "collect",
}

P = ParamSpec("P")
T = TypeVar("T")


class BadInput(ValueError):
    """What the user gave cannot be used; the message is one line that says why."""


class WorkFailed(RuntimeError):
    """The input was good and the work did not succeed; the message is one line."""


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions into one line on standard error and an exit code; needs a parameter ``debug``.

    Warnings become a line each.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                function(*args, **kwargs)
        except (typer.Exit, typer.Abort, KeyboardInterrupt):
            raise
        except Exception as error:
            if kwargs.get("debug"):
                raise
            if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
                error = _missing("this", [(error.name or "").split(".")[0]])
            bad_input = _is_bad_input(error)
            text = _first_line(error)
            if not bad_input and not isinstance(error, WorkFailed):
                text = f"{type(error).__name__}: {text} (--debug shows the traceback)"
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT if bad_input else EXIT_FAILED) from None

    return wrapper


def require(what: str, *packages: str, extra: str | None = None) -> None:
    """Raises BadInput, before any work, where ``what`` needs packages that are not installed."""
    missing = [name for name in packages if not _installed(name)]
    if missing:
        raise _missing(what, missing, extra)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it was imported in an odd way, or is kept from being imported
        return False


def _missing(what: str, packages: list[str], extra: str | None = None) -> BadInput:
    extras = ",".join(sorted({extra or EXTRAS[name] for name in packages}))
    return BadInput(f"{what} needs {', '.join(packages)}: pip install 'tvm-selector[{extras}]'")


def existing_file(path: Path, what: str) -> Path:
    """The path, if a readable file is there; raises BadInput."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not {what}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadInput(f"cannot read {what} {path}: {error.strerror}") from None
    return path


def parse_variants(shapes: list[str] | None, batches: list[int] | None) -> list[dict[str, Any]]:
    """Arguments ``shapes`` and ``batch`` of ``selector.load``, for each of the variants that are asked for.

    The i-th variant has the i-th shape of every input and the i-th batch; what is given once is the same in all.
    Raises BadInput.
    """
    sizes = _parse_shapes(shapes)
    given = {f"{len(found)} shapes of '{name}'": found for name, found in sizes.items()}
    every = given | {f"{len(batches)} batches": batches} if batches else given
    several = {text: len(values) for text, values in every.items() if len(values) > 1}
    if len(set(several.values())) > 1:
        raise BadInput(f"give every --shape and --batch once or equally often, not {' and '.join(several)}")

    def pick(values: Sequence[T], index: int) -> T:
        return values[index] if len(values) > 1 else values[0]

    return [
        {
            "shapes": {name: pick(found, index) for name, found in sizes.items()},
            "batch": pick(batches, index) if batches else None,
        }
        for index in range(max(several.values(), default=1))
    ]


def _parse_shapes(texts: list[str] | None) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of each input from ``name=1x3x640x640``; raises BadInput."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for text in texts or []:
        name, _, numbers = text.rpartition("=")
        sizes = numbers.lower().split("x")
        if not name or not all(size.isdecimal() and int(size) for size in sizes):
            raise BadInput(f"--shape is an input and its sizes, e.g. images=1x3x640x640, not '{text}'")
        found.setdefault(name, []).append(tuple(map(int, sizes)))
    return found


def parse_size(text: str | None) -> int | None:
    """Bytes of a size like 20MB, 512 KiB or 4000000; None stays None.  Raises BadInput."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmg])(i?)b|b)?\s*", text.lower())
    if match is None or not float(match[1]):
        raise BadInput(f"--max-size is a number of bytes, e.g. 20MB or 512KiB, not '{text}'")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmg".index(prefix) if prefix else 0))


def resolve_target(target: str) -> str:
    """The target, checked: a name, or a target of TVM as JSON.  Raises UnknownTarget."""
    from selector.target import profile

    profile(target)
    return target


def resolve_policy(policy: str | None) -> str:
    """Name of the policy in force (None: the default).  Raises UnknownPolicy."""
    from selector.policy import registry

    name = registry.DEFAULT if policy is None else policy
    registry.resolve(name)
    return name


def describe_counts(counts: Mapping[str, int]) -> str:
    """One sentence about how many layers got which lowering (``tvm``: none of Selector's)."""
    quantized = {name: count for name, count in counts.items() if name != "tvm"}
    if not quantized:
        return (
            "no layer of the network is quantized, all of it is compiled as TVM has it: quantize it first, e.g. with "
            "onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ)"
        )
    text = ", ".join(f"{count} as {name}" for name, count in quantized.items())
    left = counts.get("tvm", 0)
    text = f"{counted(sum(quantized.values()), 'quantized layer')}: {text}"
    return f"{text}; {left} left as TVM has {'it' if left == 1 else 'them'}" if left else text


def warn_of_float(share: float) -> None:
    """Say so where most of a network's work is left in float32."""
    if share > _MOSTLY:
        typer.echo(f"warning: {share:.0%} of the multiply-accumulates are in layers that stay in float32", err=True)


def set_threads(threads: int | None) -> int:
    """Threads to use (None: the CPUs this process may run on); sets up TVM's thread pool: call it before any work."""
    from selector.threads import host_cores, share_process

    count = threads or host_cores()
    share_process(count)
    return count


def print_json(value: dict[str, Any]) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2))


def console() -> Console:
    """Standard output for people: as wide as COLUMNS or the terminal, PIPE_WIDTH columns where there is neither."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(highlight=False, width=None if known else PIPE_WIDTH)


@contextmanager
def progress(text: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A spinner and a bar on standard error while the block runs; nothing where that is no terminal, or if ``quiet``.

    Yields ``update(description=…, fraction=…)``.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    disabled = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=disabled) as bar:
        task = bar.add_task(text, total=None)

        def update(description: str | None = None, fraction: float | None = None) -> None:
            if description is not None:
                bar.update(task, description=description)
            if fraction is not None:
                bar.update(task, total=1.0, completed=fraction)

        yield update


def _is_bad_input(error: Exception) -> bool:
    """Whether the error says that the user's input is at fault."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in BAD_INPUT_TYPES for kind in type(error).__mro__)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"
