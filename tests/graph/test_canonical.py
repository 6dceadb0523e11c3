"""What the importers hide, found again."""

import numpy as np
from tvm import relax, topi

import selector
from selector.graph.passes.canonical import canonicalize
from tests.graph.modules import operators
from tests.models import qdq_conv_model


def test_onnx_clip_is_a_maximum_and_a_minimum():
    mod = selector.load(qdq_conv_model(activation="clip"))
    assert operators(mod).count("call_tir") == 2
    found = operators(canonicalize(mod))
    assert "call_tir" not in found
    assert found[-3:] == ["maximum", "minimum", "quantize"]


def te_module(compute, bound):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit_te(compute, x, relax.const(bound)))
        builder.emit_func_output(out)
    return builder.get()


def test_other_functions_stay_whatever_their_name():
    def maximum(x, y):
        return topi.add(x, y)

    assert operators(canonicalize(te_module(maximum, np.float32(1)))) == ["call_tir"]
    assert operators(canonicalize(te_module(topi.maximum, np.float32(1)))) == ["maximum"]


def test_bounds_that_are_tensors_stay():
    assert operators(canonicalize(te_module(topi.maximum, np.ones(3, "float32")))) == ["call_tir"]
