"""Running compiled networks without TVM's compiler."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import selector
from selector import runtime
from selector.tensors import Inputs, TensorSpec
from selector.tensors import random_inputs as random_feed
from tests.models import qdq_conv_model, random_inputs

_RUN = """
import sys
import numpy as np
from selector import runtime
network = runtime.load(sys.argv[1])
np.save(sys.argv[3], network.run(np.load(sys.argv[2]))[0])
print("tvm" in sys.modules, network.threads, [spec.name for spec in network.inputs])
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiled = selector.compile(qdq_conv_model(), policy="int8", threads=1)
    path = tmp_path_factory.mktemp("library") / "net.so"
    compiled.save(path)
    return path, compiled


def test_a_process_without_the_compiler(library, tmp_path):
    path, compiled = library
    data = random_inputs(qdq_conv_model())["x"]
    np.save(tmp_path / "x.npy", data)
    command = [sys.executable, "-c", _RUN, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False 1 ['x']"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), compiled.run(data)[0])


def test_loading_never_imports_torch(library, tmp_path):
    (tmp_path / "torch.py").write_text("print('torch is imported')")
    script = "import sys; from selector import runtime; runtime.load(sys.argv[1]); print('loaded'); import torch"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", script, str(library[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["loaded", "torch", "is", "imported"]


def test_beside_the_compiler(library):
    path, compiled = library
    data = random_inputs(qdq_conv_model())["x"]
    np.testing.assert_array_equal(runtime.load(path).run(data)[0], compiled.run(data)[0])


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    models = [selector.load(qdq_conv_model(), batch=batch) for batch in (1, 3)]
    path = tmp_path_factory.mktemp("batches") / "net.so"
    selector.compile(models, policy="int8", threads=1).save(path)
    return path, models


def test_several_shapes_without_the_compiler(batches, tmp_path):
    path, models = batches
    for model in models:
        alone = selector.compile(model, policy="int8", threads=1)
        (data,) = random_feed(alone.inputs)
        np.save(tmp_path / "x.npy", data)
        command = [sys.executable, "-c", _RUN, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False 1 ['x']"
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), alone.run(data)[0])


def test_another_shape_gets_the_list(batches):
    network = runtime.load(batches[0])
    assert [str(variant) for variant in network.variants] == ["x=1x8x7x6", "x=3x8x7x6"]
    assert network.inputs == [TensorSpec("x", (1, 8, 7, 6), "uint8")]
    with pytest.raises(ValueError, match=r"is compiled for x=1x8x7x6, x=3x8x7x6; got 2x8x7x6$"):
        network.run(np.zeros((2, 8, 7, 6), "uint8"))


def test_libraries_of_one_shape_that_have_no_list():
    metadata = {"inputs": [{"name": "x", "shape": [1, 2], "dtype": "int8"}]}
    (variant,) = runtime.variants_of(metadata)
    assert (variant.function, variant.inputs) == ("main", (TensorSpec("x", (1, 2), "int8"),))


def test_no_library(tmp_path):
    with pytest.raises(FileNotFoundError):
        runtime.load(tmp_path / "net.so")
    (tmp_path / "net.so").write_bytes(b"nothing")
    with pytest.raises(runtime.ModelError, match="is not a network compiled by Selector"):
        runtime.load(tmp_path / "net.so")


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64", "bool"])
def test_inputs_are_aligned_copies(dtype):
    value = np.ones((3, 5), dtype)
    (tensor,) = Inputs([TensorSpec("x", (3, 5), dtype)]).filled([value])
    held = np.from_dlpack(tensor)
    assert held.ctypes.data % 64 == 0
    assert not np.shares_memory(held, value)
    np.testing.assert_array_equal(held, value)


def test_names_of_the_package():
    assert all(getattr(selector, name) is not None for name in selector.__all__)
    assert dir(selector) == selector.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = selector.nothing


def test_version(monkeypatch):
    """Of the package, of the runtime alone, or of neither."""
    assert selector.__version__ == selector._version()
    installed = {"tvm-selector-runtime": "1.2"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert selector._version() == "1.2"
    installed.clear()
    assert selector._version() == "0+unknown"


def test_type_hints_are_announced():
    assert Path(selector.__file__).with_name("py.typed").is_file()
