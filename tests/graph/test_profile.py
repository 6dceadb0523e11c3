"""Profiles name every quantized layer, and the kernels around them."""

import json

import numpy as np
import pytest

import selector
from selector.policy import Decision
from selector.profiling import _named
from tests.models import qdq_block_model


def test_profile():
    compiled = selector.compile(qdq_block_model(), policy="int16", threads=1)
    x = np.zeros((1, 3, 16, 16), "float32")
    before = compiled.run(x)
    profile = compiled.profile(x, rounds=3)
    layers = [kernel for kernel in profile.kernels if kernel.lowering]
    assert [kernel.name for kernel in layers] == [decision.layer for decision in compiled.decisions]
    assert {kernel.lowering for kernel in layers} == {"int16"}
    assert all(kernel.form and kernel.shape for kernel in layers)
    others = {kernel.name: kernel.calls for kernel in profile.kernels if not kernel.lowering}
    assert others["qnn_concat"] == 2
    assert others["qnn_binary"] == 1
    assert sum(kernel.share for kernel in profile.kernels) == pytest.approx(1)
    assert profile.total_us > 0
    written = json.loads(json.dumps(profile.to_dict()))
    assert len(written["kernels"]) == len(profile.kernels)
    np.testing.assert_array_equal(compiled.run(x)[0], before[0])


def test_no_round():
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        selector.compile(qdq_block_model(), policy="int8", threads=1).profile(rounds=0)


@pytest.mark.parametrize(
    ("symbol", "form"),
    [
        ("qconv2d_1x1_int8__direct_avx2_pmaddwd12", "direct_avx2_pmaddwd"),
        ("qconv2d_first_int8__direct_generic_int8", "direct_generic_int8"),
        ("qconv2d_depthwise_int8__depthwise_generic_int163", "depthwise_generic_int16"),
    ],
)
def test_names_of_kernels(symbol, form):
    workload = selector.extract_workloads(qdq_block_model())[0]
    decision = Decision("int8", source="int8", reason="", layer="a", workload=workload)
    left = Decision("tvm", source="unsupported", reason="", layer="b")
    kernels = _named([("fused_add2_quantize", 1.0), (symbol, 2.0), ("fused_add_quantize", 1.0)], [left, decision])
    assert [(kernel.name, kernel.form, kernel.calls) for kernel in kernels] == [
        ("a", form, 1),
        ("fused_add_quantize", None, 2),
    ]
    assert kernels[0].share == 0.5
