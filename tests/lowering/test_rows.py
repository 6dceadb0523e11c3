"""Every row of the table of dot instructions, on every target that reaches it, in every template.

Kernels for CPUs that this machine is not are compiled, their instruction is looked for, and running them is skipped.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm

from selector import target as targets
from selector.lowering import (
    LOWERINGS,
    Kernel,
    build,
    conv,
    depthwise,
    dot,
    int8,
    int16,
    narrow,
    pipeline,
    tir,
    winograd,
)
from selector.lowering.reference import convolve
from selector.lowering.scheme import SCHEMES
from selector.target import TargetProfile
from selector.weights import WeightFacts, weight_facts
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import Case, make_case

TARGETS = tuple(dict.fromkeys((*execute.LEVELS, *execute.FOREIGN, *execute.EMULATED)))

# Odd sizes, channels that fill no vector, padding on every side, output of 8 bits through every pack instruction.
DENSE = ConvWorkload(2, 7, 5, 13, 37, 3, 3, padding=(1, 0, 1, 2), data_zero_point=7, out_dtype="uint8")
POINTWISE = ConvWorkload(1, 6, 9, 24, 40, 1, 1, data_dtype="int8", out_dtype="int8", data_zero_point=-3)
GROUPED = ConvWorkload(1, 6, 6, 12, 20, 3, 3, stride=(2, 1), groups=2, weight_dtype="uint8", weight_zero_point=7)
DEPTHWISE = ConvWorkload(1, 9, 8, 43, 43, 3, 3, padding=(1, 1, 1, 1), groups=43, data_zero_point=200, out_dtype="uint8")
STRIDED = ConvWorkload(1, 9, 8, 24, 48, 5, 5, stride=(2, 2), padding=(2, 2, 1, 1), groups=24, data_dtype="int8")
TILED = ConvWorkload(1, 11, 9, 20, 37, 3, 3, padding=(1, 1, 1, 1), data_zero_point=9, out_dtype="uint8", threads=2)

INSTRUCTIONS = {  # what a row's name ends in -> instructions of its products
    "vpdpbusd": ("vpdpbusd",),
    "vpdpwssd": ("vpdpwssd",),
    "pmaddwd": ("pmaddwd",),
    "pmaddwd_widen": ("pmaddwd",),
    "pmaddubsw": ("pmaddubsw", "pmaddwd"),
    "pmaddubsw_quad": ("pmaddubsw", "paddw", "pmaddwd"),
    "psign_pmaddubsw": ("psignb", "pmaddubsw", "pmaddwd"),
    "usmmla": ("usmmla",),
    "smmla": ("smmla",),
    "usdot": ("(usdot|sudot)",),  # the latter takes a lane of the data
    "sdot": ("sdot",),
    "smlal_sadalp": ("smull", "smlal", "sadalp"),
    "smull_sadalp": ("smull", "sadalp"),
    "smlal": ("smlal",),
}
REGISTERS = {4: "%xmm", 8: "%ymm", 16: "%zmm"}  # of x86, by lanes


def int8_cases(row: dot.Dot, profile: TargetProfile) -> list[Case]:
    """Cases whose weights make the int8 lowering use the row: those of least range for which it does."""
    found = []
    for work in (DENSE, POINTWISE, GROUPED, DEPTHWISE, STRIDED):
        for weights in ("6bit", "7bit", "symmetric", "extreme"):
            case = make_case(work, weights=weights)
            facts = weight_facts(
                case.constants.weight,
                case.constants.weight_zero_point,
                groups=work.groups,
                dilation_width=work.dilation[1],
            )
            if int8.choose(case.workload, facts, profile)[0].name == row.name:
                found.append(case)
                break
    return found


def int16_kernels(row: dot.Dot, profile: TargetProfile) -> list[tuple[Case, Kernel]]:
    """Each template on the row, whatever the lowering would prefer."""
    pairs = []
    for work, weights in (
        (DENSE, "full"),
        (POINTWISE, "full"),
        (DEPTHWISE, "full"),
        (STRIDED, "7bit"),
        (TILED, "full"),
    ):
        case = make_case(work, weights=weights)
        template = depthwise if depthwise.takes(work) else conv
        fitting = row.at_most(template.MAX_DOT_GROUPS)
        assert fitting is not None

        def arguments(row: dot.Dot, case: Case = case) -> tuple[Any, ...]:
            operands = int16.operands_of(case.workload, case.constants, row)
            return case.workload, case.constants, operands, row, profile

        if work is TILED:
            pairs += [(case, winograd.build(scheme.name, scheme, *arguments(fitting))) for scheme in SCHEMES]
        else:
            pairs.append((case, template.build("kernel", *arguments(fitting))))
        if work is POINTWISE and row.arch == "x86_64":
            pairs.append((case, conv.build("bytes", *arguments(fitting.from_bytes()))))
    return pairs


def reachable() -> list[tuple[str, dot.Dot]]:
    """(target, row) pairs: rows that the target's CPU has and that some weights lead to."""
    pairs = []
    for target in TARGETS:
        profile = execute.profile(target)
        pairs += [(target, row) for row in dot.candidates(profile, "int8") if int8_cases(row, profile)]
        pairs.append((target, dot.candidates(profile, "int16")[0]))
    return pairs


