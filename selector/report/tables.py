"""Rich tables of decisions, verification and timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from selector.networks import NetworkComparison
from selector.policy import Decision
from selector.profiling import Profile
from selector.verify import Difference
from selector.wording import counted

STYLES = {"int8": "cyan", "int16": "magenta", "tvm": "yellow"}


def decision_row(decision: Decision) -> dict[str, Any]:
    """One layer's decision as plain values; byte counts are of input, weights and output together.

    ``time_ratio`` is the predicted or measured t_int16 / t_int8, None where the policy has none.
    """
    workload = decision.workload
    facts: dict[str, Any] = {"shape": None, "kind": None, "bytes": None, "macs": decision.macs or None}
    if workload is not None:
        facts = {
            "shape": workload.describe(),
            "kind": workload.kind,
            "bytes": workload.data_bytes() + workload.weight_bytes() + workload.out_bytes(),
            "macs": workload.macs(),
        }
    ratio = None if decision.log2_ratio is None else 2**decision.log2_ratio
    shown = {"time_ratio": ratio, "certainty": decision.certainty}
    return {"layer": decision.layer} | decision.to_dict() | facts | shown


def lowering_counts(decisions: Sequence[Decision]) -> dict[str, int]:
    """Layers per lowering; ``tvm`` are those left as TVM has them."""
    return dict(sorted(Counter(decision.lowering for decision in decisions).items()))


def float_share(decisions: Sequence[Decision]) -> float:
    """Share of the multiply-accumulates in layers that are left in float32, 0 to 1."""
    macs = [(item.lowering, item.workload.macs() if item.workload else item.macs) for item in decisions]
    whole = sum(count for _, count in macs)
    return sum(count for lowering, count in macs if lowering == "tvm") / whole if whole else 0.0


def deciders(decisions: Sequence[Decision]) -> dict[str, Any] | None:
    """Who decided under policy ``learned``, counted in layers; None under another policy.

    ``trees`` of ``layers``, least and most ``trust`` in them (None: no layer), and ``fallbacks``: source and reason of
    the others.
    """
    asked = [item for item in decisions if item.trust is not None or item.fallback]
    if not asked:
        return None
    trusts = [item.trust for item in asked if item.trust is not None]
    fallbacks = Counter((item.source, item.fallback) for item in asked if item.fallback)
    return {
        "layers": len(asked),
        "trees": len(asked) - fallbacks.total(),
        "trust": [min(trusts), max(trusts)] if trusts else None,
        "fallbacks": [{"source": by, "reason": why, "layers": count} for (by, why), count in fallbacks.most_common()],
    }


def describe_deciders(found: Mapping[str, Any]) -> str:
    """One line about what ``deciders`` found."""
    trust = found["trust"]
    text = f"{found['trees']} of {counted(found['layers'], 'layer')} decided by the trees"
    if trust is not None and trust[0] < 1:
        share = f"{trust[0]:.0%}" if trust[0] == trust[1] else f"{trust[0]:.0%} to {trust[1]:.0%}"
        text += f" (they count {share} and the roofline the rest, since no CPU like it was measured)"
    for item in found["fallbacks"]:
        text += f", {item['layers']} by the {item['source']}: {item['reason']}"
    return text


def total_bytes(stored: Mapping[str, Mapping[str, int]], decisions: Sequence[Decision]) -> dict[str, int]:
    """Bytes of a network's weights in a library: as decided, and with one lowering for every layer that takes it."""
    chosen = [stored[item.layer].get(item.lowering, 0) for item in decisions if item.layer in stored]
    return {"chosen": sum(chosen)} | {
        name: sum(sizes.get(name, max(sizes.values())) for sizes in stored.values()) for name in lowering_names(stored)
    }


