"""Modelling CPUs: what is read from assembly, what llvm-mca is asked, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selector import data, profiles, target
from selector.collect import describe as module
from selector.collect.describe import Specification, describe, find_specification, specifications
from selector.collect.llvm_mca import ModelUnavailable, find_mca, hottest_loop, innermost_loops, without_copies
from selector.collect.row_kernels import usable_rows
from selector.profiles import ProfileError, StoredProfile
from selector.report.targets import ratios

SHIPPED = data.folder("targets")
SHEET = Specification("a data sheet", 1.5, 2.5, 4, 32 << 10, 256 << 10, 0, 32, 16, 0, 8, 12)

X86 = """
.LBB0_1:
	vmovdqu	(%rdi), %ymm0
.LBB0_2:
	{product}
	vpmaddwd	%ymm1, %ymm2, %ymm3
	vpaddd	%ymm3, %ymm4, %ymm4
	decq	%rax
	jne	.LBB0_2
	decq	%rbx
	jne	.LBB0_1
	vpmaddubsw	%ymm1, %ymm2, %ymm3
"""
ARM = """
.LBB3_7:
	ldp	q0, q1, [x8], #32
	{product}
	subs	x9, x9, #1
	b.ne	.LBB3_7
"""


def mca_missing() -> str:
    try:
        find_mca("x86_64-linux-gnu", "haswell")
    except ModelUnavailable as error:
        return str(error)
    return ""


needs_mca = pytest.mark.skipif(bool(mca_missing()), reason=mca_missing() or "llvm-mca is here")


@pytest.mark.parametrize(
    ("product", "macs"),
    [
        ("vpmaddubsw	%ymm1, %ymm2, %ymm3", 32),
        ("vpmaddubsw	(%rsi), %ymm2, %ymm3", 32),
        ("pmaddubsw	%xmm2, %xmm3", 16),
        ("vpdpbusd	(%rsi){1to16}, %zmm2, %zmm3", 64),
        ("{vex}	vpdpbusd	%ymm1, %ymm2, %ymm3", 32),
        ("vpdpwssd	%ymm1, %ymm2, %ymm3", 32),  # counts beside the pmaddwd of the loop
        ("nop", 16),
    ],
)
def test_products_of_an_x86_loop(product: str, macs: int) -> None:
    loop, found = hottest_loop(X86.replace("{product}", product))
    assert (loop[0], found) == (product, macs)
    assert loop[-1] == "jne	.LBB0_2"


@pytest.mark.parametrize(
    ("product", "macs"),
    [
        ("sdot	v0.4s, v1.16b, v2.4b[0]", 16),
        ("usdot	v0.4s, v1.16b, v2.16b", 16),
        ("sudot	v0.4s, v1.16b, v2.4b[0]", 16),
        ("smmla	v0.4s, v1.16b, v2.16b", 32),
        ("smlal	v0.4s, v1.4h, v2.h[3]", 4),
        ("smlal2	v0.4s, v1.8h, v2.8h", 4),
        ("umull	v0.8h, v1.8b, v2.8b", 8),
        ("mla	v0.4s, v1.4s, v2.4s", 4),
    ],
)
def test_products_of_an_arm_loop(product: str, macs: int) -> None:
    loop, found = hottest_loop(ARM.replace("{product}", product))
    assert (loop[1], found) == (product, macs)


def test_only_innermost_loops() -> None:
    assert len(innermost_loops(X86)) == 1
    assert innermost_loops("	ret\n") == []


@pytest.mark.parametrize("assembly", ["	ret\n", ARM.replace("{product}", "nop")])
def test_no_products(assembly: str) -> None:
    with pytest.raises(ModelUnavailable, match="no loop whose products"):
        hottest_loop(assembly)


def test_copies_of_registers() -> None:
    loop = ["vmovdqa	%ymm1, %ymm2", "movdqa	%xmm1, %xmm2", "fmov	d1, d2", "mov	v1.16b, v2.16b"]
    kept = [
        "vmovdqu	(%rsi), %ymm2",
        "mov	x19, x6",
        "fmov	d1, x2",
        "vmovd	%eax, %xmm1",
        "movq	%rax, %rbx",
    ]
    assert without_copies(loop + kept) == kept


@needs_mca
def test_cycles_of_a_known_loop() -> None:
    loop = ["vpmaddwd	%ymm1, %ymm2, %ymm3"] * 8
    assert find_mca("x86_64-linux-gnu", "haswell").cycles(loop) == pytest.approx(8, abs=0.1), "one a cycle"


@needs_mca
def test_broadcasts_from_memory_take_no_shuffle() -> None:
    mca = find_mca("x86_64-linux-gnu", "znver3")
    shuffles = ["vpshufb	%ymm1, %ymm2, %ymm3", "vpshufb	%ymm1, %ymm2, %ymm4"]
    broadcasts = ["vpbroadcastd	-8(%rdi,%rbp), %ymm5", "vbroadcastss	(%rdi), %xmm6"]
    assert mca.cycles(shuffles + broadcasts) == mca.cycles(shuffles)
    in_registers = ["vpbroadcastd	%xmm1, %ymm5", "vpbroadcastd	%xmm1, %ymm6"]
    assert mca.cycles(shuffles + in_registers) > mca.cycles(shuffles)


@needs_mca
def test_a_zen_3_does_not_fill_its_vector_pipes() -> None:
    additions = ["vpaddd	%ymm1, %ymm2, %ymm3"] * 29
    moves = ["vmovdqa	%ymm1, %ymm2", "vmovdqu	(%rdi), %ymm4"]
    assert find_mca("x86_64-linux-gnu", "znver3").cycles(additions + moves) == pytest.approx(10)
    assert find_mca("x86_64-linux-gnu", "znver2").cycles(additions) < 12, "measured on the one, not on the other"


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v2", "x86-64-v3", "znver3", "emeraldrapids"])
def test_modelled_throughput_is_near_the_measured(name: str) -> None:
    measured, modelled = (profiles.read(folder / f"{name}.json") for folder in (SHIPPED, profiles.modelled_folder()))
    assert (measured.rates.kind, modelled.rates.kind) == ("measured", "modelled")
    rows = [row for row in ratios(modelled.rates, measured.rates) if row["what"] != "reading"]
    assert len(rows) == 2 * len(measured.rates.dots)
    assert all(0.7 <= row["ratio"] <= 1.3 for row in rows), rows


@needs_mca
@pytest.mark.parametrize("name", ["haswell", "x86-64-v2"])
def test_describe(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "usable_rows", lambda wanted: usable_rows(wanted)[-2:])
    done: list[float] = []
    found = describe(name, like="haswell", specification=SHEET, progress=done.append)
    wanted = target.profile(name)
    assert found.matches(name, wanted.features)
    assert (found.arch, found.cores, found.l3_bytes) == ("x86_64", 4, 0)
    rates = found.rates
    assert (rates.kind, rates.source) == ("modelled", "a data sheet")
    l1 = 64 if wanted.vector_bits == 256 else 32  # a load is as wide as the vectors of the target
    assert (rates.l1_gbs, rates.l2_gbs, rates.l3_gbs, rates.dram_all_gbs) == (l1, 32, 8, 12)
    # at most one pmaddwd a cycle, 8 products each, at 2 GHz; without AVX there are copies of registers beside it
    assert 8 < (rates.loop("sse2_pmaddwd") or 0) <= 16.1
    assert 8 < (rates.dot("sse2_pmaddwd") or 0) <= 16.1
    assert done[-1] == 1.0
    assert "scheduling model of haswell, at 2 GHz" in found.note
    assert StoredProfile.from_dict(found.to_dict()) == found


@needs_mca
def test_unknown_cpus_and_instructions_are_named() -> None:
    with pytest.raises(ModelUnavailable, match="does not know 'pentium-9000': install a newer LLVM"):
        find_mca("x86_64-linux-gnu", "pentium-9000")
    with pytest.raises(ModelUnavailable, match=r"cannot model 'haswell': .*error"):
        find_mca("x86_64-linux-gnu", "haswell").cycles(["frobnicate	%ymm1"])


def test_without_the_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="not in the search path: install the package llvm"):
        describe("haswell")
    with pytest.raises(ModelUnavailable, match=r"not at .*nowhere: install the package llvm"):
        describe("haswell", mca=tmp_path / "nowhere")


def test_a_level_of_another_architecture_needs_a_model() -> None:
    arch, other = ("aarch64", "x86_64") if target.profile().arch == "x86_64" else ("x86_64", "aarch64")
    with pytest.raises(ModelUnavailable, match="say which one to model with --like"):
        describe({"kind": "llvm", "mtriple": f"{arch}-linux-gnu"})
    assert other == target.profile().arch


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ModelUnavailable, match="only x86_64 and aarch64 can be modelled"):
        describe({"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "sifive-u74"})


def test_specifications_that_come_with_selector() -> None:
    table = json.loads(specifications().read_text())
    assert len(table) >= 12
    for name in table:
        assert find_specification(specifications(), name).source
        assert target.profile(name).name == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "has no specification of 'haswell'"),
        ("[]", "Expected `object`, got `array`"),
        ('{"znver2": {}}', "it has znver2: give one with --specification, or --like one of them"),
        ('{"haswell": {"cores": 4}}', "missing required field `source`"),
        ("cores=0", r"Expected `int` >= 1 - at `\$\.cores`"),
        ("base_ghz=true", r"Expected `float`, got `bool` - at `\$\.base_ghz`"),
        ("l2_bytes=1.5", r"Expected `int`, got `float` - at `\$\.l2_bytes`"),
        ('unverified=["l4_bytes"]', "unverified lists fields of the specification"),
        ("source=1", r"Expected `str`, got `int` - at `\$\.source`"),
    ],
)
def test_broken_specifications(tmp_path: Path, content: str, message: str) -> None:
    if "=" in content:
        name, _, value = content.partition("=")
        entry = {item: getattr(SHEET, item) for item in SHEET.__slots__} | {name: json.loads(value)}
        content = json.dumps({"haswell": entry})
    path = tmp_path / "cpus.json"
    path.write_text(content)
    with pytest.raises(ProfileError, match=message):
        find_specification(path, "haswell")


def test_missing_specifications(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read the specifications"):
        find_specification(tmp_path / "none.json", "haswell")
