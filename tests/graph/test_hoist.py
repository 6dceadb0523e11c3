"""Quantizing where a layer is computed: before and expected."""

import numpy as np
import pytest
import tvm
from tvm import relax

from selector.graph.passes.hoist import quantize_early
from tests.graph.modules import dequantize, module, quantize, run

DATA = ((1, 8, 6, 6), "float32")


def clip(x):
    return relax.op.clip(x, -0.24, 6.0)


def check(before, expected):
    after = relax.transform.CanonicalizeBindings()(quantize_early(module([DATA], before)))
    tvm.ir.assert_structural_equal(after, module([DATA], expected))


def twice(emit, x, between=clip, scale=0.1):
    """A quantize, an activation, and a quantize of the same parameters."""
    return quantize(emit(between(emit(dequantize(emit(quantize(x)))))), scale)


def test_clipping_between_equal_quantizes_comes_before_them():
    check(twice, lambda emit, x: quantize(emit(clip(x))))


def test_moves_between_equal_quantizes_come_behind_them():
    def before(emit, x):
        return twice(emit, x, lambda y: relax.op.flatten(emit(clip(y))))

    check(before, lambda emit, x: relax.op.flatten(emit(quantize(emit(clip(x))))))


@pytest.mark.parametrize("between", [relax.op.nn.silu, lambda x: relax.op.negative(x)])
def test_other_functions_stay(between):
    check(lambda emit, x: twice(emit, x, between), lambda emit, x: twice(emit, x, between))


def test_other_parameters_stay():
    check(lambda emit, x: twice(emit, x, scale=0.2), lambda emit, x: twice(emit, x, scale=0.2))


def test_what_others_read_stays():
    def network(emit, x):
        first = emit(quantize(x))
        return quantize(emit(clip(emit(dequantize(first))))), relax.op.flatten(first)

    check(network, network)


def test_result_is_the_same_between_and_on_the_levels():
    image = np.random.default_rng(0).uniform(-2, 30, DATA[0]).astype("float32")
    image.flat[::2] = np.round(image.flat[::2] * 20) / 20  # ties
    before = module([DATA], twice)
    np.testing.assert_array_equal(run(quantize_early(before), image)[0], run(before, image)[0])
