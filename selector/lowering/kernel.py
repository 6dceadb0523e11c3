"""What a lowering produces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx


@dataclass(frozen=True)
class Kernel:
    """A compiled-to-TIR convolution and the constants it is called with."""

    name: str  # global symbol: qconv2d_<kind>_<lowering>__<template>_<row>
    func: tirx.PrimFunc  # (data (N,H,W,C), *constants, out (N,OH,OW,O)), block-free; tile loops may be T.parallel
    constants: tuple[np.ndarray, ...]  # packed weights, biases, scales, in the order of the arguments
    template: str  # name of the tiling template
    row: str  # name of the dot instruction
