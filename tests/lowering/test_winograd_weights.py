"""Winograd's weights, transformed when a network is loaded, are those that are packed at compile time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm

from selector.lowering import conv, dot, int16, winograd
from selector.lowering.pipeline import NAME
from selector.lowering.scheme import schemes
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import make_case

WORK = ConvWorkload(1, 11, 13, 19, 27, 3, 3, padding=(1, 1, 1, 1), data_dtype="uint8", data_zero_point=3)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("target", execute.HERE)
def test_same_bytes(target: str, kernel: tuple[int, int]) -> None:
    profile = execute.profile(target)
    row = dot.candidates(profile, "int16", conv.MAX_DOT_GROUPS)[0]
    kernels = []
    for zero_point, dtype, threads in ((0, "int8", 1), (-7, "int16", 2)):  # weights of 8 bits less -7 do not fit int8
        work = replace(WORK, kernel_height=kernel[0], kernel_width=kernel[1], threads=threads)
        case = make_case(replace(work, weight_zero_point=zero_point))
        operands = int16.operands_of(case.workload, case.constants, row)
        for scheme in schemes(case.workload, 0):
            built = winograd.build(scheme.name, scheme, case.workload, case.constants, operands, row, profile)
            assert built.recipe is not None
            assert built.recipe.stored.dtype == dtype
            kernels.append((built.recipe, built.constants[0]))
    assert kernels
    names = [f"make_{i}" for i in range(len(kernels))]
    functions = [recipe.func.with_attr("global_symbol", name) for name, (recipe, _) in zip(names, kernels, strict=True)]
    module = tvm.IRModule(dict(zip(names, functions, strict=True)))
    executable = tvm.compile(module, target=execute.cpu(target), tir_pipeline=NAME)
    for name, (recipe, packed) in zip(names, kernels, strict=True):
        made = tvm.runtime.tensor(np.zeros_like(packed))
        executable[name](tvm.runtime.tensor(recipe.stored), made)
        np.testing.assert_array_equal(made.numpy(), packed, strict=True)


def test_takes_as_many_bytes_as_the_weights() -> None:
    work = replace(WORK, in_channels=64, out_channels=64)
    profile = execute.profile("x86-64-v3")
    case = make_case(work, weights="symmetric")
    row = dot.candidates(profile, "int16", conv.MAX_DOT_GROUPS)[0]
    operands = int16.operands_of(case.workload, case.constants, row)
    for scheme in schemes(case.workload, 0):
        built = winograd.build(scheme.name, scheme, case.workload, case.constants, operands, row, profile)
        assert built.recipe is not None
        assert built.recipe.stored.nbytes == work.weight_bytes()
