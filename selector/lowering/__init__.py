"""Exact integer lowerings of a quantized convolution to TIR.  Knows nothing of graphs or policies."""

from selector.lowering.build import LOWERINGS, build
from selector.lowering.kernel import Kernel

__all__ = ["LOWERINGS", "Kernel", "build"]
