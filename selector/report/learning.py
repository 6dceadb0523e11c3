"""How good a learned policy is: tables for the terminal, plots for the record of its training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from selector.features import NAMES
from selector.learn import baselines
from selector.learn.evaluation import LEARNED, TREES, HeldOut, Verdict
from selector.learn.metrics import Score, efficiency
from selector.learn.registry import PROTOCOLS, Comparison, Version
from selector.target import profile
from selector.wording import counted
from selector.workload import ConvWorkload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from selector.learn.pipeline import Trained

_SHOWN_FEATURES = 20
_MAP_SIDES = (7, 10, 14, 20, 28, 40, 56, 80, 112)
_MAP_CHANNELS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def policies_table(scores: Mapping[str, Score], time_ratios: Mapping[str, float], title: str) -> Table:
    """One row per policy, the best mean first."""
    table = Table(title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    for heading in ("mean", "P10", "P5", "worst", "regret mean", "P90", "worst", "right", "time ÷ oracle"):
        table.add_column(heading, justify="right")
    for name, value in sorted(scores.items(), key=lambda item: -item[1].mean):
        cells = [f"{number:.4f}" for number in (value.mean, value.p10, value.p5, value.worst)]
        cells += [f"{number:.2%}" for number in (value.regret_mean, value.regret_p90, value.regret_worst)]
        cells += [f"{value.agreement:.1%}", f"{time_ratios[name]:.4f}"]
        table.add_row(name, *cells, style="bold" if name == LEARNED else None)
    return table


def groups_table(groups: Mapping[str, Mapping[str, Score]], title: str) -> Table:
    """Mean efficiency of each policy (rows of ``groups``: policy → label → score) in each group of rows."""
    labels = list(next(iter(groups.values())))
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right")
    for policy in groups:
        table.add_column(policy, justify="right")
    for label in labels:
        best = max(scores[label].mean for scores in groups.values())
        cells = [
            f"[bold]{scores[label].mean:.4f}[/]" if scores[label].mean == best else f"{scores[label].mean:.4f}"
            for scores in groups.values()
        ]
        table.add_row(label, str(next(iter(groups.values()))[label].rows), *cells)
    return table


def agreement_table(shares: Mapping[str, float], title: str) -> Table:
    """One row per target."""
    table = Table("target", title=title, title_justify="left")
    table.add_column("rows", justify="right")
    for target, share in shares.items():
        table.add_row(target, f"{share:.1%}")
    return table


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per bar."""
    table = Table(title="bars", title_justify="left")
    for heading in ("bar", "reached", "wanted", "met"):
        table.add_column(heading, justify="left" if heading in ("bar", "met") else "right")
    for item in verdicts:
        verdict = "[green]yes[/]" if item.met else "[red]no[/]"
        table.add_row(item.what, f"{item.reached:.4f}", f"{item.wanted:.4f}", verdict)
    return table


def versions_table(versions: Sequence[Version]) -> Table:
    """One row per registered model."""
    table = Table()
    for heading in ("version", "aliases", "made (UTC)", "recipe", "data set", "rows"):
        table.add_column(heading, no_wrap=True)
    for protocol in PROTOCOLS:
        table.add_column(f"held-out {protocol}, mean", justify="right")
    for version in versions:
        made = datetime.fromtimestamp(version.created, timezone.utc).strftime("%Y-%m-%d %H:%M")
        parameters = [version.parameters.get(name, "-") for name in ("name", "dataset.digest", "dataset.rows")]
        means = [version.mean(protocol) for protocol in PROTOCOLS]
        cells = ["-" if mean is None else f"{mean:.4f}" for mean in means]
        table.add_row(str(version.number), ", ".join(version.aliases) or "-", made, *parameters, *cells)
    return table


def version_tables(version: Version) -> list[Table]:
    """Parameters and tags of a version, and the mean efficiency of each policy beside it."""
    facts = Table(title=f"version {version.number}", title_justify="left", show_header=False)
    facts.add_row("run", version.run_id or "none")
    for name, value in sorted((version.parameters | version.tags).items()):
        facts.add_row(name, value)
    protocols = [protocol for protocol in (*PROTOCOLS, "shape") if version.mean(protocol) is not None]
    if not protocols:
        return [facts]
    scores = Table(title="mean efficiency where held out", title_justify="left")
    for heading in ("policy", *protocols):
        scores.add_column(heading, justify="left" if heading == "policy" else "right")
    for policy in (LEARNED, TREES, *baselines.NAMES):
        scores.add_row(policy, *[f"{version.metrics[f'{protocol}/{policy}/mean']:.4f}" for protocol in protocols])
    return [facts, scores]


def comparisons_table(results: Sequence[Comparison], candidate: str, reference: str) -> Table:
    """One row per protocol."""
    table = Table(title="mean efficiency where both were held out", title_justify="left")
    table.add_column("held out")
    for heading in (candidate, reference, "worse"):
        table.add_column(heading, justify="right")
    for item in results:
        verdict = "[red]yes[/]" if item.worse else "no"
        table.add_row(item.what, f"{item.candidate:.4f}", f"{item.reference:.4f}", verdict)
    return table