REACHABLE = reachable()


@pytest.mark.skipif(not execute.X86, reason="the other targets are x86")
def test_every_row_is_reached() -> None:
    assert {row.name for _, row in REACHABLE} == {row.name for row in dot.DOTS}


@pytest.mark.parametrize(("target", "row"), REACHABLE, ids=lambda value: getattr(value, "name", value))
def test_row(target: str, row: dot.Dot) -> None:
    profile = execute.profile(target)
    if row.lowering == "int16":
        pairs = int16_kernels(row, profile)
        templates = {"direct", "depthwise", *(scheme.name for scheme in SCHEMES)}
        assert {kernel.template for _, kernel in pairs} == templates
    else:
        cases = int8_cases(row, profile)
        pairs = [(case, build(case.workload, case.constants, profile, "int8")) for case in cases]
    kernels = [kernel for _, kernel in pairs]
    assert {kernel.row for kernel in kernels} == {row.name}
    executable = execute.compile_kernels(kernels, target)
    if row.arch is not None:
        text = execute.assembly(executable)
        register = REGISTERS[row.lanes] if row.arch == "x86_64" else r"v\d+\."
        for instruction in INSTRUCTIONS[row.name.partition("_")[2]]:
            assert re.search(rf"\bv?{instruction}\s.*{register}", text), f"no {instruction} in {row.name}"
    execute.require_runnable(target)
    outputs = execute.run_all(executable, kernels, [case for case, _ in pairs], target)
    for (case, kernel), found in zip(pairs, outputs, strict=True):
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kernel.template} {case.workload}", strict=True)


def emulated(row: dot.Dot) -> dot.Dot:
    """The row with its products spelled out, which any CPU can run: all but the instruction itself is the same."""

    def element(packed: tir.Expr, dtype: str, d: int) -> tir.Expr:
        if dtype == "int8" and row.depth == 2:
            packed, dtype = tir.cast(packed, "int16", row.lanes * 2), "int16"
        words = tir.T.reinterpret(packed, dtype=tir.vector("uint32" if dtype == "uint8" else "int32", row.lanes))
        bits = 32 // row.depth
        kind = "uint32" if dtype == "uint8" else "int32"
        raised = words << tir.const(32 - bits * (d + 1), kind, row.lanes)
        return tir.cast(raised >> tir.const(32 - bits, kind, row.lanes), "int32", row.lanes)

    def emit(_row: dot.Dot, acc: tir.Expr, x: list[tir.Expr], w: list[tir.Expr], _ones: tir.Expr) -> tir.Expr:
        for data, weights in zip(x, w, strict=True):
            for d in range(row.depth):
                acc = acc + element(data, row.data_dtype, d) * element(weights, row.weight_dtype, d)
        return acc

    return replace(row, emit=emit, ones=False)


def saturated(value: tir.Expr, lanes: int, element: str, dtype: str) -> tir.Expr:
    """The value within the range of a dtype, in that dtype."""
    limits = np.iinfo(dtype)
    low, high = (tir.const(int(bound), element, lanes) for bound in (limits.min, limits.max))
    return tir.cast(tir.T.max(tir.T.min(value, high), low), dtype, lanes)


