"""``selector targets``: what is known about CPUs, and finding out more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import common

if TYPE_CHECKING:
    from selector.profiles import Rates

Into = Annotated[
    Path | None, typer.Option(help="Folder to write the profile to.", show_default="your own, where it is found")
]


@common.command
def list_targets(as_json: common.AsJson = False, debug: common.Debug = False) -> None:
    """List the stored profiles: yours, then those that come with Selector."""
    from selector import profiles
    from selector.report import targets

    rows = [targets.stored_row(path, found) for path, found in profiles.scan()]
    if as_json:
        common.print_json({"profiles": rows})
        return
    common.console().print(targets.list_table(rows))


@common.command
def show(
    target: Annotated[str, typer.Argument(help="'native', an LLVM cpu name, or a TVM target as JSON.")],
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Show all that is known about a target."""
    from selector.report import targets
    from selector.target import profile

    found = profile(common.resolve_target(target))
    if as_json:
        common.print_json(targets.target_values(found))
        return
    out = common.console()
    out.print(targets.facts_table(found))
    if found.rates is None:
        out.print(f"rates: not known; selector targets calibrate (or: describe) {found.name} finds them out")
    else:
        out.print(targets.rates_table(found.rates))


@common.command
def diff(
    first: Annotated[str, typer.Argument(help="File of a profile, or a target: 'native', an LLVM cpu name, JSON.")],
    second: Annotated[str, typer.Argument(help="The same, to divide by.")],
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Compare the rates of two profiles, e.g. modelled with measured."""
    from selector.report import targets

    rows = targets.ratios(_rates(first), _rates(second))
    if as_json:
        common.print_json({"first": first, "second": second, "rates": rows})
        return
    common.console().print(targets.ratios_table(rows, first, second))


def _rates(given: str) -> Rates:
    """Rates of the profile in a file, else of a target.  Raises ProfileError, UnknownTarget, BadInput."""
    from selector import profiles
    from selector.target import profile

    if given.endswith(".json"):
        return profiles.read(Path(given)).rates
    found = profile(common.resolve_target(given))
    if found.rates is None:
        raise common.BadInput(
            f"no rates of {found.name} are known: selector targets calibrate (or: describe) {found.name} finds them out"
        )
    return found.rates


@common.command
def calibrate(
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target to measure on this machine; repeatable.", show_default="native"),
    ] = None,
    into: Into = None,
    max_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timing one target at most.")] = 20.0,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Measure what this machine does for a target, and keep it."""
    from selector import profiles
    from selector.collect.calibrate import calibrate as measure
    from selector.collect.calibrate import check_runs_here
    from selector.report import targets
    from selector.target import profile

    common.set_threads(None)
    names = list(dict.fromkeys(target or ["native"]))
    wanted = [common.resolve_target(name) for name in names]
    for item in wanted:
        check_runs_here(profile(item))
    written = []
    with common.progress("building", quiet=as_json) as update:
        for name, item in zip(names, wanted, strict=True):
            update(description=f"calibrating {name}")
            found = measure(item, max_seconds=max_seconds, progress=lambda done: update(fraction=done))
            written.append((found, profiles.write(found, into)))
    if as_json:
        common.print_json({"profiles": [found.to_dict() | {"path": str(path)} for found, path in written]})
        return
    out = common.console()
    for found, path in written:
        out.print(targets.rates_table(found.rates))
        out.print(f"{found.name}: written to {path}")


@common.command
def describe(
    cpu: Annotated[str, typer.Argument(help="LLVM cpu name, e.g. cascadelake, or a TVM target as JSON.")],
    like: Annotated[
        str | None,
        typer.Option(
            help="CPU to take the scheduling model of, and the specification where CPU has none: levels have neither.",
            show_default="the CPU itself; for a level, this machine's",
        ),
    ] = None,
    specification: Annotated[
        Path | None, typer.Option(help="JSON file with the specification of the CPU.", show_default="those shipped")
    ] = None,
    llvm_mca: Annotated[
        Path | None, typer.Option(help="Path of llvm-mca.", show_default="the newest in the search path")
    ] = None,
    into: Into = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Model a CPU that is not at hand from LLVM's scheduling models, and keep the profile."""
    from selector import profiles
    from selector.collect import describe as models
    from selector.report import targets
    from selector.target import profile

    resolved = common.resolve_target(cpu)
    sheet = None
    if specification is not None:
        sheet = models.find_specification(specification, profile(resolved).name, *([like] if like else []))
    with common.progress(f"modelling {cpu}", quiet=as_json) as update:
        found = models.describe(
            resolved, like=like, specification=sheet, mca=llvm_mca, progress=lambda done: update(fraction=done)
        )
    path = profiles.write(found, into)
    if as_json:
        common.print_json({"profiles": [found.to_dict() | {"path": str(path)}]})
        return
    out = common.console()
    out.print(targets.rates_table(found.rates))
    out.print(f"{found.name}: written to {path}")
