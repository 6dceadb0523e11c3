"""Compiling for CPUs that are not this machine's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selector import cpuinfo
from selector.cross import LinkerNotFound, find_linker
from tests.cli.conftest import Run

RISCV = json.dumps({"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"})


def require_linker(target: str) -> None:
    try:
        find_linker(target)
    except LinkerNotFound as error:
        pytest.skip(str(error))


def test_another_architecture(selector_command: Run, network: Path) -> None:
    require_linker("cortex-a72")
    library = network.with_name("net.so")
    answer = selector_command("compile", network, "--target", "cortex-a72", "-o", library, "--json").json()
    assert (answer["target"], answer["output"]) == ("cortex-a72", str(library))
    assert answer["library_bytes"] == library.stat().st_size
    selector_command("run", library).assert_bad_input("net.so is not a network compiled by Selector for this machine")


def test_without_a_linker(selector_command: Run, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(network.parent))
    library = network.with_name("net.so")
    outcome = selector_command("compile", network, "--target", "cortex-a72", "-o", library)
    outcome.assert_bad_input("aarch64-linux-gnu-g++", "apt-get install g++-aarch64-linux-gnu", "--linker")
    outcome = selector_command("compile", network, "--target", RISCV, "-o", library)
    outcome.assert_bad_input("riscv64-linux-gnu-gcc", "g++-riscv64-linux-gnu")
    outcome = selector_command("compile", network, "--target", "cortex-a72", "-o", library, "--linker", "absent")
    outcome.assert_bad_input("no linker 'absent'")
    assert not library.exists()
    assert selector_command("compile", network, "--target", RISCV).code == 0


def test_a_linker_that_fails(selector_command: Run, network: Path) -> None:
    library = network.with_name("net.so")
    outcome = selector_command("compile", network, "-o", library, "--linker", "false")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "'false' did not link for" in outcome.err
    assert not library.exists()


def test_verifying_what_cannot_run(selector_command: Run, network: Path) -> None:
    outcome = selector_command("compile", network, "--target", "cortex-a72", "--verify")
    outcome.assert_bad_input("--verify runs the network", "cortex-a72", "leave --verify out")


def test_threads_of_the_device(selector_command: Run, network: Path) -> None:
    hint = "--threads: of the device"
    assert hint in selector_command("compile", network, "--target", "cortex-a72").out
    assert hint not in selector_command("compile", network, "--target", "cortex-a72", "--threads", 4).out
    assert hint not in selector_command("compile", network).out


@pytest.mark.skipif(not cpuinfo.lacking(["avx512f"]), reason="this machine has AVX-512, or is not x86")
def test_instructions_this_machine_lacks(selector_command: Run, network: Path) -> None:
    library = network.with_name("net.so")
    outcome = selector_command("compile", network, "--target", "x86-64-v4", "-o", library)
    assert (outcome.code, outcome.err) == (0, "")
    selector_command("run", library).assert_bad_input("compiled for x86-64-v4", "lacks avx512bw", "avx512f")
    outcome = selector_command("compile", network, "--target", "x86-64-v4", "--verify")
    outcome.assert_bad_input("--verify", "lacks avx512bw")


@pytest.mark.parametrize(
    ("target", "fragment"),
    [
        ({"kind": "llvm", "mtriple": "abacus"}, "no architecture 'abacus'"),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "znver3"}, "no CPU 'znver3' of aarch64-linux-gnu"),
    ],
)
def test_what_llvm_does_not_know(selector_command: Run, network: Path, target: dict[str, str], fragment: str) -> None:
    selector_command("explain", network, "--target", json.dumps(target)).assert_bad_input(fragment)


@pytest.mark.parametrize("policy", ["roofline", "rule", "int8"])
def test_explained_without_the_hardware(selector_command: Run, network: Path, policy: str) -> None:
    options = ("--target", "cortex-a72", "--policy", policy, "--json")
    (layer,) = selector_command("explain", network, *options).json()["layers"]
    assert layer["lowering"] in ("int8", "int16")
    assert layer["reason"]