def pack(a: tir.Expr, b: tir.Expr, lanes: int, element: str, dtype: str) -> tir.Expr:
    """Both values, saturated, in turns of 128 bits of the input."""
    block = 4 if element == "int32" else 8
    order = [part * lanes + start + i for start in range(0, lanes, block) for part in (0, 1) for i in range(block)]
    return tir.pick([tir.T.Bind(saturated(value, lanes, element, dtype)) for value in (a, b)], order)


EMULATED_PACKS = narrow.Packs(
    rounded=lambda value, lanes: tir.cast(tir.T.nearbyint(value), "int32", lanes),
    words=lambda a, b, lanes: pack(a, b, lanes, "int32", "int16"),
    bytes=lambda a, b, lanes, dtype: pack(a, b, lanes, "int16", dtype),
    truncated=lambda value, element, dtype: saturated(value, {"int32": 16, "int16": 32}[element], element, dtype),
)


def one_step(row: dot.Dot) -> tvm.tirx.PrimFunc:
    """``out = emit(acc, data, weight)``: ``groups`` vectors of each operand, ``lanes`` sums."""

    def body(data: tir.Expr, weight: tir.Expr, acc: tir.Expr, out: tir.Expr) -> None:
        x, w = ([tir.load(buffer, g * row.packed, row.packed) for g in range(row.groups)] for buffer in (data, weight))
        total = row.emit(row, tir.load(acc, 0, row.lanes), x, w, row.constant())
        tir.store(out, 0, total, row.lanes)

    elements = row.groups * row.packed
    operands = [("data", elements, row.data_dtype), ("weight", elements, row.weight_dtype)]
    return tir.function(row.name, [*operands, ("acc", row.lanes, "int32"), ("out", row.lanes, "int32")], body)


def step_inputs(row: dot.Dot) -> list[np.ndarray]:
    """Data, weights and accumulators of one step: the extremes for which the row is exact, and a small number."""
    rng = np.random.default_rng(len(row.name))
    limits = np.iinfo(row.data_dtype)
    # int16 rows meet nothing larger than what Winograd's transforms yield
    data = (-25500, 25500, 3) if row.data_dtype == "int16" else (limits.min, limits.max, 3)
    bound = next(b for b in (128, 127, 64, 32) if row.safe(WeightFacts(b, 2 * b, 4 * b, 1 << 20, False)))
    weight = (-12495, 12495, 5) if row.weight_dtype == "int16" else (-bound, min(bound, 127), 5)
    shape = (row.groups, row.packed)
    return [
        rng.choice(data, shape).astype(row.data_dtype),
        rng.choice(weight, shape).astype(row.weight_dtype),
        rng.integers(-(1 << 20), 1 << 20, row.lanes).astype(np.int32),
    ]


def step_output(row: dot.Dot, data: np.ndarray, weight: np.ndarray, acc: np.ndarray) -> np.ndarray:
    """What the table says of the row, in int64."""
    x, w = (operand.astype(np.int64).reshape(row.groups, -1, row.depth) for operand in (data, weight))
    sums = np.einsum("gld,gld->l" if row.pixels == 1 else "gpd,gcd->pc", x, w)
    return (acc + sums.reshape(-1)).astype(np.int32)


@pytest.mark.parametrize("target", TARGETS)
def test_instruction_sums_what_its_row_says(target: str) -> None:
    """Order of lanes, signs of both operands, and no saturation."""
    profile = execute.profile(target)
    rows = [*dot.candidates(profile, "int8"), *dot.candidates(profile, "int16")]
    functions = {row.name: one_step(row) for row in rows}
    executable = tvm.compile(tvm.IRModule(functions), target=execute.cpu(target), tir_pipeline=pipeline.NAME)
    execute.require_runnable(target)
    calls = [(row.name, step_inputs(row), np.empty(row.lanes, np.int32)) for row in rows]
    for row, found, (_, inputs, _) in zip(rows, execute.call_all(executable, calls, target), calls, strict=True):
        np.testing.assert_array_equal(found, step_output(row, *inputs), err_msg=row.name, strict=True)


