"""What LLVM makes of the innermost loops: the row's instruction, and registers only."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import tvm

from selector.lowering import build, dot
from selector.lowering.peak import peak_function
from selector.workload import ConvWorkload, OutDType
from tests.lowering import execute
from tests.lowering.cases import depthwise, make_case

AVX2 = "x86-64-v3"  # compiled for it, on whatever machine

SHAPES = {
    "1x1": ConvWorkload(1, 14, 14, 128, 64, 1, 1, out_dtype="uint8"),
    "3x3": ConvWorkload(1, 14, 14, 64, 64, 3, 3, stride=(2, 2), padding=(1, 1, 1, 1), out_dtype="uint8"),
}
ROWS = {  # row -> (lowering, weights that lead to it, instruction of which there is one a product)
    "avx2_pmaddwd": ("int16", "full", "vpmaddwd"),
    "avx2_pmaddubsw_quad": ("int8", "6bit", "vpmaddubsw"),
    "avx2_pmaddubsw": ("int8", "7bit", "vpmaddubsw"),
    "avx2_psign_pmaddubsw": ("int8", "symmetric", "vpmaddubsw"),
    "avx2_pmaddwd_widen": ("int8", "extreme", "vpmaddwd"),
}

# Accumulators of the largest tile that LLVM 22 keeps in memory, although a register is left for each.
SPILLED = {"avx2_pmaddwd": 1, "avx2_pmaddubsw_quad": 1}


CROSS = [  # (CPU, row, lowering, weights, instruction of which there is one a product)
    ("cascadelake", "avx512vnni_vpdpbusd", "int8", "full", r"vpdpbusd\b.*%zmm"),
    ("cascadelake", "avx512vnni_vpdpwssd", "int16", "full", r"vpdpwssd\b.*%zmm"),
    ("alderlake", "avxvnni_vpdpbusd", "int8", "full", r"vpdpbusd\b.*%ymm"),
    ("alderlake", "avxvnni_vpdpwssd", "int16", "full", r"vpdpwssd\b.*%ymm"),
    ("cortex-a53", "neon_smlal", "int16", "full", r"smlal\s.*\.h\[\d\]"),
    ("cortex-a72", "neon_smlal", "int16", "full", r"smlal\s.*\.h\[\d\]"),
    ("cortex-a72", "neon_smlal_sadalp", "int8", "symmetric", "smlal|smull"),
    ("cortex-a72", "neon_smull_sadalp", "int8", "extreme", "smull"),
    ("neoverse-n1", "neon_sdot", "int8", "full", r"sdot\s.*\.4b\[\d\]"),
    ("neoverse-v1", "neon_usmmla", "int8", "full", "usmmla"),
]

NEON = ("cortex-a53", "cortex-a72", "neoverse-n1", "neoverse-v1")
NEON_PRODUCTS = r"smlal|smull|(us|s)dot"


# Every kernel and stride on every kind of row: (CPU, kernel, stride, lowering, has Term2).
LOADED_WEIGHTS = [
    *((cpu, 3, stride, "int8", False) for cpu in NEON for stride in (1, 2)),
    *((cpu, 5, stride, "int8", False) for cpu in ("cortex-a72", "neoverse-n1") for stride in (1, 2)),
    *(("cortex-a72", kernel, stride, "int16", False) for kernel in (3, 5) for stride in (1, 2)),
    ("cortex-a53", 3, 1, "int16", False),
    ("neoverse-v1", 3, 2, "int16", False),
    ("cortex-a72", 3, 1, "int8", True),
    ("neoverse-n1", 5, 2, "int8", True),
]


def innermost_loops(assembly: str) -> list[list[str]]:
    """Bodies of loops without loops in them, instructions only."""
    lines = assembly.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.LBB\w+):", line))}
    bodies = []
    for i, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+(\.LBB\w+)", line)
        start = labels.get(jump[1], len(lines)) if jump else len(lines)
        if start < i:
            body = lines[start + 1 : i + 1]
            if not any(label.startswith(".LBB") for label in body):
                stripped = [text.strip().removeprefix("{vex}").lstrip() for text in body]
                bodies.append([text for text in stripped if re.match("[a-z]", text)])
    return bodies


def hottest_loop(assembly: str, instruction: str) -> list[str]:
    """The innermost loop with most of an instruction, a regular expression."""
    return max(innermost_loops(assembly), key=lambda body: len(matching(body, instruction)))


def matching(loop: list[str], instruction: str) -> list[str]:
    """Instructions of a loop that match from their start."""
    return [text for text in loop if re.match(instruction, text)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ROWS)
def test_innermost_loop_of_a_direct_kernel(name: str, shape: str) -> None:
    lowering, weights, instruction = ROWS[name]
    case = make_case(SHAPES[shape], weights=weights)
    kernel = build(case.workload, case.constants, execute.profile(AVX2), lowering)
    assert (kernel.row, kernel.template) == (name, "direct")
    loop = hottest_loop(execute.assembly(execute.compile_kernels([kernel], AVX2)), instruction)
    products = [text for text in loop if text.startswith(instruction)]
    assert len(products) >= 8, "a tile of at least eight products"
    assert all("%ymm" in text for text in products)
    stored = [text for text in loop if re.match(r"v?mov\w+\s+%\w+, .*\(", text)]
    assert len(stored) <= SPILLED.get(name, 0), f"registers of {kernel.name} go through memory: {stored}"
    assert len([text for text in loop if "(%rsp" in text]) == 2 * len(stored)
    assert not [text for text in loop if text.startswith("call")]


@pytest.mark.parametrize("name", ROWS)
def test_peak_loop_touches_registers_only(name: str) -> None:
    row = next(row for row in dot.DOTS if row.name == name)
    function = peak_function(row, 1000)
    module = tvm.compile(tvm.IRModule({"peak": function.with_attr("global_symbol", "peak")}), target=execute.cpu(AVX2))
    loop = hottest_loop(execute.assembly(module), ROWS[name][2])
    assert not [text for text in loop if "(" in text]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("cpu", "name", "lowering", "weights", "instruction"), CROSS, ids=[f"{case[0]}-{case[1]}" for case in CROSS]
)
def test_innermost_loop_on_other_cpus(
    cpu: str, name: str, lowering: str, weights: str, instruction: str, shape: str
) -> None:
    """The row's instruction, one for every product, and nothing on the stack."""
    case = make_case(SHAPES[shape], weights=weights)
    kernel = build(case.workload, case.constants, execute.profile(cpu), lowering)
    assert kernel.row == name
    loop = hottest_loop(execute.assembly(execute.compile_kernels([kernel], cpu)), instruction)
    products = matching(loop, instruction)
    assert len(products) >= 10, "a tile of at least ten products"
    assert len(matching(loop, "sadalp")) == (0 if "sadalp" not in name else len(matching(loop, "smull")))
    assert not [text for text in loop if "(%rsp" in text or "[sp" in text], "registers go through memory"
    assert not matching(loop, "call|bl\\b")
    if instruction.startswith("vpdpbusd"):  # in AT&T's order: signed, unsigned, sum
        data = {text.split()[-1] for text in matching(loop, "vpbroadcastd")}
        assert {text.split(", ")[1] for text in products} <= data, "the data is the unsigned operand"


