"""``selector evaluate``: policies against the faster lowering of every measured row."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from selector.cli import common
from selector.cli.train import MEASUREMENTS, Measurements, Model, require_packages
from selector.wording import counted


@common.command
def evaluate(
    dataset: Measurements = MEASUREMENTS,
    model: Model = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A further policy by name, e.g. rule; repeatable.", show_default="all")
    ] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of profiles to take rates of targets from, e.g. datasets/targets/modelled.",
            show_default="none",
        ),
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Evaluate a model and other policies on a folder of measurements: time lost against the oracle."""
    require_packages()
    from selector.learn import baselines, releasing
    from selector.learn import dataset as datasets
    from selector.learn.evaluation import LEARNED, Choices
    from selector.learn.pipeline import agreement
    from selector.policy.learned import ModelWarning
    from selector.report import learning

    names = policy or list(baselines.KNOWN)
    unknown = [name for name in names if name not in baselines.KNOWN]
    if unknown:
        raise common.BadInput(f"unknown policy '{unknown[0]}': give one of {', '.join(baselines.KNOWN)}")
    with common.progress("reading measurements", quiet=as_json) as update:
        rows = datasets.load([dataset])
        known = rows if profiles is None else rows.with_profiles(profiles)
        update("deciding")
        with releasing.policy(model) as (learned, facts), warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)  # it is told below
            chosen = {LEARNED: baselines.choices(learned, known)}
            alike = (
                {} if profiles is None else agreement(rows, known, chosen[LEARNED], baselines.choices(learned, rows))
            )
        chosen |= {name: baselines.KNOWN[name](known) for name in names}
    result = Choices(known, chosen)
    seen = facts.data_hash == rows.digest
    if as_json:
        common.print_json(
            {"rows": len(rows), "dataset": rows.digest, "trained_on": seen, "stale": facts.stale}
            | ({} if profiles is None else {"profiles": str(profiles), "agreement": alike})
            | result.to_dict()
        )
        return
    out = common.console()
    title = f"{counted(len(rows), 'row')} of {dataset}: efficiency is time of the faster ÷ time of the chosen"
    out.print(learning.policies_table(result.scores(), result.time_ratios(), title))
    for column in ("target", "kind", "threads"):
        groups = {name: result.scores_by(column, name) for name in chosen}
        out.print(learning.groups_table(groups, f"mean efficiency by {column}"))
    if profiles is not None:
        out.print(
            learning.agreement_table(alike, f"learned, decided alike with the profiles in {profiles} and without")
        )
    if facts.stale:
        out.print(f"[yellow]{facts.stale}[/]")
    if seen:
        out.print("[yellow]the model was trained on these very rows: see its card for held-out figures[/]")
