"""The typer application and its sub-commands."""

from __future__ import annotations

import typer

from selector.cli.bench import bench
from selector.cli.compile import compile_network
from selector.cli.explain import explain
from selector.cli.run import run

app = typer.Typer(
    help="Compile quantized networks with TVM, choosing an exact integer lowering for each convolution.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_network)
app.command("run")(run)
app.command("explain")(explain)
app.command("bench")(bench)
