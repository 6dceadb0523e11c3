"""Checks of arguments: kept where the caller's tensors arrive, left out inside of the network."""

import numpy as np
import pytest
import tvm
from tvm import relax

import selector
from selector.graph.checks import mark_internal
from tests.graph.modules import module
from tests.models import qdq_conv_model


def test_functions_that_read_inputs_are_not_internal():
    def build(emit, x):
        y = emit(relax.op.exp(emit(relax.op.reshape(x, (4, 6)))))
        return relax.op.negative(emit(relax.op.sqrt(y)))

    mod = mark_internal(relax.transform.LegalizeOps()(module([((2, 12), "float32")], build)))
    marks = {gvar.name_hint: "selector.internal" in func.attrs for gvar, func in mod.functions.items() if func.attrs}
    marks.pop("main", None)
    assert marks == {"reshape": False, "tir_exp": True, "tir_sqrt": True, "tir_negative": True}


def test_wrong_shape_is_refused_by_the_executable_itself():
    compiled = selector.compile(qdq_conv_model(), policy="int8", threads=1)
    with pytest.raises(Exception, match="shape"):  # tvm raises several kinds
        compiled.vm["main"](tvm.runtime.tensor(np.zeros((1, 8, 7, 5), "uint8")))