@pytest.mark.skipif(not execute.X86, reason="only the products of x86's rows are spelled out")
@pytest.mark.parametrize("row", [row for row in dot.DOTS if row.arch == "x86_64"], ids=lambda row: row.name)
def test_products_spelled_out_are_those_of_the_row(row: dot.Dot) -> None:
    """What stands for instructions that this machine lacks: VNNI's and AVX-512's."""
    function = one_step(emulated(row))
    executable = tvm.compile(
        tvm.IRModule({row.name: function}), target=execute.cpu("native"), tir_pipeline=pipeline.NAME
    )
    inputs = step_inputs(row)
    call = (row.name, inputs, np.empty(row.lanes, np.int32))
    np.testing.assert_array_equal(
        execute.call_all(executable, [call], "native")[0], step_output(row, *inputs), strict=True
    )


@pytest.mark.parametrize("target", execute.FOREIGN)
def test_foreign_rows_with_emulated_instructions(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing, tiles and epilogue for CPUs that this machine may not be."""
    wide = tuple(emulated(row) if row.arch == "x86_64" else row for row in dot.DOTS)
    monkeypatch.setattr(dot, "DOTS", wide)
    monkeypatch.setitem(narrow.PACKS, "x86_64", EMULATED_PACKS)
    profile = execute.profile(target)
    cases = [(make_case(replace(DEPTHWISE, groups=9, in_channels=9, out_channels=9)), "int8")]  # less than 16 lanes
    for lowering, weights in (("int16", "full"), ("int8", "6bit"), ("int8", "7bit"), ("int8", "extreme")):
        cases += [(make_case(work, weights=weights), lowering) for work in (DENSE, DEPTHWISE)]
    cases += [(make_case(replace(TILED, in_height=6, in_width=6)), "int16"), (cases[0][0], "int16")]
    kernels = [build(case.workload, case.constants, profile, lowering) for case, lowering in cases]
    executable = execute.compile_kernels(kernels, "x86-64-v2")
    for i, ((case, _), kernel) in enumerate(zip(cases, kernels, strict=True)):
        found = execute.run(executable, i, kernel, case)
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kernel.name} {case.workload}", strict=True)


def test_candidates_are_ordered_by_rate() -> None:
    for target in TARGETS:
        for lowering in ("int8", "int16"):
            rates = [row.rate() for row in dot.candidates(execute.profile(target), lowering)]  # type: ignore[arg-type]
            assert rates == sorted(rates, reverse=True)
            assert rates, f"no {lowering} row on {target}"


def test_last_candidate_takes_any_weights() -> None:
    worst = make_case(DENSE, weights="extreme")
    facts = weight_facts(worst.constants.weight, worst.constants.weight_zero_point, groups=1, dilation_width=1)
    for target in TARGETS:
        assert any(row.safe(facts) and row.groups == 1 for row in dot.candidates(execute.profile(target), "int8"))


@pytest.mark.parametrize("features", ["", "+f,+d"], ids=["soft floats", "floats"])
def test_any_other_cpu_has_kernels(features: str) -> None:
    """Neither x86 nor AArch64: the generic rows compile, with float offsets and without instructions for them."""
    given = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"}
    resolved = targets.resolve(given | ({"mattr": features.split(",")} if features else {}))
    profile = targets.profile(resolved)
    kernels = []
    for work in (POINTWISE, replace(DEPTHWISE, in_channels=8, out_channels=8, groups=8), DENSE):
        case = make_case(replace(work, batch=1, in_height=3, in_width=3))
        assert case.constants.requantize is not None
        offset = np.full(work.out_channels, 0.25, np.float32)
        constants = replace(case.constants, requantize=replace(case.constants.requantize, offset=offset))
        kernels += [build(case.workload, constants, profile, lowering) for lowering in LOWERINGS]
    assert {kernel.row for kernel in kernels} == {"generic_int8", "generic_int16"}
    functions = {f"k{i}": kernel.func.with_attr("global_symbol", f"k{i}") for i, kernel in enumerate(kernels)}
    executable = tvm.compile(tvm.IRModule(functions), target=resolved, tir_pipeline=pipeline.NAME)
    assert "rv64" in execute.assembly(executable)