def save_plots(trained: Trained, folder: Path) -> list[Path]:
    """Regret curves, calibration, importances and decision maps as PNG files; their paths."""
    held_out = trained.evaluation.held_out
    protocol = "network" if "network" in held_out else "shape"
    drawn: dict[str, tuple[tuple[float, float], Callable[[Axes], None]]] = {
        "regret": ((7, 5), lambda axes: _regret(axes, held_out[protocol], protocol)),
        "calibration": ((6, 6), lambda axes: _calibration(axes, held_out["shape"])),
        "shapley": ((8, 6), lambda axes: _shapley(axes, trained)),
        "importance": ((8, 6), lambda axes: _importance(axes, trained)),
    }
    for target in np.unique(trained.dataset.targets):
        drawn[f"decisions-{target}"] = ((7, 5.5), functools.partial(_decisions, trained=trained, target=str(target)))
    paths = []
    for name, (size, draw) in drawn.items():
        paths.append(folder / f"{name}.png")
        _save(paths[-1], size, draw)
    return paths


def _save(path: Path, size: tuple[float, float], draw: Callable[[Axes], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    figure.savefig(path, dpi=120)


def _regret(axes: Axes, held_out: HeldOut, protocol: str) -> None:
    """Share of rows that lose more than x."""
    for name, int16 in held_out.chosen.items():
        lost = np.sort(1 / efficiency(held_out.rows.log2_ratio, int16) - 1)
        share = 1 - np.arange(1, len(lost) + 1) / len(lost)
        width = 2.5 if name == LEARNED else 1
        axes.step(lost, share, where="post", label=name, linewidth=width, zorder=3 if name == LEARNED else 2)
    axes.set(xscale="symlog", yscale="symlog", ylim=(0, 1), xlim=(0, None))
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set(
        xlabel="regret: time of the chosen lowering / time of the faster - 1", ylabel="share of rows that lose more"
    )
    axes.set_title(f"held out by {protocol}, {counted(len(held_out.rows), 'row')}")
    axes.legend(fontsize="small")


def _calibration(axes: Axes, held_out: HeldOut) -> None:
    """Predicted over measured ratio: what counts is the quadrant."""
    measured, predicted = held_out.rows.log2_ratio, held_out.judged.ratio
    wrong = (measured < 0) != (predicted < 0)
    axes.scatter(measured[~wrong], predicted[~wrong], s=6, color="0.6", label="right")
    axes.scatter(measured[wrong], predicted[wrong], s=8, color="C3", label="wrong")
    limits = [float(np.min([measured, predicted])), float(np.max([measured, predicted]))]
    axes.plot(limits, limits, color="black", linewidth=0.8)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(xlabel="measured log2(t_int16 / t_int8)", ylabel="predicted, shape held out")
    axes.legend(fontsize="small")


def _shapley(axes: Axes, trained: Trained) -> None:
    rows = np.linspace(0, len(trained.dataset) - 1, min(len(trained.dataset), 500)).astype(int)
    values = trained.fitted.contributions(trained.dataset.features[rows])[:, :-1]
    _bars(axes, np.abs(values).mean(axis=0), "mean |Shapley value|, log2(t_int16 / t_int8)")


def _importance(axes: Axes, trained: Trained) -> None:
    import lightgbm

    gains = lightgbm.Booster(model_str=trained.fitted.trees).feature_importance("gain")
    _bars(axes, gains, "gain of the splits by this feature")


def _bars(axes: Axes, values: np.ndarray, label: str) -> None:
    order = np.argsort(values)[-_SHOWN_FEATURES:]
    axes.barh([NAMES[index] for index in order], values[order])
    axes.set_xlabel(label)


def _decisions(axes: Axes, *, trained: Trained, target: str) -> None:
    """Predicted ratio of 3×3 convolutions over image and channels."""
    from selector.features import describe

    works = [_square(side, channels) for channels in _MAP_CHANNELS for side in _MAP_SIDES]
    layers = describe(works, profile(target))
    grid = (
        trained.fitted.model.judge(layers, profile(target))
        .ratio[list(layers.row_of)]
        .reshape(len(_MAP_CHANNELS), len(_MAP_SIDES))
    )
    image = axes.imshow(grid, origin="lower", cmap="RdBu_r", vmin=-1.5, vmax=1.5, aspect="auto")
    axes.set_xticks(range(len(_MAP_SIDES)), [str(side) for side in _MAP_SIDES])
    axes.set_yticks(range(len(_MAP_CHANNELS)), [str(channels) for channels in _MAP_CHANNELS])
    axes.set(xlabel="pixels along each side", ylabel="channels in and out")
    axes.set_title(f"3x3, stride 1, one thread, {target}: int16 (blue) or int8 (red)")
    axes.figure.colorbar(image, ax=axes, label="predicted log2(t_int16 / t_int8)")


def _square(side: int, channels: int) -> ConvWorkload:
    return ConvWorkload(
        1, side, side, channels, channels, 3, 3, padding=(1, 1, 1, 1), out_dtype="uint8", weight_bound=127, term2=False
    )
