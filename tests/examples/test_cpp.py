"""The example in C++, built both ways, gives the bytes that Python gives."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selector.tensors import random_inputs
from tests.examples.conftest import EXAMPLES

SOURCE = EXAMPLES / "cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Built by the command in the README."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
    (command,) = re.findall(r"```sh\n(TVM=.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)
    subprocess.run(["bash", "-ec", command.replace("python ", f"{sys.executable} ")], cwd=folder, check=True)
    return folder / "run_network"


@pytest.mark.parametrize("name", ["library", "two_of_each"])
def test_the_same_bytes(program, name, request, tmp_path):
    _same_bytes(program, *request.getfixturevalue(name), tmp_path)


def test_built_by_cmake(library, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    build = tmp_path / "build"
    subprocess.run(["cmake", "-S", SOURCE, "-B", build, f"-DPython_EXECUTABLE={sys.executable}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    _same_bytes(build / "run_network", *library, tmp_path)


def _same_bytes(program, path, compiled, tmp_path):
    feed = random_inputs(compiled.inputs)
    given, got = tmp_path / "x.bin", tmp_path / "y.bin"
    given.write_bytes(b"".join(array.tobytes() for array in feed))
    subprocess.run([program, path.name, given, got], cwd=path.parent, check=True)
    assert got.read_bytes() == b"".join(array.tobytes() for array in compiled.run(*feed))


@pytest.mark.parametrize(
    ("contents", "message"), [(b"1", "the input ends early"), (bytes(1 << 16), "the input is too long")]
)
def test_inputs_of_another_size(program, library, tmp_path, contents, message):
    (tmp_path / "x.bin").write_bytes(contents)
    command = [program, library[0], tmp_path / "x.bin", tmp_path / "y.bin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    assert not (tmp_path / "y.bin").exists()


def test_usage_and_no_library(program, tmp_path):
    assert subprocess.run([program], stderr=subprocess.DEVNULL).returncode == 2
    done = subprocess.run([program, tmp_path / "net.so", "x", "y"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
