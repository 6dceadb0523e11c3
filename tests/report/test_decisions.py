"""What `explain` shows of decisions: nothing that matters is cut at 80 columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from selector.policy import Decision
from selector.report.decisions import _bound, decisions_table, details, left_in_float, legend
from selector.target import profile
from selector.workload import ConvWorkload

CONV = ConvWorkload(1, 56, 56, 64, 64, 3, 3, padding=(1, 1, 1, 1))
NAME = "/features/features.3/expand3x3/Conv"
DECISION = Decision("int8", "learned", "because", log2_ratio=1.0, layer=NAME, workload=CONV, interval=(0.5, 1.5))
UNSURE = replace(DECISION, lowering="int16", log2_ratio=-0.2, interval=(-0.4, 0.2), layer="[bold]/x")
LEFT = Decision("tvm", "unsupported", "its weights are no constants", layer="/head/MatMul", macs=2_000_000)


def shown(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_names_lose_their_front() -> None:
    heading, first, second, third = shown(decisions_table([DECISION, UNSURE, LEFT], 80))
    assert heading.split() == ["layer", "shape:", "HxWxC", "->", "out", "MMAC", "lowering", "ratio"]
    assert first.split() == [*first.split()[:1], "56x56x64", "->", "64,", "3x3", "s1", "115.61", "int8", "2.00"]
    assert first.startswith("…")
    assert NAME.endswith(first.split()[0][1:])
    assert second.split()[0] == "[bold]/x"
    assert second.split()[-3:] == ["int16", "0.87", "unsure"]
    assert third.split() == ["/head/MatMul", "-", "2.00", "tvm", "-"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_is_as_wide_as_it_may_be(width: int) -> None:
    long = replace(DECISION, layer="/long" * 60)
    lines = shown(decisions_table([long, UNSURE], width), width)
    assert {len(line) for line in lines} == {width}
    assert len(lines) == 3


def test_a_long_shape_goes_on_in_the_next_line() -> None:
    large = ConvWorkload(16, 1120, 1120, 1024, 1024, 3, 3, (2, 1), (9, 9, 9, 9), (2, 2), groups=16)
    lines = shown(decisions_table([replace(DECISION, workload=large, layer="/a/very/long/name"), UNSURE], 80))
    text = " ".join(" ".join(lines).split())
    for part in ("16x1120x1120x1024", "g16", "NxHxWxC", "…y/long/name", "int8", "2.00", "unsure"):
        assert part in text
    assert text.count("…") == 1


def test_columns_that_say_nothing_are_left_out() -> None:
    fixed = Decision("int8", "int8", "asked for by the user", layer="conv", workload=CONV)
    heading, row = shown(decisions_table([fixed], 80))
    assert heading.split()[-1] == "lowering"
    assert row.split()[-1] == "int8"
    assert legend([fixed]) == "MMAC: millions of multiply-accumulates."
    assert "unsure: either may be faster" in legend([DECISION, UNSURE])
    assert "tie" not in legend([DECISION, UNSURE])


def test_why_layers_stay_in_float() -> None:
    other = replace(LEFT, layer="/head/Conv", reason="another")
    assert left_in_float([LEFT, DECISION, other, LEFT]) == [
        "left as TVM has 2 layers, /head/MatMul the first: its weights are no constants",
        "left as TVM has /head/Conv: another",
    ]


def test_details_are_sentences() -> None:
    target = profile("x86-64-v3")
    moved = replace(DECISION, movers=(("ratio_traffic", 0.5), ("int8_tile_pixels", -0.1)))
    sizes = {NAME: {"int8": 36_864, "int16": 73_728}}
    lines = [line.plain for line in details([moved, LEFT], sizes, target, 80)]
    assert all(len(part) <= 80 for line in lines for part in line.split("\n"))
    assert lines[:5] == [
        f"{NAME}: int8",
        "  1x56x56x64 -> 64, 3x3 s1, dense, 115.61 MMAC, 1.04 MB of input, weights and\n    output",
        "  weights in the library: 36.9 kB as int8, 73.7 kB as int16",
        "  learned: because",
        "  time of int16 ÷ time of int8: 2.00, 80 % of measurements within 1.41 to 2.83",
    ]
    assert " of a layer that is bound by " in lines[5]
    assert lines[6].startswith("  for int8, ×1.41: int16 moves ")
    assert lines[7].startswith("  for int16, ×1.07: int8 uses a loaded weight for ")
    assert lines[8:] == ["/head/MatMul: tvm", "  unsupported: its weights are no constants"]


@pytest.mark.parametrize(
    ("int8", "int16", "traffic", "compute", "said"),
    [
        (1, 1, 1, 0, "int8 saves half of the bytes of a layer that is bound by memory"),
        (1, 1, 0, 1, "both lowerings need the same bytes of a layer that is bound by memory"),
        (-1, -1, 0, -0.5, "int16 saves 29% of the computing of a layer that is bound by computing"),
        (1, -1, 0, 0, "int8 is bound by memory, int16 by computing"),
        (-1, 1, 0, 0, "int8 is bound by computing, int16 by memory"),
    ],
)
def test_memory_and_computing(int8: float, int16: float, traffic: float, compute: float, said: str) -> None:
    values = {"int8_bound": int8, "int16_bound": int16, "ratio_traffic": traffic, "ratio_compute": compute}
    assert _bound(values) == said


def test_one_lowering_is_not_compared() -> None:
    wide = Decision("int16", "only lowering", "why", layer="x", workload=replace(CONV, data_dtype="uint16"))
    lines = [line.plain for line in details([wide], {}, profile("x86-64-v3"), 80)]
    assert lines[2:] == ["  only lowering: why"]
