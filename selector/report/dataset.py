"""What a dataset of measurements says about the choice of a lowering: numbers and plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from selector.collect.pairs import pairs
from selector.collect.parts import target_folder
from selector.collect.record import DatasetError
from selector.collect.table import workload
from selector.learn.metrics import score
from selector.policy import resolve
from selector.report.roofline import require_matplotlib
from selector.target import profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = ("int8", "int16", "rule")
KINDS = ("first", "1x1", "dense", "grouped", "depthwise")

_PANEL = 3.6  # inches


def wins(frame: pl.DataFrame) -> pl.DataFrame:
    """How often each lowering is the faster one and by how much, by target and kind.

    Columns: ``pairs``; ``int8_wins``, a share; ``<lowering>_gain`` and ``<lowering>_gain_p90``, median and P90 of
    the time of the other lowering over its own where it wins (null: it never does).
    """
    ratio = pl.col("log2_ratio")
    gains = [
        aggregate(2 ** ratio.filter(won).abs()).alias(f"{lowering}_gain{suffix}")
        for lowering, won in (("int8", ratio > 0), ("int16", ratio < 0))
        for suffix, aggregate in (("", pl.Expr.median), ("_p90", lambda values: values.quantile(0.9, "linear")))
    ]
    grouped = pairs(frame).group_by("target", "kind")
    return grouped.agg(pl.len().alias("pairs"), (ratio > 0).mean().alias("int8_wins"), *gains).sort("target", "kind")


def policy_losses(frame: pl.DataFrame) -> pl.DataFrame:
    """What the policies of POLICIES lose against the oracle, by target.

    Columns: ``target``, ``policy``, and those of ``selector.learn.metrics.Score``.
    """
    losses: list[dict[str, Any]] = []
    for (target,), rows in sorted(pairs(frame).partition_by("target", as_dict=True).items()):
        known = {cpu: profile(target, cpu) for cpu in rows["cpu"].unique()}
        cases = [(workload(row), known[row["cpu"]]) for row in rows.iter_rows(named=True)]
        for name in POLICIES:
            policy = resolve(name)
            int16 = np.array([policy.decide(*case).lowering == "int16" for case in cases])
            losses.append({"target": target, "policy": name, **score(rows["log2_ratio"].to_numpy(), int16).to_dict()})
    return pl.DataFrame(losses)


def plots(frame: pl.DataFrame, folder: Path) -> list[Path]:
    """Draw the pairs as PNGs: which lowering wins where on each target, ratios, and widths of intervals.

    Raises PlotUnavailable without matplotlib, DatasetError where no row counts.
    """
    require_matplotlib()
    good = pairs(frame)
    if good.is_empty():
        raise DatasetError("no row to draw: every one failed, stayed noisy, was emulated or is of other kernels")
    by_target = {str(target): rows for (target,), rows in sorted(good.partition_by("target", as_dict=True).items())}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"log2-ratio": _histograms(by_target, "log2_ratio"), "interval-width": _histograms(by_target, "width")}
    for target, rows in by_target.items():
        drawn[f"wins-{target_folder(target).removeprefix('target=')}"] = _winners(target, rows)
    return [_save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def _winners(target: str, rows: pl.DataFrame) -> Figure:
    """Ratio over channels and pixels, a panel for each kind."""
    kinds = [kind for kind in KINDS if kind in rows["kind"]]
    figure = _figure(len(kinds) * _PANEL + 1, _PANEL + 0.6)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        chosen = rows.filter(pl.col("kind") == kind)
        works = [workload(row) for row in chosen.iter_rows(named=True)]
        points = axes.scatter(
            [(work.in_channels * work.out_channels) ** 0.5 for work in works],
            [work.batch * work.out_height * work.out_width for work in works],
            c=chosen["log2_ratio"].to_numpy(),
            cmap="PuOr",
            vmin=-1,
            vmax=1,
            s=16,
            edgecolor="0.6",
            linewidth=0.3,
        )
        axes.set(yscale="log", title=f"{kind} ({len(works)})", xlabel="channels, √(in · out)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("pixels of the output")
    figure.colorbar(points, ax=list(panels), label="log2(t_int16 / t_int8); above 0: int8 wins", extend="both")
    figure.suptitle(target)
    return figure


_SCALES = {  # column -> label, lowest and highest value shown; what lies beyond is drawn at the edge
    "log2_ratio": ("log2(t_int16 / t_int8); above 0: int8 wins", -2.0, 2.0),
    "width": ("width of the 95 % interval of the log2 ratio", 0.0, 0.2),
}


def _histograms(by_target: dict[str, pl.DataFrame], column: str) -> Figure:
    """One histogram for each target."""
    label, low, high = _SCALES[column]
    figure = _figure(8, 1.2 + 1.8 * len(by_target))
    panels = figure.subplots(len(by_target), squeeze=False, sharex=True)[:, 0]
    for axes, (target, rows) in zip(panels, by_target.items(), strict=True):
        values = rows[column].to_numpy()
        axes.hist(np.clip(values, low, high), np.linspace(low, high, 81), color="C0")
        axes.axvline(np.clip(np.median(values), low, high), color="black", label=f"median {np.median(values):.3f}")
        axes.set(title=f"{target} ({len(values)})", ylabel="pairs")
        axes.legend(fontsize="small")
    panels[-1].set_xlabel(label)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=150, format="png")
    return temporary.replace(path)
