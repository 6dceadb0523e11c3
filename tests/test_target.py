"""Targets by every way of naming them, and what their profiles say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm

from selector import data, profiles
from selector.collect.synthetic import synthesize
from selector.lowering import build
from selector.lowering.pipeline import compile_kernel
from selector.target import UnknownTarget, architecture, profile, resolve, why_not_on
from selector.threads import host_cores
from selector.workload import ConvWorkload


@pytest.mark.parametrize(
    ("name", "arch", "vector_bits", "registers", "has", "lacks"),
    [
        ("x86-64", "x86_64", 128, 16, "sse2", "ssse3"),
        ("x86-64-v2", "x86_64", 128, 16, "sse4.2", "avx"),
        ("x86-64-v3", "x86_64", 256, 16, "avx2", "avx512f"),
        ("skylake-avx512", "x86_64", 512, 32, "avx512bw", "avx512vnni"),
        ("cascadelake", "x86_64", 512, 32, "avx512vnni", "avxvnni"),
        ("alderlake", "x86_64", 256, 16, "avxvnni", "avx512f"),
        ("cortex-a72", "aarch64", 128, 32, "neon", "dotprod"),
        ("neoverse-n1", "aarch64", 128, 32, "dotprod", "i8mm"),
    ],
)
def test_profiles(name: str, arch: str, vector_bits: int, registers: int, has: str, lacks: str) -> None:
    found = profile(name)
    assert (found.name, found.arch, found.vector_bits, found.vector_registers) == (name, arch, vector_bits, registers)
    assert found.has(has)
    assert not found.has(lacks)
    assert not found.has(has, lacks)


def test_native_is_this_machine() -> None:
    found = profile("native")
    assert profile() == found
    assert found.cores == host_cores() >= 1
    assert 8 << 10 <= found.l1_bytes <= found.l2_bytes


def test_features_can_be_taken_away() -> None:
    found = profile({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake", "mattr": ["-avx512vnni"]})
    assert not found.has("avx512vnni")
    assert found.vector_bits == 512


def test_a_target_is_kept() -> None:
    target = resolve("x86-64-v3")
    assert resolve(target) is target
    assert isinstance(resolve({"kind": "llvm"}), tvm.target.Target)
    assert str(resolve("llvm")) == str(tvm.target.Target("llvm"))


def test_apples_arm64_is_aarch64() -> None:
    """Its kernels are those of the architecture: the M1 has 8-bit dot products."""
    apple = profile({"kind": "llvm", "mtriple": "arm64-apple-macos", "mcpu": "apple-m1"})
    assert (apple.name, apple.arch, apple.has("dotprod")) == ("apple-m1", "aarch64", True)
    assert architecture("arm64") == architecture("aarch64-linux-gnu") == "aarch64"
    workload = ConvWorkload(1, 4, 4, 8, 16, 1, 1)
    kernel = build(workload, synthesize(workload, 0)[0], apple, "int8")
    code = compile_kernel(kernel, apple.tvm_target()).mod.inspect_source("asm")
    assert "sdot" in code or "udot" in code
    assert why_not_on(apple, profile("cortex-a72")) == ""
    assert why_not_on(profile("cortex-a72"), apple) == "lacks dotprod, fullfp16"


def test_json_is_the_dict() -> None:
    fewer = profile({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake", "mattr": ["-avx512vnni"]})
    assert profile(fewer.spec) == fewer
    with pytest.raises(UnknownTarget, match="not valid JSON"):
        resolve("{cascadelake}")


@pytest.mark.parametrize("name", ["pentium-9000", "", "Native"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownTarget, match="give 'native', an LLVM cpu name"):
        resolve(name)


def test_malformed_dict() -> None:
    with pytest.raises(UnknownTarget, match="tvm does not take the target"):
        resolve({"kind": "abacus"})


def test_only_cpus() -> None:
    with pytest.raises(UnknownTarget, match="CPUs through LLVM"):
        profile({"kind": "cuda"})


def test_caches_of_the_cpu_that_measured() -> None:
    stored = profiles.find("x86-64-v3", profile("x86-64-v3").features)
    assert stored is not None
    there = profile("x86-64-v3", measured_on=stored.rates.source)
    sizes = (stored.cores, stored.l1_bytes, stored.l2_bytes, stored.l3_bytes)
    assert (there.cores, there.l1_bytes, there.l2_bytes, there.l3_bytes) == sizes
    another = profile("x86-64-v3", measured_on="another CPU")
    assert replace(another, rates=None) == replace(profile("x86-64-v3"), rates=None)
    assert another.rates == stored.rates
    assert there.rates == stored.rates


def test_code_for_another_cpu_has_the_caches_of_the_one_that_measured_it() -> None:
    stored = profiles.read(data.folder("targets") / "emeraldrapids" / "alderlake.json")
    there = profile("alderlake", measured_on=stored.rates.source)
    assert (there.l2_bytes, there.l3_bytes, there.rates) == (stored.l2_bytes, stored.l3_bytes, stored.rates)
    assert profile("alderlake").l2_bytes < there.l2_bytes


def test_caches_of_a_cpu_that_another_target_was_measured_on() -> None:
    described = [profiles.find(name, profile(name).features) for name in ("x86-64-v3", "x86-64-v4")]
    for cpu in filter(None, described):
        level = profile("x86-64-v2", measured_on=cpu.rates.source)
        sizes = (cpu.cores, cpu.l1_bytes, cpu.l2_bytes, cpu.l3_bytes)
        assert (level.cores, level.l1_bytes, level.l2_bytes, level.l3_bytes) == sizes
        assert level.rates is not None
        assert level.rates.source == cpu.rates.source
    assert len({cpu.rates.source for cpu in described if cpu}) == 2
