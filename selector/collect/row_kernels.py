"""Kernels that exercise one dot instruction: what ``calibrate`` times and ``describe`` models."""

from __future__ import annotations

import numpy as np
import tvm

from selector.lowering import Kernel, conv, dot
from selector.lowering.dot import Dot
from selector.lowering.operands import make_operands
from selector.lowering.peak import peak_function
from selector.lowering.pipeline import NAME
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload

OUT_CHANNELS = 48  # whole blocks of every width that the kernels use, short of twelve vectors of AVX-512
PIXELS = 14 * 14


def usable_rows(target: TargetProfile) -> list[Dot]:
    """Every dot row that a kernel for the target may use."""
    return [*dot.candidates(target, "int8"), *dot.candidates(target, "int16")]


def pointwise(row: Dot, in_channels: int, target: TargetProfile) -> tuple[Kernel, ConvWorkload]:
    """A 1×1 convolution over 14×14 pixels whose inner loop uses ``row``; its weights are zeros."""
    work = ConvWorkload(
        batch=1,
        in_height=14,
        in_width=14,
        in_channels=in_channels,
        out_channels=OUT_CHANNELS,
        kernel_height=1,
        kernel_width=1,
        data_dtype="int8" if row.data_dtype == "int8" else "uint8",
    )
    constants = ConvConstants(
        weight=np.zeros((OUT_CHANNELS, 1, 1, in_channels), np.int8),
        weight_zero_point=np.zeros(OUT_CHANNELS, np.int32),
    )
    operands = make_operands(
        work,
        constants,
        data_dtype=row.data_dtype,
        data_offset=0,
        weight_dtype=row.weight_dtype,
        weight_offset=np.zeros(OUT_CHANNELS, np.int64),
    )
    return conv.build(f"pointwise{in_channels}_{row.name}", work, constants, operands, row, target), work


def compile_peak(row: Dot, iterations: int, target: TargetProfile) -> tuple[tvm.runtime.Executable, str]:
    """The register-only loop of a row, and the name of its function."""
    func = peak_function(row, iterations)
    name = str(func.attrs["global_symbol"])
    return tvm.compile(tvm.IRModule({name: func}), target=target.tvm_target(), tir_pipeline=NAME), name