@pytest.mark.parametrize("width", [28, 14])  # rows that are lines of their own, and those of one line
@pytest.mark.parametrize("lowering", ["int8", "int16"])
def test_groups_of_few_channels_keep_accumulators_in_registers(lowering: str, width: int) -> None:
    """All of a kernel's short runs are unrolled: there is no loop to look at."""
    work = ConvWorkload(1, width, width, 64, 64, 3, 3, padding=(1, 1, 1, 1), groups=4, out_dtype="uint8")
    case = make_case(work, weights="full")
    kernel = build(case.workload, case.constants, execute.profile("cascadelake"), lowering)
    assembly = execute.assembly(execute.compile_kernels([kernel], "cascadelake"))
    assert len(re.findall(r"vpdp\w+\s.*%zmm", assembly)) >= 10
    assert len(re.findall(r"vmov\w+\s+%[yz]mm\d+, .*\(%rsp", assembly)) <= 2


@pytest.mark.parametrize("weights", ["symmetric", "extreme"])
@pytest.mark.parametrize("lowering", ["int8", "int16"])
def test_depthwise_weights_are_operands_in_memory(lowering: str, weights: str) -> None:
    """LLVM would load them before the loop over tiles, and store those that the registers do not hold."""
    case = make_case(depthwise(5, 1), weights=weights)
    kernel = build(case.workload, case.constants, execute.profile(AVX2), lowering)
    compiled = execute.assembly(execute.compile_kernels([kernel], AVX2))
    products = re.findall(r"vpmaddwd\s+(.*), %ymm\d+, %ymm\d+", compiled)
    assert len(products) >= 100
    assert len([operand for operand in products if "(" in operand]) > 0.9 * len(products)
    assert len(re.findall(r"vmov\w+\s+%ymm\d+, .*\(%rsp\)", compiled)) < 20


