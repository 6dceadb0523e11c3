"""``selector models``: what training has registered, which of it is the champion, and releasing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selector.cli import common
from selector.cli.train import MEASUREMENTS, Measurements, Model, require_packages
from selector.wording import counted

Name = Annotated[str, typer.Argument(help="Alias (champion, candidate) or number of a version.")]


@common.command
def list_models(as_json: common.AsJson = False, debug: common.Debug = False) -> None:
    """List registered versions, the newest first."""
    require_packages()
    from selector.learn import registry
    from selector.report import learning

    versions = registry.versions()
    if as_json:
        common.print_json({"models": [version.to_dict() for version in versions]})
    elif versions:
        common.console().print(learning.versions_table(versions))
    else:
        typer.echo("no model is registered yet: `selector train` makes one")


@common.command
def show(name: Name = "candidate", as_json: common.AsJson = False, debug: common.Debug = False) -> None:
    """Show parameters, lineage and held-out scores of one version."""
    require_packages()
    from selector.learn import registry
    from selector.report import learning

    version = registry.get(name)
    if as_json:
        common.print_json(version.to_dict())
        return
    for table in learning.version_tables(version):
        common.console().print(table)


@common.command
def compare(
    candidate: Name = "candidate",
    reference: Name = "champion",
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Compare two versions on the networks and targets that both were held out from."""
    require_packages()
    from selector.learn import registry
    from selector.report import learning

    versions = registry.get(candidate), registry.get(reference)
    results = registry.compare(*versions)
    if as_json:
        common.print_json({"comparisons": [result.to_dict() for result in results]})
    else:
        titles = [f"version {version.number}" for version in versions]
        common.console().print(learning.comparisons_table(results, *titles))


@common.command
def reproduce(
    dataset: Measurements = MEASUREMENTS,
    model: Model = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Take the hyper-parameters that the model's search has found.")
    ] = False,
    part: Annotated[
        bool, typer.Option("--slice", help="Check a twentieth of the shapes alone: seconds instead of minutes.")
    ] = False,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Train a model again, by its own recipe, and compare trees and decisions; exit code 1 if a decision differs."""
    require_packages()
    from selector.learn import dataset as datasets
    from selector.learn import releasing, reproduction

    with common.progress("reading measurements", quiet=as_json) as update, releasing.policy(model) as (_, released):
        rows = datasets.load([dataset])
        update("training")
        if part:
            result = reproduction.reproduce_slice(released, rows)
        else:
            result = reproduction.reproduce(released, rows, tune=not no_tune)
    if as_json:
        common.print_json({"model": released.name} | result.to_dict())
    else:
        known = "that it was made of" if result.digest == result.released_digest else f"not {result.released_digest}"
        typer.echo(f"data set {result.digest}, {known}: {counted(result.rows, 'row')}")
        typer.echo(f"trees: {'the same, byte for byte' if result.same_trees else 'others'}")
        typer.echo(f"decisions: {result.same_decisions} of {result.rows} as {released.name} makes them")
    if not result.reproduced:
        raise typer.Exit(common.EXIT_FAILED)


@common.command
def promote(
    name: Name = "candidate",
    force: Annotated[bool, typer.Option("--force", help="Promote it all the same; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; recorded with the version.")] = "",
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Make a version the champion, unless it is worse than the present one, or not comparable, where held out."""
    require_packages()
    from selector.learn import registry

    if force and not reason.strip():
        raise common.BadInput("--force needs a --reason, which is recorded with the version")
    version = registry.get(name)
    try:
        results = registry.promote(version, force=force, reason=reason)
    except registry.NotPromoted as error:
        raise common.WorkFailed(f"{error}; --force --reason '…' promotes it all the same") from None
    if as_json:
        common.print_json({"champion": version.number, "comparisons": [result.to_dict() for result in results]})
    else:
        typer.echo(f"version {version.number} is the champion")


@common.command
def export(
    name: Name = "champion",
    models: Annotated[Path, typer.Option("--to", help="Folder that the release is made in.")] = Path("models"),
    folder: Annotated[
        str | None, typer.Option("--name", help="Of the release.", show_default="conv2d-<version>")
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Write a version as a release that the package loads: text models, manifest and model card."""
    require_packages()
    from selector.learn import registry, releasing

    version = registry.get(name)
    made = releasing.export(version, models, folder or f"conv2d-{version.number}")
    if as_json:
        common.print_json({"version": version.number, "folder": str(made)})
    else:
        typer.echo(f"version {version.number} written to {made}, which the package now loads")
