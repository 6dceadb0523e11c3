"""The typer application and its sub-commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import selector
from selector.cli import collect_data, device, models
from selector.cli.bench import bench
from selector.cli.bench_kernels import bench_kernels
from selector.cli.collect import collect
from selector.cli.compile import compile_network
from selector.cli.evaluate import evaluate
from selector.cli.explain import explain
from selector.cli.export_runtime import export_runtime
from selector.cli.run import run
from selector.cli.targets import calibrate, describe, diff, list_targets, show
from selector.cli.train import train


class _WithDefault(TyperGroup):
    """``bench net.onnx`` is short for ``bench network net.onnx``: arguments that name no command go to the first."""

    # the context is of typer's own copy of click, or of the public one in older versions
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


# Examples for --help: commands and what they do, in 78 columns.
_COMPILE = (
    "selector compile net.onnx -o net.so --verify  # compared with two references",
    "selector compile net.onnx --batch 1 --batch 8 -o net.so  # one for both",
    "selector compile net.onnx --target cortex-a72 -o net.so  # for another CPU",
)
_RUN = (
    "selector run net.so  # random input: shapes, largest values, time",
    "selector run net.so --input x.npy -o y.npy  # one input, one output",
    "selector run net.so -i images=x.npy -i sizes=s.npy -o y.npz  # by name",
)
_EXPLAIN = (
    "selector explain net.onnx  # the lowering of every convolution",
    "selector explain net.onnx --details --target znver3  # why, on another CPU",
)
_BENCH = (
    "selector bench net.onnx --threads 1 --against onnxruntime  # ratios of times",
    "selector bench net.onnx --policy int8 --policy learned  # two policies",
    "selector bench net.onnx --profile  # and the time of every layer",
)
_KERNELS = ("selector bench kernels --network net.onnx  # every distinct convolution",)


def _examples(*lines: str) -> str:
    return "\n\n".join(("Examples:", *lines))  # typer joins lines that no empty one separates


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"selector {selector.__version__}")
        raise typer.Exit


app = typer.Typer(
    help="Compile quantized networks with TVM, choosing an exact integer lowering for each convolution.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself; they act before a sub-command is looked at."""


app.command("compile", epilog=_examples(*_COMPILE))(compile_network)
app.command("run", epilog=_examples(*_RUN))(run)
app.command("export-runtime")(export_runtime)
app.command("explain", epilog=_examples(*_EXPLAIN))(explain)
bench_app = typer.Typer(
    cls=_WithDefault,
    help="Time a network, or the kernels of single convolutions, in turns with peers.  `selector bench net.onnx` is "
    "short for `selector bench network net.onnx`; `selector bench network --help` lists its options.",
    epilog=_examples(*_BENCH, *_KERNELS),
)
bench_app.command("network", epilog=_examples(*_BENCH))(bench)
bench_app.command("kernels", epilog=_examples(*_KERNELS))(bench_kernels)
app.add_typer(bench_app, name="bench")
collect_app = typer.Typer(cls=_WithDefault, help="Time both lowerings of many convolutions, into a dataset.")
collect_app.command("run")(collect)
collect_app.command("status")(collect_data.status)
collect_app.command("validate")(collect_data.validate)
collect_app.command("renumber")(collect_data.renumber)
collect_app.command("merge")(collect_data.merge)
collect_app.command("diff")(collect_data.diff)
collect_app.command("plot")(collect_data.plot)
app.add_typer(collect_app, name="collect")
app.command("train")(train)
app.command("evaluate")(evaluate)
models_app = typer.Typer(help="Trained models: list, show, compare, reproduce, promote, export as a release.")
models_app.command("list")(models.list_models)
models_app.command("show")(models.show)
models_app.command("compare")(models.compare)
models_app.command("reproduce")(models.reproduce)
models_app.command("promote")(models.promote)
models_app.command("export")(models.export)
app.add_typer(models_app, name="models")
targets_app = typer.Typer(help="What is known about CPUs: list, show and compare profiles, measure or model them.")
targets_app.command("list")(list_targets)
targets_app.command("show")(show)
targets_app.command("diff")(diff)
targets_app.command("calibrate")(calibrate)
targets_app.command("describe")(describe)
app.add_typer(targets_app, name="targets")
device_app = typer.Typer(help="Machines that kernels are timed on over TVM's RPC: serve one, track and list many.")
device_app.command("serve")(device.serve)
device_app.command("tracker")(device.tracker)
device_app.command("list")(device.list_devices)
app.add_typer(device_app, name="device")
