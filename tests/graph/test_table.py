"""Functions of one 8-bit tensor as tables."""

import numpy as np
import pytest
from tvm import relax

from selector.graph.passes.fused import fuse_kernels
from tests.graph.modules import dequantize, module, operators, quantize, run

SCALAR = {value: relax.const(np.float32(value)) for value in (0.5, 3, 6)}


def hardswish(emit, x):
    gate = emit(relax.op.clip(emit(relax.op.add(x, SCALAR[3])), 0, 6))
    return relax.op.multiply(x, emit(relax.op.divide(gate, SCALAR[6])))


FUNCTIONS = {
    "sigmoid": lambda emit, x: relax.op.sigmoid(x),
    "tanh": lambda emit, x: relax.op.tanh(x),
    "silu": lambda emit, x: relax.op.nn.silu(x),
    "gelu": lambda emit, x: relax.op.nn.gelu(x),
    "exp of leaky relu": lambda emit, x: relax.op.exp(emit(relax.op.nn.leakyrelu(x, 0.1))),
    "hardswish": hardswish,
}


@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("int8", "uint8"), ("uint8", "int8")])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_byte(name, dtypes):
    source, target = dtypes
    zero = 100 if source == "uint8" else -28

    def build(emit, x):
        return quantize(emit(FUNCTIONS[name](emit, emit(dequantize(x, 0.05, zero, source)))), 0.03, 7, target)

    mod = module([((2, 128), source)], build)
    after = fuse_kernels(mod)
    assert operators(after) == ["qnn.lookup"]
    data = np.arange(256).astype("uint8").view(source).reshape(2, 128)
    assert np.abs(run(mod, data)[0].astype(int) - run(after, data)[0]).max() <= 1


LEFT = {
    "cheap": lambda emit, x, y: relax.op.nn.relu(x),
    "two tensors": lambda emit, x, y: relax.op.multiply(emit(relax.op.sigmoid(x)), y),
    "a constant for each channel": lambda emit, x, y: relax.op.add(
        emit(relax.op.sigmoid(x)), relax.const(np.ones((1, 8), "float32"))
    ),
    "softmax of another axis": lambda emit, x, y: relax.op.nn.softmax(x, 0),
    "not a number": lambda emit, x, y: relax.op.log(x),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name):
    def build(emit, x, y):
        return quantize(emit(LEFT[name](emit, emit(dequantize(x)), emit(dequantize(y)))))

    mod = module([((4, 8), "uint8")] * 2, build)
    assert operators(fuse_kernels(mod)) == operators(mod)
