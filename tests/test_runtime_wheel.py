"""The wheel that runs compiled networks: what is in it, and that it is enough."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

import selector
from selector import runtime_wheel
from selector.tensors import random_inputs
from tests.models import qdq_block_model

SECONDS = 120  # for pip, which may find a slow package index

_RUN = """
import os, sys
import numpy as np
from selector import runtime
np.save(sys.argv[3], runtime.load(sys.argv[1]).run(np.load(sys.argv[2]))[0])
print(os.path.commonpath([m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "selector"]))
print(*{line.split()[-1] for line in open("/proc/self/maps") if "libtvm_runtime" in line})
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return runtime_wheel.write(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiled = selector.compile(qdq_block_model(), policy="int8", threads=1)
    path = tmp_path_factory.mktemp("library") / "net.so"
    compiled.save(path)
    return path, compiled


def test_contents(wheel, tmp_path):
    assert runtime_wheel.write(tmp_path).read_bytes() == wheel.read_bytes()
    version, tvm = (distribution(name).version for name in ("tvm-selector", "apache-tvm"))
    info = f"tvm_selector_runtime-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    rows = contents[f"{info}/RECORD"].decode().splitlines()
    assert rows[-1] == f"{info}/RECORD,,"
    for row in rows[:-1]:
        name, digest, size = row.split(",")
        found = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={found}", len(contents[name]))
    assert len(rows) == len(contents)
    for licence in ("LICENSE", "apache-tvm/LICENSE", "apache-tvm/NOTICE"):
        assert contents[f"{info}/licenses/{licence}"]
    about = contents[f"{info}/METADATA"].decode()
    assert f"Version: {version}\n" in about
    assert f"apache-tvm {tvm}" in about
    needed = {text for text in distribution("tvm-selector").requires if text.startswith(("numpy", "apache-tvm-ffi"))}
    assert {line.partition(": ")[2] for line in about.splitlines() if line.startswith("Requires-Dist")} == needed


def test_it_is_enough(wheel, library, tmp_path):
    """In a process that has it, its two dependencies and what those need."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("numpy", "apache-tvm-ffi", "typing-extensions"):
        files = distribution(name).files
        for top in {path.parts[0] for path in files} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(distribution(name).locate_file(top)))
    _runs([sys.executable, "-S"], site, library, tmp_path, {"PYTHONPATH": str(site)})


def test_installed_by_pip(wheel, library, tmp_path):
    """Into an environment of its own, where the package index can be reached."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip here")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    asked = [*pip, "download", "--no-deps", "--dest", str(tmp_path), "typing-extensions"]
    if subprocess.run(asked, capture_output=True, timeout=SECONDS).returncode:
        pytest.skip("pip cannot reach a package index")
    subprocess.run([*pip, "install", str(wheel)], check=True, timeout=SECONDS)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    assert not (site / "tvm").exists()
    _runs([str(python)], site, library, tmp_path, {})


def _runs(python, site, library, tmp_path, environment):
    path, compiled = library
    (data,) = random_inputs(compiled.inputs)
    np.save(tmp_path / "x.npy", data)
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TVM_LIBRARY_PATH")}
    done = subprocess.run(
        [*python, "-c", _RUN, path, tmp_path / "x.npy", tmp_path / "y.npy"],
        env=plain | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{site}/selector\n{site}/selector/lib/libtvm_runtime.so\n"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), compiled.run(data)[0])


def _tvm_wheel(path, version, tag, library="tvm/lib/libtvm_runtime.so"):
    """A wheel of apache-tvm with nothing but a library."""
    info = f"apache_tvm-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(library, "a library")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: apache-tvm\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{tag}\n")
        archive.writestr(f"{info}/RECORD", f"{library},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_for_another_platform(tmp_path):
    version = distribution("apache-tvm").version
    tvm = _tvm_wheel(tmp_path / f"apache_tvm-{version}-py3-none-any.whl", version, "manylinux_2_27_aarch64")
    wheel = runtime_wheel.write(tmp_path, tvm)
    assert wheel.name.endswith("-py3-none-manylinux_2_27_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("selector/lib/libtvm_runtime.so") == b"a library"


def test_refusals(tmp_path):
    version = distribution("apache-tvm").version
    other = _tvm_wheel(tmp_path / "apache_tvm-0.1.0-py3-none-any.whl", "0.1.0", "any")
    with pytest.raises(runtime_wheel.NoRuntime, match=rf"is apache-tvm 0\.1\.0, and {version} compiles networks here"):
        runtime_wheel.write(tmp_path, other)
    foreign = _tvm_wheel(tmp_path / "apache_tvm-1-py3-none-any.whl", version, "win_amd64", "tvm/lib/tvm_runtime.dll")
    with pytest.raises(runtime_wheel.NoRuntime, match=r"has no tvm/lib/libtvm_runtime\.so"):
        runtime_wheel.write(tmp_path, foreign)
    (tmp_path / "nothing.whl").write_bytes(b"nothing")
    with pytest.raises(runtime_wheel.NoRuntime, match=r"nothing\.whl is not a wheel of apache-tvm"):
        runtime_wheel.write(tmp_path, tmp_path / "nothing.whl")
