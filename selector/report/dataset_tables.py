"""Rich tables about a dataset of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.markup import escape
from rich.table import Table

from selector.collect.quality import Agreement
from selector.collect.table import workload
from selector.collect.validate import Validation
from selector.wording import counted

# column -> heading, format of a cell; a column without a format holds text
Columns = Mapping[str, tuple[str, str]]

COVERAGE: Columns = {
    "target": ("target", ""),
    "kind": ("kind", ""),
    "threads": ("threads", "d"),
    "rows": ("rows", "d"),
    "ok": ("ok", "d"),
    "noisy": ("noisy", "d"),
    "error": ("error", "d"),
    "used": ("used", "d"),
    "pairs": ("pairs", "d"),
    "int8_wins": ("int8 wins", ".1%"),
    "median_abs_log2": ("median |log2|", ".3f"),
    "median_width": ("interval", ".3f"),
}
WINS: Columns = {
    "target": ("target", ""),
    "kind": ("kind", ""),
    "pairs": ("pairs", "d"),
    "int8_wins": ("int8 wins", ".1%"),
    "int8_gain": ("int8 by, median", ".2f"),
    "int8_gain_p90": ("P90", ".2f"),
    "int16_gain": ("int16 by, median", ".2f"),
    "int16_gain_p90": ("P90", ".2f"),
}
LOSSES: Columns = {
    "target": ("target", ""),
    "policy": ("policy", ""),
    "rows": ("pairs", "d"),
    "agreement": ("right", ".1%"),
    "mean": ("efficiency mean", ".4f"),
    "p10": ("P10", ".4f"),
    "worst": ("worst", ".4f"),
    "regret_mean": ("regret mean", ".2%"),
    "regret_p90": ("P90", ".2%"),
    "regret_worst": ("worst", ".1%"),
}
AGREEMENT: Columns = {
    "target": ("target", ""),
    "kind": ("kind", ""),
    "pairs": ("pairs", "d"),
    "decided": ("decided", "d"),
    "winner_agreement": ("same winner", ".2%"),
    "efficiency": ("efficiency", ".4f"),
    "median_difference": ("median |difference|", ".4f"),
    "worst_difference": ("worst", ".3f"),
}
WORST: Columns = {
    "target": ("target", ""),
    "kind": ("kind", ""),
    "workload": ("workload", ""),
    "first": ("first", "+.3f"),
    "second": ("second", "+.3f"),
    "difference": ("|difference|", ".3f"),
}
_SEVERITY_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def table(frame: pl.DataFrame, columns: Columns, title: str) -> Table:
    """A frame as a table: one column for each of ``columns``; null is shown as a dash."""
    result = Table(title=title, title_justify="left")
    for heading, form in columns.values():
        result.add_column(heading, justify="right" if form else "left", no_wrap=True)
    for row in frame.iter_rows(named=True):
        result.add_row(*(_cell(row[name], form) for name, (_, form) in columns.items()))
    return result


def findings_table(found: Validation) -> Table:
    """What a validation found, one row each."""
    result = Table(title=f"{counted(found.files, 'file')}, {counted(found.rows, 'row')}", title_justify="left")
    for heading in ("", "check", "finding"):
        result.add_column(heading, overflow="fold")
    for finding in found.findings:
        style = _SEVERITY_STYLES[finding.severity]
        result.add_row(f"[{style}]{finding.severity}[/]", finding.check, escape(finding.text))
    return result


def worst_pairs(agreement: Agreement, first: pl.DataFrame, count: int) -> pl.DataFrame:
    """The pairs that differ most, with a column ``workload`` that describes it; ``first``: rows of the first run."""
    worst = agreement.pairs.head(count)
    rows = first.filter(pl.col("key").is_in(worst["key"].to_list())).iter_rows(named=True)
    described = {row["key"]: workload(row).describe() for row in rows}
    return worst.with_columns(pl.Series("workload", [described[key] for key in worst["key"]], pl.String))


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form) if form else escape(value)
