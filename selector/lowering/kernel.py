"""What a lowering produces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from selector.lowering.dot import Dot
from selector.lowering.requantize import Epilogue
from selector.lowering.tir import function
from selector.workload import ConvWorkload


@dataclass(frozen=True)
class Recipe:
    """How packed weights are made of smaller ones when a network is loaded, to the bit."""

    stored: np.ndarray  # flat, int8 or int16
    func: tirx.PrimFunc  # (stored, packed), both flat; may be T.parallel


@dataclass(frozen=True)
class Kernel:
    """A compiled-to-TIR convolution and the constants it is called with."""

    name: str  # global symbol: qconv2d_<kind>_<lowering>__<template>_<row>
    func: tirx.PrimFunc  # (data (N,H,W,C), *constants, out (N,OH,OW,O)), block-free; tile loops may be T.parallel
    constants: tuple[np.ndarray, ...]  # packed weights, biases, scales, in the order of the arguments
    template: str  # name of the tiling template
    row: str  # name of the dot instruction
    recipe: Recipe | None = None  # of the first constant; None: it is stored as it is


def assemble(
    name: str,
    template: str,
    row: Dot,
    workload: ConvWorkload,
    packed: dict[str, np.ndarray],
    epilogue: Epilogue,
    emit: Callable[..., None],
    recipe: Recipe | None = None,
) -> Kernel:
    """The kernel whose body ``emit`` writes, given the buffers: data, those of ``packed``, the epilogue's, output."""
    work = workload
    arguments = [
        ("data", work.data_elements(), work.data_dtype),
        *((argument, array.size, str(array.dtype)) for argument, array in packed.items()),
        *epilogue.arguments,
        ("out", work.batch * work.out_height * work.out_width * work.out_channels, work.out_dtype),
    ]
    constants = (*packed.values(), *epilogue.constants)
    return Kernel(name, function(name, arguments, emit), constants, template, row.name, recipe)
