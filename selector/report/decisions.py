"""Decisions for people: a table that fits 80 columns, and all there is to say about each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from selector import features
from selector.policy import Decision
from selector.policy.base import only_choice
from selector.report.tables import STYLES, decision_row, format_bytes
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_GAP = 2  # columns between two of the table
_LEAST_NAME = 12  # columns that a name keeps, however long the shapes are
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "    ", "break_on_hyphens": False}
_SAME = 0.01  # log2: sizes that differ by less are the same


def decisions_table(decisions: Sequence[Decision], width: int) -> Table:
    """One row per convolution or dense layer, in the network's order, ``width`` columns wide at most.

    Names lose their front and long shapes go on in the next line, so that nothing else is ever cut.
    """
    one = all(decision.workload is None or decision.workload.batch == 1 for decision in decisions)
    shapes = [_shape(decision, one=one) for decision in decisions]
    columns = {
        "layer": [decision.layer for decision in decisions],
        "shape: HxWxC -> out" if one else "shape: NxHxWxC -> out": shapes,
        "MMAC": [_macs(decision) for decision in decisions],
        "lowering": [str(decision.lowering) for decision in decisions],
    }
    if any(decision.log2_ratio is not None for decision in decisions):
        columns["ratio"] = [_ratio(decision) for decision in decisions]
    if any(decision.certainty for decision in decisions):
        columns[""] = [decision.certainty for decision in decisions]
    widths = [max(map(len, (heading, *cells))) for heading, cells in columns.items()]
    left = width - sum(widths[1:]) - _GAP * (len(widths) - 1)
    widths[0] = min(widths[0], max(_LEAST_NAME, left))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for heading, size in zip(columns, widths, strict=True):
        if heading.startswith("shape"):
            table.add_column(heading, overflow="fold")
        else:
            side: Literal["left", "right"] = "right" if heading in ("MMAC", "ratio") else "left"
            table.add_column(heading, justify=side, no_wrap=True, min_width=size)
    for decision, cells in zip(decisions, zip(*columns.values(), strict=True), strict=True):
        # a name as Text: a bracket in it is no markup
        table.add_row(Text(_cut(cells[0], widths[0])), *cells[1:], style=STYLES[decision.lowering])
    return table


def legend(decisions: Sequence[Decision]) -> str:
    """What the columns of the table mean, of those that it has."""
    text = "MMAC: millions of multiply-accumulates."
    if any(decision.log2_ratio is not None for decision in decisions):
        text += " ratio: time of int16 ÷ time of int8, above 1 int8 is faster."
    found = {decision.certainty for decision in decisions}
    if "tie" in found:
        text += " tie: as fast, as far as measurements can tell."
    if "unsure" in found:
        text += " unsure: either may be faster."
    return text


def left_in_float(decisions: Sequence[Decision]) -> list[str]:
    """A line for each reason why layers are left as TVM has them, the commonest first."""
    found: dict[str, list[str]] = {}
    for decision in decisions:
        if decision.lowering == "tvm":
            found.setdefault(decision.reason, []).append(decision.layer)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [f"left as TVM has {_these(names)}: {reason}" for reason, names in ordered]


def details(
    decisions: Sequence[Decision], stored: Mapping[str, Mapping[str, int]], target: TargetProfile, width: int
) -> Iterator[Text]:
    """A block of lines for each layer, ``width`` columns wide; ``stored``: see ``selector.stored_bytes``."""
    compared = [item for item in decisions if _choice(item) is not None]
    rows = features.matrix([item.workload for item in compared if item.workload is not None], target).tolist()
    values = {id(item): dict(zip(features.NAMES, row, strict=True)) for item, row in zip(compared, rows, strict=True)}
    for decision in decisions:
        yield Text.assemble((decision.layer, "bold"), ": ", (decision.lowering, STYLES[decision.lowering]))
        for line in _lines(decision, stored.get(decision.layer, {}), values.get(id(decision), {})):
            yield Text(textwrap.fill(line, width, **_INDENTED))


def _choice(decision: Decision) -> ConvWorkload | None:
    """The workload of a layer that both lowerings take."""
    workload = decision.workload
    return None if workload is None or decision.lowering == "tvm" or only_choice(workload) else workload


def _lines(decision: Decision, sizes: Mapping[str, int], values: Mapping[str, float]) -> Iterator[str]:
    """All there is to say about one layer; ``values``: its features, none where there was no choice."""
    row, reason = decision_row(decision), decision.reason
    if row["shape"] is not None:
        touched = format_bytes(row["bytes"])
        yield f"{row['shape']}, {row['kind']}, {_macs(decision)} MMAC, {touched} of input, weights and output"
    if sizes:
        each = (f"{format_bytes(size)} as {name}" for name, size in sizes.items())
        yield f"weights in the library: {', '.join(each)}"
    yield reason if decision.source in reason else f"{decision.source}: {reason}"
    if decision.log2_ratio is not None:
        line = f"time of int16 ÷ time of int8: {_ratio(decision)}"
        if decision.interval is not None:
            line += ", 80 % of measurements within " + " to ".join(f"{2**end:.2f}" for end in decision.interval)
        yield line + (f", {decision.certainty}" if decision.certainty else "")
    if values:
        yield _bound(values)
    for name, change in decision.movers:
        feature = features.TABLE[features.NAMES.index(name)]
        said = feature.in_words(values[name]) if name in values else feature.reason
        yield f"for {'int8' if change > 0 else 'int16'}, ×{2 ** abs(change):.2f}: {said}"


def _bound(values: Mapping[str, float]) -> str:
    """What limits a layer and which lowering needs less of it, by the analytic model."""
    by_memory = [values[name] > 0 for name in ("int8_bound", "int16_bound")]
    if by_memory == [True, False]:
        return "int8 is bound by memory, int16 by computing"
    if by_memory == [False, True]:
        return "int8 is bound by computing, int16 by memory"
    limit = "memory" if by_memory[0] else "computing"
    what, ratio = ("bytes", values["ratio_traffic"]) if by_memory[0] else ("computing", values["ratio_compute"])
    if abs(ratio) < _SAME:
        return f"both lowerings need the same {what} of a layer that is bound by {limit}"
    saver, saved = "int8" if ratio > 0 else "int16", _share(1 - 2 ** -abs(ratio))
    return f"{saver} saves {saved} of the {what} of a layer that is bound by {limit}"


def _share(share: float) -> str:
    return "half" if 0.48 < share < 0.52 else f"{share:.0%}"


def _these(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers, {names[0]} the first"


def _shape(decision: Decision, *, one: bool) -> str:
    """The shape, without the batch where it is one in all layers: names have more room then."""
    if decision.workload is None:
        return "-"
    return decision.workload.describe().removeprefix("1x" if one else "")


def _macs(decision: Decision) -> str:
    """Millions of multiply-accumulates."""
    macs = (decision.workload.macs() if decision.workload else decision.macs) / 1e6
    return f"{macs:.2f}" if macs else "-"


def _ratio(decision: Decision) -> str:
    return "-" if decision.log2_ratio is None else f"{2**decision.log2_ratio:.2f}"


def _cut(name: str, width: int) -> str:
    """A name of at most ``width`` characters: its end tells layers apart."""
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]