def largest_layers(
    stored: Mapping[str, Mapping[str, int]], decisions: Sequence[Decision], most: int = 3
) -> list[dict[str, Any]]:
    """The layers whose weights take most of a library, the largest first."""
    found = [
        (stored[item.layer][item.lowering], item)
        for item in decisions
        if item.lowering in stored.get(item.layer, {}) and item.variant == 0
    ]
    found.sort(key=lambda pair: -pair[0])
    return [{"layer": item.layer, "lowering": item.lowering, "bytes": size} for size, item in found[:most]]


def lowering_names(stored: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The lowerings of all layers."""
    return list(dict.fromkeys(name for sizes in stored.values() for name in sizes))


def differences_table(differences: Sequence[Difference], shapes: str = "") -> Table:
    """One row per output and reference; ``shapes``: of the variant, where there are several."""
    title = "largest difference to independent references" + (f", {shapes}" if shapes else "")
    table = Table(title=title, title_justify="left")
    table.add_column("output", justify="right")
    table.add_column("reference")
    for heading in ("largest", "in steps", "allowed", "top-1 agrees"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in differences:
        table.add_row(
            str(row.output),
            row.reference,
            f"{row.largest:.4g}",
            "-" if row.steps is None else f"{row.steps:.2f}",
            f"{row.tolerance:.4g}",
            "-" if row.top1_agrees is None else f"{row.top1_agrees:.0%}",
            "[green]ok[/]" if row.passed else "[red]too large[/]",
        )
    return table


def comparison_table(result: NetworkComparison, references: Sequence[str], title: str) -> Table:
    """One row per contender; a column of time ratios per reference, below 1 is faster than it."""
    comparison = result.comparison
    table = Table(title=f"{title}, {counted(comparison.rounds, 'interleaved round')}", title_justify="left")
    table.add_column("contender", no_wrap=True)
    table.add_column("median ms", justify="right")
    table.add_column("quartiles ms", justify="right")
    for reference in references:
        table.add_column(f"time ÷ {reference}", justify="right")
    table.add_column(f"output differs from {comparison.timings[0].name}", justify="right")
    table.add_column("build s", justify="right")
    for timing in comparison.timings:
        low, high = timing.iqr_ms
        ratios = [comparison.ratio(timing.name, reference) for reference in references]
        table.add_row(
            timing.name,
            f"{timing.median_ms:.2f}",
            f"{low:.2f} – {high:.2f}",
            *[f"{ratio.median:.3f}" for ratio in ratios],
            f"{result.largest_difference[timing.name]:.3g}",
            f"{result.build_seconds[timing.name]:.1f}",
        )
    return table


def profile_table(profile: Profile, title: str) -> Table:
    """One row per quantized layer, then one per other kernel; the longest tenth of the layers stands out."""
    run, inside = profile.total_us, profile.kernels_us
    title = (
        f"{title}: {run:.0f} µs a run, of which {inside:.0f} µs in kernels, median of {counted(profile.rounds, 'run')}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("layer or kernel", no_wrap=True, overflow="ellipsis", max_width=44)
    table.add_column("shape", no_wrap=True)
    for heading in ("µs", "share", "GMAC/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("lowering", no_wrap=True)
    table.add_column("template and instruction", no_wrap=True)
    times = sorted((kernel.microseconds for kernel in profile.kernels), reverse=True)
    long = times[len(times) // 10] if times else 0.0
    for kernel in profile.kernels:
        name = kernel.name if kernel.calls == 1 else f"{kernel.name} ×{kernel.calls}"
        lowering = "-" if kernel.lowering is None else f"[{STYLES[kernel.lowering]}]{kernel.lowering}[/]"
        table.add_row(
            name,
            kernel.shape or "-",
            f"{kernel.microseconds:.1f}",
            f"{kernel.share:.1%}",
            "-" if kernel.gmacs is None else f"{kernel.gmacs:.1f}",
            lowering,
            kernel.form or "-",
            style="bold" if kernel.microseconds > long else None,
        )
    return table


def format_bytes(count: int) -> str:
    """Bytes with a unit, e.g. ``147 kB``."""
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"
