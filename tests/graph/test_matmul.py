"""Products of two 8-bit tensors that are data: exact, whatever the shapes and the CPU."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

import selector
from selector.graph.ops import matmul
from selector.graph.passes.fused import fuse_kernels
from tests.graph.modules import dequantize, module, operators, quantize
from tests.lowering import execute

SCALES = 0.05, 0.02
TARGETS = ("native", *(name for name in execute.HERE if name != execute.PORTABLE))
DTYPES = st.sampled_from(["uint8", "int8"])


def data(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def product(shapes, dtypes, zeros, finish=lambda emit, y: y):
    def build(emit, a, b):
        x, y = (dequantize(v, s, z, d) for v, s, z, d in zip((a, b), SCALES, zeros, dtypes, strict=True))
        return finish(emit, emit(relax.op.matmul(emit(x), emit(y))))

    return module(list(zip(shapes, dtypes, strict=True)), build)


def exact(values, zeros):
    a, b = (v.astype("int64") - z for v, z in zip(values, zeros, strict=True))
    return np.matmul(a, b)


@st.composite
def products(draw):
    size = st.integers(1, 40)
    rows, length, columns = draw(size), draw(size), draw(size)
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    alone = draw(st.sampled_from(["neither", "first", "second"]))
    shapes = (
        (*(() if alone == "first" else batch), rows, length),
        (*(() if alone == "second" else batch), length, columns),
    )
    dtypes = draw(DTYPES), draw(DTYPES)
    zeros = tuple(draw(st.integers(np.iinfo(d).min, np.iinfo(d).max)) for d in dtypes)
    return shapes, dtypes, zeros


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(case=products(), target=st.sampled_from(TARGETS), threads=st.integers(1, 2))
def test_float_results_are_the_exact_sums_times_one_factor(case, target, threads):
    shapes, dtypes, zeros = case
    rng = np.random.default_rng(0)
    values = [data(rng, *what) for what in zip(shapes, dtypes, strict=True)]
    (found,) = selector.compile(product(*case), target=target, threads=threads).run(*values)
    unit = np.float32(np.float64(np.float32(SCALES[0])) * np.float64(np.float32(SCALES[1])))
    np.testing.assert_array_equal(found, exact(values, zeros).astype("float32") * unit)


@pytest.mark.parametrize("extreme", [(255, 0), (0, 255)])
def test_the_largest_sums_fit(extreme):
    shapes, zeros = ((2, 4096), (4096, 3)), (extreme[1], extreme[1])
    values = [np.full(shape, extreme[0], "uint8") for shape in shapes]
    mod = product(shapes, ("uint8", "uint8"), zeros)
    (found,) = selector.compile(mod, threads=1).run(*values)
    unit = np.float32(np.float64(np.float32(SCALES[0])) * np.float64(np.float32(SCALES[1])))
    np.testing.assert_array_equal(found, exact(values, zeros).astype("float32") * unit)


def test_factor_bounds_and_quantize_belong_to_the_product():
    def finish(emit, y):
        scaled = emit(relax.op.divide(y, relax.const(np.float32(4))))
        return quantize(emit(relax.op.maximum(scaled, relax.const(np.float32(0.1)))), 0.01, 7, "int8")

    mod = product(((2, 3, 5, 8), (2, 3, 8, 9)), ("uint8", "int8"), (100, 3), finish)
    assert operators(fuse_kernels(mod)) == ["qnn.matmul"]
    rng = np.random.default_rng(1)
    values = [data(rng, (2, 3, 5, 8), "uint8"), data(rng, (2, 3, 8, 9), "int8")]
    compiled = selector.compile(mod, threads=1)
    (found,) = compiled.run(*values)
    real = np.maximum(exact(values, (100, 3)) * (0.05 * 0.02 / 4), 0.1)
    assert np.abs(found - np.clip(np.rint(real / 0.01) + 7, -128, 127)).max() <= 1  # a tie may go the other way
    (decision,) = compiled.decisions
    assert (decision.lowering, decision.source, decision.macs) == ("int16", "only lowering", 2 * 3 * 5 * 9 * 8)


def test_batches_that_broadcast_both_ways_stay_float():
    mod = product(((2, 1, 4, 5), (1, 3, 5, 6)), ("uint8", "uint8"), (0, 0))
    assert "matmul" in operators(fuse_kernels(mod))


def test_a_length_whose_sums_need_more_than_32_bits_stays_float(monkeypatch):
    monkeypatch.setattr(matmul, "_LONGEST", 7)
    assert "matmul" in operators(fuse_kernels(product(((4, 8), (8, 4)), ("uint8", "uint8"), (0, 0))))
