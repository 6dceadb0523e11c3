"""``selector train``: from measurements to a registered candidate."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import common
from selector.wording import counted

if TYPE_CHECKING:
    from selector.learn.pipeline import Trained
    from selector.learn.tracking import Logged

MEASUREMENTS = Path("datasets/measurements")
RECIPE = Path("training/recipes/default.toml")

_PACKAGES = {"lightgbm", "matplotlib", "mlflow", "optuna", "polars", "pyarrow", "sklearn"}

Model = Annotated[
    str | None, typer.Option(help="Release folder, alias or version number.", show_default="the package's own")
]
Measurements = Annotated[Path, typer.Argument(help="Folder of measurements, as `selector collect` writes it.")]


@common.command
def train(
    dataset: Measurements = MEASUREMENTS,
    recipe: Annotated[Path, typer.Option(help="How to train: a TOML file.")] = RECIPE,
    add: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with further measurements, e.g. of your machine; repeatable.", show_default="none"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, help="Trials of the hyper-parameter search.", show_default="the recipe's")
    ] = None,
    no_tune: Annotated[bool, typer.Option("--no-tune", help="Take the recipe's hyper-parameters as they are.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the evaluation as Markdown to this file.", show_default="none")
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Train a model, evaluate it on held-out networks and targets, and register it as the candidate."""
    require_packages()
    from selector.learn import dataset as datasets
    from selector.learn import pipeline
    from selector.learn import recipe as recipes

    if no_tune and trials:
        raise common.BadInput(f"--no-tune and --trials {trials} contradict each other")
    if report is not None and not report.parent.is_dir():
        raise common.BadInput(f"cannot write the report: there is no folder {report.parent}")
    how = recipes.load(recipe)
    if no_tune or trials is not None:
        how = how.with_trials(0 if no_tune else trials or 0)
    folders = [dataset, *(add or [])]
    with common.progress("reading measurements", quiet=as_json) as update:
        rows = datasets.load(folders, rebuild=True)
        trained = pipeline.train(rows, how, lambda text, fraction: update(text, 0.95 * fraction))
        update("recording the run")
        logged = _log(trained, folders, report)
    _show(trained, logged, as_json=as_json)


def require_packages() -> None:
    """Raises BadInput where what training needs is not installed."""
    common.require("training", *sorted(_PACKAGES), extra="train")


def _log(trained: Trained, folders: list[Path], report: Path | None) -> Logged:
    from selector.learn import card, releasing, tracking
    from selector.report import learning

    with tempfile.TemporaryDirectory(prefix="selector-train-") as name:
        work = Path(name)
        files, written = work / "files", work / "files" / "report.md"
        (files / "plots").mkdir(parents=True)
        learning.save_plots(trained, files / "plots")
        written.write_text(card.report(trained), encoding="utf-8")
        trained.evaluation.frame().write_parquet(files / "held-out.parquet")
        releasing.write(trained, work / tracking.RELEASE)
        logged = tracking.log(trained, work / tracking.RELEASE, files, folders)
        if report is not None:
            _replace(report, written.read_text(encoding="utf-8"))
    return logged


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _show(trained: Trained, logged: Logged, *, as_json: bool) -> None:
    from selector.report import learning

    verdicts = trained.evaluation.verdicts()
    if as_json:
        common.print_json(
            {
                "rows": len(trained.dataset),
                "dataset": trained.dataset.digest,
                "recipe": trained.recipe.to_dict(),
                "seconds": trained.seconds,
                "tracking": logged.uri,
                "run": logged.run_id,
                "version": logged.version,
                "verdicts": [verdict.to_dict() for verdict in verdicts],
                "evaluation": trained.evaluation.to_dict(),
            }
        )
        return
    out = common.console()
    for protocol, held_out in trained.evaluation.held_out.items():
        rows = counted(len(held_out.rows), "row")
        title = f"held out by {protocol}: {rows}, efficiency is time of the faster ÷ time of the chosen"
        out.print(learning.policies_table(held_out.scores(), held_out.time_ratios(), title))
    out.print(learning.verdicts_table(verdicts))
    out.print(f"{counted(len(trained.dataset), 'row')}, data set {trained.dataset.digest}, {trained.seconds:.0f} s")
    out.print(f"version {logged.version} is the candidate: `selector models promote` makes it the champion")
