"""Rich tables of kernel timings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from selector.kernel_bench import KernelResult, by_kind, geometric_mean

_SHORT = {"onnxruntime": "ORT", "metaschedule": "tuned"}  # headings of the columns about a peer


def summary_rows(results: Sequence[KernelResult]) -> list[dict[str, Any]]:
    """One row per kind: counts, geometric means of ratios and the worst ratio to the peer."""
    rows = []
    for kind, members in by_kind(results).items():
        ratios = [member.ratio for member in members if member.ratio is not None]
        rows.append(
            {
                "kind": kind,
                "convolutions": len(members),
                "int16_better": sum(member.better == "int16" for member in members),
                "int16_over_int8": geometric_mean([member.int16_ratio for member in members]),
                "gmacs": geometric_mean([member.lowering(member.better).gmacs for member in members]),
                "peak_fraction": geometric_mean([member.lowering(member.better).peak_fraction for member in members]),
                "ratio": geometric_mean(ratios) if ratios else None,
                "worst_ratio": max(ratios, default=None),
            }
        )
    return rows


def kernels_table(results: Sequence[KernelResult], weights: Sequence[str]) -> Table:
    """One row per convolution; ``weights`` says for each what its weights are."""
    peer = _peer(results)
    table = Table(title="kernels: median time of one call, share of the instruction's peak", title_justify="left")
    table.add_column("convolution", no_wrap=True)
    table.add_column("types", no_wrap=True)
    table.add_column("MMAC", justify="right", min_width=6)
    for lowering in ("int8", "int16"):
        table.add_column(f"{lowering} µs", justify="right", min_width=8)
        table.add_column("peak", justify="right", min_width=4)
        table.add_column("kernel", no_wrap=True, overflow="ellipsis")
    table.add_column("GMAC/s", justify="right", min_width=6)
    if peer:
        for heading in (f"{peer} µs", f"÷ {peer}"):
            table.add_column(heading, justify="right", min_width=max(7, len(heading)))
    for result, kind in zip(results, weights, strict=True):
        work = result.case.workload
        cells = [work.describe(), f"{result.case.dtypes} {kind}", f"{work.macs() / 1e6:.1f}"]
        for item in result.lowerings:
            style = "bold" if item.lowering == result.better else ""
            cells.append(f"[{style}]{item.microseconds:.1f}[/]" if style else f"{item.microseconds:.1f}")
            instruction = item.row.partition("_")[2]  # without the instruction set
            cells += [f"{item.peak_fraction:.0%}", f"{item.template} {instruction}"]
        cells.append(f"{result.lowering(result.better).gmacs:.1f}")
        if result.ratio is not None and result.peer_us is not None:
            cells += [f"{result.peer_us:.1f}", f"{result.ratio:.2f}"]
        table.add_row(*cells)
    return table


def summary_table(results: Sequence[KernelResult]) -> Table:
    """Geometric means by kind."""
    table = Table(title="geometric means, the better lowering of each convolution", title_justify="left")
    table.add_column("kind", no_wrap=True)
    peer = _peer(results) or "ORT"
    for heading in (
        "convolutions",
        "int16 better",
        "int16 ÷ int8",
        "GMAC/s",
        "of peak",
        f"÷ {peer}",
        f"worst ÷ {peer}",
    ):
        table.add_column(heading, justify="right")
    for row in summary_rows(results):
        table.add_row(
            row["kind"],
            str(row["convolutions"]),
            str(row["int16_better"]),
            f"{row['int16_over_int8']:.2f}",
            f"{row['gmacs']:.1f}",
            f"{row['peak_fraction']:.0%}",
            "-" if row["ratio"] is None else f"{row['ratio']:.3f}",
            "-" if row["worst_ratio"] is None else f"{row['worst_ratio']:.2f}",
        )
    return table


def _peer(results: Sequence[KernelResult]) -> str | None:
    """Short name of the runtime that was timed as well."""
    return next((_SHORT.get(result.peer, result.peer) for result in results if result.peer), None)
