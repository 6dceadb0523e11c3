"""What counts as a difference, and where the quantization step of an output comes from."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from selector import verify
from selector.tensors import TensorSpec, random_inputs
from selector.verify import output_steps


def network(*, shape: tuple[int, ...] = (2, 6)) -> tvm.IRModule:
    """``x`` quantized and dequantized with scale 0.5, reshaped; returned with the integers and a float of its own."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    scale, zero = relax.const(np.float32(0.5)), relax.const(np.int8(0))
    with builder.function("main", [x]):
        with builder.dataflow():
            integers = builder.emit(relax.op.quantize(x, scale, zero, out_dtype="int8"))
            reals = builder.emit(relax.op.dequantize(integers, scale, zero, out_dtype="float32"))
            moved = builder.emit(relax.op.reshape(reals, (shape[1], shape[0])))
            halves = builder.emit(relax.op.multiply(reals, relax.const(np.float32(0.1))))
            result = builder.emit_output(relax.Tuple([moved, integers, halves]))
        builder.emit_func_output(result)
    return builder.get()


def test_output_steps() -> None:
    assert output_steps(network()) == [0.5, 1.0, None]


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127), ("int64", 0, 1), ("bool", 0, 1)]
)
def test_random_integers_fill_their_range(dtype: str, low: int, high: int) -> None:
    (x,) = random_inputs([TensorSpec("x", (64, 64), dtype)])
    assert (x.dtype, x.min(), x.max()) == (np.dtype(dtype), low, high)


def test_random_inputs_are_seeded() -> None:
    specs = [TensorSpec("x", (3, 4), "float32"), TensorSpec("y", (2,), "float16")]
    first, again, other = (random_inputs(specs, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).all()
    assert first[1].dtype == np.float16


def outputs(offset: float) -> list[np.ndarray]:
    """Three outputs as ``network`` has them, the scores in the first moved by ``offset``."""
    return [np.arange(12.0).reshape(6, 2) + offset, np.ones((2, 6), np.int8), np.full((2, 6), 2.0)]


@pytest.mark.parametrize(("offset", "steps", "passed"), [(0.0, 0, True), (4.0, 8, True), (4.5, 9, False)])
def test_tolerance_in_steps(offset: float, steps: float, passed: bool) -> None:
    first, second, third = verify.verify(
        network(), lambda _: outputs(offset), {"peer": verify.Reference(lambda _: outputs(0.0))}
    )
    assert (first.steps, first.passed, first.top1_agrees) == (steps, passed, 1.0)
    assert second.passed
    assert (third.steps, third.tolerance) == (None, pytest.approx(0.1))


def test_nan_does_not_pass() -> None:
    wrong = outputs(0.0)
    wrong[2][0, 0] = np.nan
    assert not verify.verify(network(), lambda _: wrong, {"peer": verify.Reference(lambda _: outputs(0.0))})[2].passed


def test_top1() -> None:
    turned = outputs(0.0)
    turned[0] = 3 * turned[0][:, ::-1]
    theirs = outputs(0.0)
    theirs[0] = 3 * theirs[0]
    first, *_ = verify.verify(network(), lambda _: turned, {"peer": verify.Reference(lambda _: theirs)})
    assert first.top1_agrees == 0.0
    assert first.to_dict()["steps"] == 6.0


def test_top1_ties_within_a_step_agree() -> None:
    nearly = outputs(0.0)
    nearly[0][:, 0] += 1.5  # now the best; half a step behind in what it is compared with
    theirs = outputs(0.0)
    theirs[0][:, 1] -= 0.5
    assert (
        verify.verify(network(), lambda _: nearly, {"peer": verify.Reference(lambda _: theirs)})[0].top1_agrees == 1.0
    )


def test_what_two_right_answers_differ_by_passes() -> None:
    module, nothing = network(), outputs(0.0)
    far = [value + 20 for value in nothing]
    alone, beside = verify.Reference(lambda _: nothing), verify.Reference(lambda _: nothing, lambda _: far)
    assert not any(row.passed for row in verify.verify(module, lambda _: far, {"peer": alone}))
    assert all(row.passed for row in verify.verify(module, lambda _: far, {"peer": beside}))
    farther = [value + 21 for value in nothing]
    assert not any(row.passed for row in verify.verify(module, lambda _: farther, {"peer": beside}))
