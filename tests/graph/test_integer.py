"""Data movement on 8-bit tensors: before and expected."""

import numpy as np
import pytest
import tvm
from tvm import relax

from selector.graph.passes.integer import keep_integer
from tests.graph.modules import dequantize, module, operators, quantize, run

DATA = ((1, 8, 6, 6), "uint8")


def check(inputs, before, expected):
    after = relax.transform.CanonicalizeBindings()(keep_integer(module(inputs, before)))
    tvm.ir.assert_structural_equal(after, module(inputs, expected))


def test_quantize_of_dequantize_is_nothing():
    check([DATA], lambda emit, x: quantize(emit(dequantize(x))), lambda emit, x: x)


def test_quantize_with_other_parameters_stays():
    check(
        [DATA],
        lambda emit, x: quantize(emit(dequantize(x)), 0.2),
        lambda emit, x: quantize(emit(dequantize(x)), 0.2),
    )


MOVES = {
    "reshape": lambda x: relax.op.reshape(x, (1, 2, 4, 6, 6)),
    "permute_dims": lambda x: relax.op.permute_dims(x, (0, 2, 3, 1)),
    "strided_slice": lambda x: relax.op.strided_slice(x, [1], [0], [4]),
    "expand_dims": lambda x: relax.op.expand_dims(x, 0),
    "max_pool2d": lambda x: relax.op.nn.max_pool2d(x, (3, 3), padding=(1, 1)),
    "flatten": relax.op.flatten,
}


@pytest.mark.parametrize("name", MOVES)
def test_moving_elements_needs_no_float(name):
    move = MOVES[name]
    check([DATA], lambda emit, x: quantize(emit(move(emit(dequantize(x))))), lambda emit, x: move(x))


def test_channel_shuffle_with_a_quantize_after_every_step():
    steps = [MOVES["reshape"], lambda x: relax.op.permute_dims(x, (0, 2, 1, 3, 4)), MOVES["flatten"]]

    def before(emit, x):
        for step in steps:
            x = emit(quantize(emit(step(emit(dequantize(x))))))
        return x

    def expected(emit, x):
        for step in steps:
            x = emit(step(x))
        return x

    check([DATA], before, expected)


def test_relu_is_a_maximum_with_the_zero_point():
    check(
        [DATA],
        lambda emit, x: quantize(emit(relax.op.nn.relu(emit(dequantize(x))))),
        lambda emit, x: relax.op.maximum(x, relax.const(np.uint8(3))),
    )


def test_padding_with_zero_is_padding_with_the_zero_point():
    width = (0, 0, 0, 0, 1, 1, 1, 1)
    check(
        [DATA],
        lambda emit, x: quantize(emit(relax.op.nn.pad(emit(dequantize(x)), width))),
        lambda emit, x: relax.op.nn.pad(x, width, "constant", 3.0),
    )


@pytest.mark.parametrize("value", [7.03, 100.0])
def test_padding_with_no_level_stays_float(value):
    def build(emit, x):
        return quantize(emit(relax.op.nn.pad(emit(dequantize(x)), (0, 0) * 3 + (1, 1), "constant", value)))

    assert operators(keep_integer(module([DATA], build))) == ["dequantize", "nn.pad", "quantize"]


def test_split_keeps_its_parts_8_bit():
    def before(emit, x):
        parts = emit(relax.op.split(emit(dequantize(x)), 2, 1))
        return emit(quantize(emit(parts[0]))), emit(quantize(emit(parts[1])))

    def expected(emit, x):
        parts = emit(relax.op.split(x, 2, 1))
        return emit(parts[0]), emit(parts[1])

    check([DATA], before, expected)


def test_concat_of_equal_parameters():
    check(
        [DATA, DATA],
        lambda emit, x, y: quantize(emit(relax.op.concat([emit(dequantize(x)), emit(dequantize(y))], 1))),
        lambda emit, x, y: relax.op.concat([x, y], 1),
    )


def test_concat_requantizes_only_the_part_that_differs():
    check(
        [DATA, DATA],
        lambda emit, x, y: quantize(emit(relax.op.concat([emit(dequantize(x)), emit(dequantize(y, 0.2))], 1))),
        lambda emit, x, y: relax.op.concat([x, emit(quantize(emit(dequantize(y, 0.2))))], 1),
    )


def test_float_values_are_computed_where_they_are_needed():
    def before(emit, x):
        real = emit(dequantize(x))
        return emit(quantize(emit(relax.op.reshape(real, (8, 36))))), emit(relax.op.sigmoid(real))

    after = keep_integer(module([DATA], before))
    assert sorted(operators(after)) == ["dequantize", "reshape", "sigmoid"]


def test_concat_that_is_also_used_as_float_stays():
    def before(emit, x, y):
        both = emit(relax.op.concat([emit(dequantize(x)), emit(dequantize(y, 0.2))], 1))
        return emit(quantize(both)), emit(relax.op.sigmoid(both))

    inputs = [DATA, DATA]
    mod = module(inputs, before)
    data = [np.random.default_rng(i).integers(0, 256, DATA[0]).astype("uint8") for i in (0, 1)]
    for expected, actual in zip(run(mod, *data), run(keep_integer(mod), *data), strict=True):
        np.testing.assert_array_equal(expected, actual)