@pytest.mark.parametrize("cpu", ["cascadelake", "alderlake"])
@pytest.mark.parametrize("work", [depthwise(3, 1), depthwise(5, 2), ConvWorkload(1, 14, 14, 24, 24, 1, 1)])
def test_vpdpwssd_is_not_taken_apart(work: ConvWorkload, cpu: str) -> None:
    """LLVM would make products and sums of chains of it, to shorten them."""
    case = make_case(replace(work, out_dtype="uint8"), weights="full")
    kernel = build(case.workload, case.constants, execute.profile(cpu), "int16")
    compiled = execute.assembly(execute.compile_kernels([kernel], cpu))
    assert "vpdpwssd" in compiled
    assert "vpmaddwd" not in compiled


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lowering", ["int8", "int16"])
@pytest.mark.parametrize("out_dtype", ["uint8", "int32"])
def test_interleaving_is_not_done_byte_by_byte(out_dtype: OutDType, lowering: str, stride: int) -> None:
    """LLVM would take a shuffle of four vectors of 512 bits apart."""
    case = make_case(replace(depthwise(3, stride, 128), out_dtype=out_dtype), weights="full")
    kernel = build(case.workload, case.constants, execute.profile("cascadelake"), lowering)
    compiled = execute.assembly(execute.compile_kernels([kernel], "cascadelake"))
    assert len(re.findall(r"vp(?:ins|ext)r[bw]\s", compiled)) < 10


@pytest.mark.parametrize("weights", ["symmetric", "7bit"])
def test_rows_of_padding_are_not_made_lane_by_lane(weights: str) -> None:
    """LLVM would build the mask of a selection from single bytes, here in every column."""
    case = make_case(replace(depthwise(3, 2, channels=276), in_height=9, in_width=6), weights=weights)
    kernel = build(case.workload, case.constants, execute.profile("x86-64-v3"), "int8")
    compiled = execute.assembly(execute.compile_kernels([kernel], "x86-64-v3"))
    assert compiled.count("vpinsrb") < 8


@pytest.mark.parametrize(("cpu", "register"), [("x86-64-v3", "%ymm"), ("skylake-avx512", "%zmm")])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["direct", "depthwise", "winograd4"])
def test_spilled_vectors_are_aligned(kind: str, threads: int, cpu: str, register: str) -> None:
    """LLVM aligns the stack to 16 bytes if nothing asks for more."""
    workload = {
        "direct": SHAPES["3x3"],
        "depthwise": depthwise(5),
        "winograd4": replace(SHAPES["1x1"], kernel_height=3, kernel_width=3, padding=(1, 1, 1, 1)),
    }[kind]
    case = make_case(replace(workload, in_height=28, in_width=28, threads=threads))
    kernel = build(case.workload, case.constants, execute.profile(cpu), "int16")
    assert kernel.template == kind
    compiled = execute.assembly(execute.compile_kernels([kernel], cpu))
    assert re.search(r"andq\s+\$-(32|64), %rsp", compiled)
    spills = [text for text in compiled.splitlines() if "(%rsp" in text and register in text]
    assert spills
    assert not matching(spills, r"vmov(dqu|ups)")


