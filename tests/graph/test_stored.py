"""Saved libraries with weights in a section of their own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

import selector
from selector import mapped_weights, runtime
from selector.graph import stored
from selector.tensors import random_inputs
from tests.models import GraphBuilder, qdq_conv_model

SHAPES = [(1, 3, 16, 16), (2, 3, 16, 16), (1, 3, 24, 20)]


def network() -> onnx.ModelProto:
    """Two 3×3 layers of equal weights and another one, which all become Winograd, and a dense layer."""
    b = GraphBuilder()
    x = b.qdq(b.input("x", SHAPES[0]), 0.05, 120)
    x = b.qdq(b.node("Conv", [x, b.weight((64, 3, 3, 3))], name="first", pads=[1] * 4), 0.05, 120)
    weight = b.weight((64, 64, 3, 3))
    for name in ("one", "two"):
        x = b.qdq(b.node("Conv", [x, weight], name=name, pads=[1] * 4), 0.5, 120)
    x = b.qdq(b.node("Conv", [x, b.weight((48, 64, 3, 3))], name="three", pads=[1] * 4), 0.5, 120)
    x = b.qdq(b.node("Flatten", [b.node("GlobalAveragePool", [x])]), 0.2, 120)
    return b.model({b.node("MatMul", [x, b.weight((48, 300))], name="dense"): "float32"})


@pytest.fixture(scope="module")
def compiled() -> selector.CompiledModel:
    modules = [selector.load(network(), shapes={"x": shape}) for shape in SHAPES]
    return selector.compile(modules, policy="int16", threads=2)


@pytest.fixture(scope="module")
def library(compiled: selector.CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "net.so"
    compiled.save(path)
    return path


def test_every_way_to_run_gives_the_same(compiled: selector.CompiledModel, library: Path) -> None:
    light, full = runtime.load(library), selector.load_compiled(library)
    plain, mapped = (relax.VirtualMachine(one.executable, tvm.cpu()) for one in (compiled, full))
    for variant in compiled.variants:
        (x,) = random_inputs(variant.inputs)
        expected = plain[variant.function](tvm.runtime.tensor(x)).numpy()
        np.testing.assert_array_equal(mapped[variant.function](tvm.runtime.tensor(x)).numpy(), expected, strict=True)
        for one in (compiled, light, full):
            np.testing.assert_array_equal(one.run(x)[0], expected, strict=True)
    layers = [kernel.name for kernel in full.profile(x, rounds=1).kernels if kernel.lowering]
    assert layers == ["first", "one", "two", "three", "dense"]


def test_weights_are_stored_once_and_as_small_as_they_are(library: Path) -> None:
    opened = runtime.open_library(library)
    weights = mapped_weights.from_metadata(opened.metadata["weights"])
    made = [weight for weight in weights if weight.maker]
    assert [weight.stored_bytes for weight in made] == [64 * 64 * 9, 48 * 64 * 9]
    assert all(weight.nbytes == 8 * weight.stored_bytes for weight in made)
    assert all(weight.offset % mapped_weights.ALIGNMENT == 0 for weight in weights)
    assert all(np.from_dlpack(tensor).ctypes.data % mapped_weights.ALIGNMENT == 0 for tensor in opened.weights)


def test_made_weights_are_the_packed_ones(compiled: selector.CompiledModel, library: Path) -> None:
    source = compiled._source
    assert source is not None
    recipes = {key: recipe for session in source.sessions for key, recipe in session.recipes.items()}
    tensors = runtime.open_library(library).weights
    made = {stored.digest(np.from_dlpack(tensor)) for tensor in tensors}
    assert recipes
    assert recipes.keys() <= made


def test_machines_share_the_weights(library: Path) -> None:
    opened = runtime.open_library(library)
    (x,) = random_inputs(opened.variants[0].inputs)
    machines = [opened.start() for _ in range(2)]

    def outputs() -> list[np.ndarray]:
        return [np.from_dlpack(machine["main"](tvm.runtime.tensor(x))).copy() for machine in machines]

    before = outputs()
    made = [i for i, row in enumerate(opened.metadata["weights"]) if row["maker"]]
    memory = np.from_dlpack(opened.weights[made[-1]])
    (ctypes.c_uint8 * memory.nbytes).from_address(memory.ctypes.data)[:] = bytes(memory.nbytes)
    after = outputs()
    np.testing.assert_array_equal(after[0], after[1])
    assert (before[0] != after[0]).any()


def test_without_lazy_weights_tvm_runs_it_alone(
    compiled: selector.CompiledModel, library: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.so"
    selector.compile(selector.load(network()), policy="int16", threads=2, lazy_weights=False).save(path)
    assert path.stat().st_size > library.stat().st_size
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    (x,) = random_inputs(compiled.inputs)
    expected = compiled.run(x)[0]
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), expected)
    np.testing.assert_array_equal(runtime.load(path).run(x)[0], expected)


def test_a_folder_with_quotes(compiled: selector.CompiledModel, tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" näme'
    folder.mkdir()
    compiled.save(folder / "net.so")
    assert [entry.name for entry in folder.iterdir()] == ["net.so"]
    assert len(runtime.load(folder / "net.so").variants) == 3


def test_a_network_without_large_constants(tmp_path: Path) -> None:
    compiled = selector.compile(qdq_conv_model(), policy="int8", threads=1)
    compiled.save(tmp_path / "net.so")
    opened = runtime.open_library(tmp_path / "net.so")
    assert (opened.metadata["weights"], opened.weights) == ([], [])


def test_sections_of_other_systems(tmp_path: Path) -> None:
    arrays = [np.arange(3, dtype=np.int8), np.ones(2, np.float32)]
    for triple, symbol in (("aarch64-linux-gnu", "selector_weights"), ("arm64-apple-darwin", "_selector_weights")):
        (source,) = stored.section(arrays, tmp_path, triple)
        assert f".globl {symbol}\n" in Path(source).read_text()
    blob = (tmp_path / "weights.bin").read_bytes()
    assert len(blob) == 2 * mapped_weights.ALIGNMENT
    assert blob[64:72] == arrays[1].tobytes()
    assert stored.section([], tmp_path, "x86_64-linux-gnu") == []
