"""Finding linkers, for this machine and for other architectures."""

import shutil
import sys

import pytest

import selector
from selector.cross import NATIVE, LinkerNotFound, LinkFailed, find_linker
from tests.models import qdq_conv_model

RISCV = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty folder that is the whole PATH; called with a name and a body it puts a shell script there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)

    def put(name, body="exit 0"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        return str(script)

    return put


def test_native(path):
    with pytest.raises(LinkerNotFound, match=r"needs a C\+\+ compiler.*none of g\+\+.*--linker"):
        find_linker("native")
    for name in reversed(NATIVE):
        path(name)
        assert find_linker("native").command == (name,)
    assert find_linker("x86-64-v4" if sys.platform == "linux" else "native").command == (NATIVE[0],)


def test_native_of_the_environment(path, monkeypatch):
    path("g++")
    monkeypatch.setenv("CXX", "ccache g++")
    assert find_linker("native").command == ("ccache", "g++")


@pytest.mark.parametrize(
    ("target", "names", "package"),
    [
        ("cortex-a72", ["aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc"], "g++-aarch64-linux-gnu"),
        (RISCV, ["riscv64-linux-gnu-g++", "riscv64-linux-gnu-gcc"], "g++-riscv64-linux-gnu"),
        (
            {"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu", "mcpu": "cortex-a53"},
            ["aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "aarch64-unknown-linux-gnu-g++"],
            "g++-aarch64-linux-gnu",
        ),
    ],
)
def test_foreign(path, target, names, package):
    for name in NATIVE:
        path(name, "exit 1")  # this machine's own are no help
    with pytest.raises(LinkerNotFound) as error:
        find_linker(target)
    for text in (*names, "clang --target=", f"apt-get install {package}", "--linker"):
        assert text in str(error.value)
    for name in reversed(names):
        path(name)
        assert find_linker(target).command == (name,)


def test_clang_is_taken_where_it_can_link(path):
    path("clang", 'test "$1" = --target=aarch64-linux-gnu')
    assert find_linker("cortex-a72").command == ("clang", "--target=aarch64-linux-gnu")
    with pytest.raises(LinkerNotFound):
        find_linker(RISCV)


def test_given(path):
    command = path("zig")
    found = find_linker("cortex-a72", f"{command} cc -target 'aarch64-linux-gnu'")
    assert found.command == (command, "cc", "-target", "aarch64-linux-gnu")
    for wrong in ("absent --option", ""):
        with pytest.raises(LinkerNotFound, match=f"no linker '{wrong}'"):
            find_linker("cortex-a72", wrong)


@pytest.fixture(scope="module")
def compiled():
    return selector.compile(qdq_conv_model(), target="cortex-a72", policy="int8", threads=1)


def test_a_library_of_the_architecture(compiled, tmp_path):
    try:
        find_linker("cortex-a72")
    except LinkerNotFound as error:
        pytest.skip(str(error))
    compiled.save(tmp_path / "net.so")
    header = (tmp_path / "net.so").read_bytes()[:20]
    assert (header[:4], int.from_bytes(header[18:20], "little")) == (b"\x7fELF", 183)  # EM_AARCH64
    with pytest.raises(selector.ModelError, match=r"net\.so is not a network compiled by Selector for this machine"):
        selector.load_compiled(tmp_path / "net.so")


def test_a_linker_that_fails(compiled, path, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    command = path("ld", "echo 'file in wrong format' >&2; echo more >&2; exit 1")
    with pytest.raises(LinkFailed, match=r"did not link for aarch64-linux-gnu: file in wrong format$"):
        compiled.save(folder / "net.so", command)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_riscv_compiles(tmp_path):
    model = selector.compile(qdq_conv_model(), target=RISCV, policy="int16", threads=1)
    assert [decision.lowering for decision in model.decisions] == ["int16"]
    with pytest.raises(LinkFailed, match="riscv64-linux-gnu"):
        model.save(tmp_path / "net.so", "gcc")
