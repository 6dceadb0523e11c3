"""``selector export-runtime``: a wheel that runs compiled networks and has no compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selector.cli import common


@common.command
def export_runtime(
    folder: Annotated[Path, typer.Argument(help="Folder to write the wheel into.")] = Path(),
    tvm: Annotated[
        Path | None,
        typer.Option(help="Wheel of apache-tvm for another platform.", show_default="the installed apache-tvm"),
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Write a wheel that runs compiled networks: it needs numpy and apache-tvm-ffi, and no compiler."""
    from selector import runtime_wheel

    if tvm is not None:
        common.existing_file(tvm, "the wheel")
    if not folder.is_dir():
        raise common.BadInput(f"no such folder: {folder}")
    try:
        path = runtime_wheel.write(folder, tvm)
    except OSError as error:
        raise common.BadInput(f"cannot write into {folder}: {error.strerror}") from None
    if as_json:
        common.print_json({"wheel": str(path), "bytes": path.stat().st_size})
        return
    common.console().print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
