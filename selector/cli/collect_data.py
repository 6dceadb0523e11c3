"""``selector collect status | validate | renumber | merge | diff | plot``: commands on a dataset of measurements."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from selector.cli import common
from selector.wording import counted

Folder = Annotated[Path, typer.Argument(help="Dataset folder, as `selector collect` writes it.")]

MEASUREMENTS = Path("datasets/measurements")


@common.command
def status(folder: Folder = MEASUREMENTS, as_json: common.AsJson = False, debug: common.Debug = False) -> None:
    """Show what a dataset holds, which lowering wins how often, and what simple policies lose."""
    _require_packages()
    from selector.collect import quality, store
    from selector.collect.table import FACTS
    from selector.report import dataset, dataset_tables

    with common.progress(f"reading {folder}", quiet=as_json):
        frame = store.read(folder, FACTS)
        shown = {
            "coverage": (quality.status(frame), dataset_tables.COVERAGE, "coverage"),
            "wins": (dataset.wins(frame), dataset_tables.WINS, "the faster lowering, and by what factor"),
            "policies": (dataset.policy_losses(frame), dataset_tables.LOSSES, "policies against the oracle"),
        }
    if as_json:
        values = {name: rows.to_dicts() for name, (rows, _, _) in shown.items()}
        common.print_json({"folder": str(folder), "rows": len(frame)} | values)
        return
    out = common.console()
    for rows, columns, title in shown.values():
        if not rows.is_empty():
            out.print(dataset_tables.table(rows, columns, title))
    out.print(f"{folder}: {counted(len(frame), 'row')}")


@common.command
def validate(
    folder: Folder = MEASUREMENTS,
    rebuild: Annotated[
        int, typer.Option(min=0, help="Build the kernels of so many rows of each target again and compare their code.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the choice of rows to rebuild.")] = 0,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Check every file and row; exit code 1 if an error is found."""
    _require_packages()
    from selector.collect.validate import validate as check
    from selector.report import dataset_tables

    with common.progress(f"checking {folder}", quiet=as_json) as update:
        found = check(folder, rebuild=rebuild, seed=seed, progress=lambda fraction: update(fraction=fraction))
    if as_json:
        common.print_json({"folder": str(folder), "valid": found.valid} | asdict(found))
    else:
        out = common.console()
        if found.findings:
            out.print(dataset_tables.findings_table(found))
        rebuilt = f", kernels of {counted(found.rebuilt, 'row')} built again" if rebuild else ""
        state = "valid" if found.valid else "not valid"
        out.print(f"{folder} is {state}: {counted(found.files, 'file')}, {counted(found.rows, 'row')}{rebuilt}")
    if not found.valid:
        raise typer.Exit(common.EXIT_FAILED)


@common.command
def renumber(folder: Folder = MEASUREMENTS, as_json: common.AsJson = False, debug: common.Debug = False) -> None:
    """Carry rows of older kernels over to today's, where building them again gives the same code."""
    _require_packages()
    from selector.collect import rebuild

    with common.progress(f"building kernels of {folder} again", quiet=as_json) as update:
        done = rebuild.renumber(folder, lambda fraction: update(fraction=fraction))
    if as_json:
        common.print_json({"folder": str(folder)} | asdict(done))
        return
    text = (
        f"{counted(done.renumbered, 'row')} of the same code as today, {done.changed} of other code, no longer counted"
    )
    common.console().print(f"{folder}: {text}; {done.kept} had today's number")


@common.command
def merge(
    sources: Annotated[list[Path], typer.Argument(help="Dataset folders to copy the rows of.")],
    into: Annotated[Path, typer.Option(help="Dataset folder that gets the rows.")] = MEASUREMENTS,
    compact: Annotated[bool, typer.Option(help="Leave one file for each target.")] = True,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Bring the rows of several machines together; rows that are there already are skipped."""
    _require_packages()
    from selector.collect import store

    with common.progress(f"merging into {into}", quiet=as_json):
        merged = store.merge(sources, into)
        if compact:
            store.compact(into)
    if as_json:
        common.print_json({"into": str(into)} | asdict(merged))
        return
    text = f"{counted(merged.added, 'row')} added to {into}, {merged.duplicates} there already"
    common.console().print(text + (f", {merged.repeated} of a workload that others have" if merged.repeated else ""))


@common.command
def diff(
    first: Annotated[Path, typer.Argument(help="Dataset folder.")],
    second: Annotated[Path, typer.Argument(help="Dataset folder with the same workloads on the same targets.")],
    worst: Annotated[int, typer.Option(min=0, help="Show so many of the rows that differ most.")] = 10,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Compare two runs on the workloads that both measured."""
    _require_packages()
    from selector.collect import quality, store
    from selector.collect.table import FACTS
    from selector.report import dataset_tables

    with common.progress(f"reading {first} and {second}", quiet=as_json):
        ours, theirs = (store.read(folder, FACTS) for folder in (first, second))
        found = quality.diff(ours, theirs)
        rows = dataset_tables.worst_pairs(found, ours, worst)
    if found.pairs.is_empty():
        raise common.BadInput(f"{first} and {second} have no pair of the same workload and target that counts")
    if as_json:
        only = {"only_first": found.only_first, "only_second": found.only_second}
        common.print_json(
            {"pairs": len(found.pairs), **only, "groups": found.groups.to_dicts(), "worst": rows.to_dicts()}
        )
        return
    out = common.console()
    title = f"agreement; decided: |log2 ratio| above {quality.DECIDED} in {first}"
    out.print(dataset_tables.table(found.groups, dataset_tables.AGREEMENT, title))
    if worst:
        out.print(dataset_tables.table(rows, dataset_tables.WORST, "log2 ratios that differ most"))
    out.print(f"{len(found.pairs)} in both, {found.only_first} in {first} alone, {found.only_second} in {second} alone")


@common.command
def plot(
    folder: Folder = MEASUREMENTS,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("plots"),
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Draw which lowering wins where, the ratios, and how certain they are."""
    _require_packages("matplotlib")
    from selector.collect import store
    from selector.collect.table import FACTS
    from selector.report import dataset

    with common.progress(f"drawing {folder}", quiet=as_json):
        frame = store.read(folder, FACTS)
        try:
            paths = dataset.plots(frame, out)
        except OSError as error:
            raise common.BadInput(f"cannot write {out}: {error.strerror}") from None
    if as_json:
        common.print_json({"files": list(map(str, paths))})
        return
    for path in paths:
        common.console().print(str(path))


def _require_packages(*more: str) -> None:
    common.require("a dataset", "polars", "pyarrow", *more)