@pytest.mark.parametrize("cpu", NEON)
def test_depthwise_loops_of_neon_keep_off_the_stack(cpu: str) -> None:
    """Weights are loaded where they are used: hoisted, they would need more registers than there are."""
    kernels = []
    for on, kernel, stride, lowering, term2 in LOADED_WEIGHTS:
        if on == cpu:
            case = make_case(replace(depthwise(kernel, stride), weight_zero_point=3 if term2 else 0))
            kernels.append(build(case.workload, case.constants, execute.profile(cpu), lowering))
    assert {kernel.template for kernel in kernels} == {"depthwise"}
    loops = innermost_loops(execute.assembly(execute.compile_kernels(kernels, cpu)))
    products = [loop for loop in loops if len(matching(loop, NEON_PRODUCTS)) >= 8]
    assert len(products) >= len(kernels)
    assert not [text for loop in products for text in loop if "[sp" in text]


@pytest.mark.parametrize(
    ("cpu", "instruction"),
    [*((cpu, r"smlal\s.*\.h\[\d\]") for cpu in NEON), ("cascadelake", r"vpdpwssd\b.*%zmm")],
)
def test_winograd_products_keep_off_the_stack(cpu: str, instruction: str) -> None:
    case = make_case(replace(SHAPES["1x1"], kernel_height=3, kernel_width=3, padding=(1, 1, 1, 1)))
    kernel = build(case.workload, case.constants, execute.profile(cpu), "int16")
    assert kernel.template.startswith("winograd")
    loop = hottest_loop(execute.assembly(execute.compile_kernels([kernel], cpu)), instruction)
    assert len(matching(loop, instruction)) >= 10
    assert not [text for text in loop if "(%rsp" in text or "[sp" in text]


def test_every_group_of_winograd_tiles_asks_for_the_weights_that_follow() -> None:
    """One of them alone would leave memory idle while the others multiply."""
    work = replace(SHAPES["1x1"], in_height=14, in_width=26, kernel_height=3, kernel_width=3, padding=(1, 1, 1, 1))
    case = make_case(work)
    kernel = build(case.workload, case.constants, execute.profile("x86-64-v3"), "int16")
    assert kernel.template == "winograd4"
    loops = innermost_loops(execute.assembly(execute.compile_kernels([kernel], "x86-64-v3")))
    multiplying = [loop for loop in loops if len(matching(loop, "vpmaddwd")) >= 10]
    assert len(multiplying) >= 2  # 28 tiles of an image in groups of five and six
    assert all(matching(loop, "prefetch") for loop in multiplying)


@pytest.mark.parametrize(
    ("cpu", "widening"), [("x86-64-v3", r"vpmovsxwd|vpackusdw"), ("cortex-a72", r"sshll2?\s.*\.4s")]
)
def test_winograd_transforms_the_data_in_words(cpu: str, widening: str) -> None:
    """No product with a Python number: TVM would widen the words for it."""
    case = make_case(replace(SHAPES["1x1"], kernel_height=3, kernel_width=3, padding=(1, 1, 1, 1)))
    kernel = build(case.workload, case.constants, execute.profile(cpu), "int16")
    assert kernel.template == "winograd4"
    loops = innermost_loops(execute.assembly(execute.compile_kernels([kernel], cpu)))
    transforms = [loop for loop in loops if len(matching(loop, r"vpsubw|sub\s.*\.8h")) > 50]
    assert transforms
    assert not [text for loop in transforms for text in matching(loop, widening)]
