"""One library for several shapes of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax, te, tirx

import selector
from selector import runtime
from selector.graph.ir import Expr
from selector.policy import Decision
from selector.target import TargetProfile
from selector.tensors import random_inputs
from selector.workload import ConvWorkload
from tests.graph.modules import module
from tests.models import GraphBuilder, qdq_conv_model

BATCHES = [(1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8)]
WEIGHTS = 64 * 4000  # of the dense layer below, bytes
IMAGES = [(1, 3, 16, 16), (1, 3, 24, 20), (1, 3, 33, 33)]


def classifier(channels: int = 64, classes: int = 4000) -> onnx.ModelProto:
    """A network whose weights are nearly all in one dense layer, which every batch would pack in its own way."""
    b = GraphBuilder()
    x = b.qdq(b.input("x", (1, 3, 8, 8)), 0.05, 120)
    x = b.qdq(b.node("Conv", [x, b.weight((channels, 3, 3, 3))], name="conv", pads=[1] * 4), 0.05, 120)
    x = b.qdq(b.node("Conv", [x, b.weight((channels, 1, 3, 3))], name="depthwise", group=channels), 0.05, 120)
    x = b.qdq(b.node("Flatten", [b.node("GlobalAveragePool", [x])]), 0.02, 120)
    return b.model({b.node("MatMul", [x, b.weight((channels, classes))], name="dense"): "float32"})


def loaded(shapes: list[tuple[int, ...]]) -> list[tvm.IRModule]:
    """The classifier in each of the shapes."""
    return [selector.load(classifier(), shapes={"x": shape}) for shape in shapes]


def constants(compiled: selector.CompiledModel) -> Counter[int]:
    """Elements of every flat array that the executable holds, but for the metadata, the last of them."""
    return Counter(map(int, re.findall(r"(?<=[ [])\[(\d+)\]", compiled.executable.stats().split("Globals")[0])[:-1]))


@pytest.mark.parametrize(("shapes", "policy"), [(BATCHES, "int16"), (IMAGES, "int8")], ids=["batches", "images"])
def test_one_library(shapes: list[tuple[int, ...]], policy: str, tmp_path: Path) -> None:
    modules = loaded(shapes)
    compiled = selector.compile(modules, policy=policy, threads=1)
    compiled.save(tmp_path / "net.so")
    light, full = runtime.load(tmp_path / "net.so"), selector.load_compiled(tmp_path / "net.so")
    assert [variant.inputs[0].shape for variant in light.variants] == shapes
    assert light.variants == full.variants == compiled.variants
    assert full.decisions == compiled.decisions == selector.explain(modules, policy=policy, threads=1)
    assert [len([item for item in full.decisions if item.variant == i]) for i in range(3)] == [3, 3, 3]

    singles = [selector.compile(module, policy=policy, threads=1) for module in modules]
    for single in reversed(singles):  # not in the order of the functions
        (x,) = random_inputs(single.inputs)
        expected = single.run(x)[0]
        for network in (compiled, light, full):
            np.testing.assert_array_equal(network.run(x)[0], expected, strict=True)

    assert constants(compiled) == constants(singles[0])
    singles[0].save(tmp_path / "one.so")
    grown = (tmp_path / "net.so").stat().st_size - (tmp_path / "one.so").stat().st_size
    assert grown < WEIGHTS // 2, "the weights of the other variants are in the file"


def test_a_policy_that_takes_another_lowering_for_each_shape() -> None:
    class ByBatch:
        def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
            name = "int8" if max(workload.batch, workload.out_width if workload.in_height == 1 else 1) == 1 else "int16"
            return Decision(name, source="mine", reason="by batch")

    modules = loaded(BATCHES[:2])
    compiled = selector.compile(modules, policy=ByBatch(), threads=1)
    assert {(item.variant, item.lowering, item.source) for item in compiled.decisions} == {
        (0, "int8", "mine"),
        (1, "int8", "shared"),
    }
    assert constants(compiled) == constants(selector.compile(modules[0], policy=ByBatch(), threads=1))


def test_the_shapes_that_there_are() -> None:
    compiled = selector.compile(loaded(IMAGES), policy="int8", threads=1)
    for inputs in ([np.zeros((2, 3, 16, 16), "float32")], [], [np.zeros(IMAGES[0], "float32")] * 2):
        with pytest.raises(ValueError, match="is compiled for x=1x3x16x16, x=1x3x24x20, x=1x3x33x33; got") as caught:
            compiled.run(*inputs)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"input 'x' is float32 \(1, 3, 24, 20\), got float64"):
        compiled.run(np.zeros(IMAGES[1]))


def test_profile_of_a_variant() -> None:
    compiled = selector.compile(loaded(BATCHES[:2]), policy="int8", threads=1)
    (x,) = random_inputs(compiled.variants[1].inputs)
    layers = [kernel for kernel in compiled.profile(x, rounds=1).kernels if kernel.lowering]
    assert [kernel.name for kernel in layers] == ["conv", "depthwise", "dense"]
    assert layers[0].shape is not None
    assert layers[0].shape.startswith("4x8x8")


def test_what_is_no_network_in_several_shapes() -> None:
    one, same, other = (selector.load(model) for model in (classifier(), classifier(), qdq_conv_model()))
    for models, text in (
        ([], "the list of them is empty"),
        ([one, same], "the same shapes are given twice: x=1x3x8x8"),
        ([one, other], "one takes x float32, another x uint8"),
    ):
        with pytest.raises(selector.ModelError, match=text):
            selector.compile(models)


def test_functions_of_other_modules_keep_apart() -> None:
    """A module's own TIR functions of one name and unequal bodies."""

    def scaling(size: int, factor: float) -> tvm.IRModule:
        def build(emit: Callable[[Expr], Expr], x: Expr) -> Expr:
            def scaled(a: Expr) -> Expr:
                return te.compute(a.shape, lambda i: a[i] * tirx.const(factor, "float32"))

            return relax.BlockBuilder.current().emit_te(scaled, x)

        return module([((size,), "float32")], build)

    compiled = selector.compile([scaling(3, 2.0), scaling(4, 5.0)], threads=1)
    for size, factor in ((3, 2), (4, 5)):
        np.testing.assert_array_equal(compiled.run(np.ones(size, "float32"))[0], np.full(size, factor, "float32"))
