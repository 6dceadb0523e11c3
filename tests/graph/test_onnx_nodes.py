"""ONNX's own tests of its quantization operators, with parameters as constants."""

import re
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import selector
from selector.runtime import ModelError

_OPERATORS = (
    "test_qlinearconv test_qlinearmatmul test_convinteger test_matmulinteger test_dynamicquantizelinear "
    "test_quantizelinear test_dequantizelinear"
).split()
_REFUSED = re.compile(r"_(e\dm\d|float4e2m1|u?int[24]|blocked)")  # in names of tests: no integers of 8 or 16 bits


def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return {case.name: case for case in found if case.name.startswith(tuple(_OPERATORS))}


CASES = _cases()


def _as_array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _with_constants(case):
    """The model, all but its first input turned into initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    first, *others = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.append(first)
    for info, value in zip(others, case.data_sets[0][0][1:], strict=True):
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
        tensor.name = info.name
        model.graph.initializer.append(tensor)
    return model


def test_there_are_as_many_as_expected():
    assert len(CASES) >= 45


@pytest.mark.parametrize("name", [name for name in CASES if not _REFUSED.search(name)])
def test_equal(name):
    case = CASES[name]
    inputs, wanted = case.data_sets[0]
    model = _with_constants(case)
    for policy in ("int8", "int16") if selector.explain(model) else ("int8",):
        found = selector.compile(model, policy=policy, threads=1).run(_as_array(inputs[0]))
        for one, other in zip(found, map(_as_array, wanted), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_max_ulp(one, other) if one.dtype.kind == "f" else np.testing.assert_array_equal(
                one, other
            )


@pytest.mark.parametrize("name", [name for name in CASES if _REFUSED.search(name)])
def test_refused_by_name(name):
    with pytest.raises(ModelError, match=r"quantizes (to (u?int[24]|float[48])|in blocks of)") as error:
        selector.load(_with_constants(CASES[name]))
    assert "\n" not in str(error.value)
