"""A transposed convolution as an ordinary one, whose output channels are phases.

Output ``s·j + a`` of stride ``s`` sums ``x[j - u] · w[a + s·u]`` over ``u``: for each phase ``a`` an ordinary
convolution, with every ``s``-th tap in reverse.  Taps that a phase lacks are zero, as the zero point says it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution as the convolution of its phases."""

    stride: int
    kernel: int
    taps: int  # of each phase
    before: int  # padding of the data, as is the next
    after: int
    count: int  # outputs of each phase
    first: int  # of the interleaved outputs that is kept

    @staticmethod
    def of(size: int, out: int, kernel: int, stride: int, padding: int) -> Axis | None:
        """``padding``: outputs that are left out at the front.  None where the data would have to be cut."""
        taps = math.ceil(kernel / stride)
        skipped = min(padding // stride, taps - 1)  # outputs of each phase that are left out
        before = taps - 1 - skipped
        count = math.ceil((padding + out) / stride) - skipped
        after = count - size - before + taps - 1
        if after < 0:
            return None
        return Axis(stride, kernel, taps, before, after, count, padding - skipped * stride)

    def tap(self, phase: int, place: int) -> int | None:
        """The tap of the original kernel at a place of a phase's kernel; None: there is none."""
        found = phase + self.stride * (self.taps - 1 - place)
        return found if found < self.kernel else None


def phase_weights(weight: np.ndarray, zero: np.ndarray, groups: int, rows: Axis, columns: Axis) -> np.ndarray:
    """Weights (C, O/groups, KH, KW) as those of a convolution (O · phases, C/groups, taps, taps)."""
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    phases = (rows.stride, columns.stride)
    made = np.empty((groups, outputs, *phases, inputs, rows.taps, columns.taps), weight.dtype)
    made[...] = np.broadcast_to(zero.reshape(-1), (outputs,)).reshape(1, -1, 1, 1, 1, 1, 1)
    parts = weight.reshape(groups, inputs, outputs, *weight.shape[2:]).transpose(0, 2, 1, 3, 4)
    for a, b, v, w in np.ndindex(*phases, rows.taps, columns.taps):
        row, column = rows.tap(a, v), columns.tap(b, w)
        if row is not None and column is not None:
            made[:, :, a, b, :, v, w] = parts[:, :, :, row, column]
    return made.reshape(groups * outputs * math.prod(phases), inputs, rows.taps, columns.taps)


def for_phases(part: np.ndarray, groups: int, phases: int) -> np.ndarray:
    """Scales or zero points of output channels, for those of a convolution of phases."""
    return part if part.size == 1 else np.repeat(np.tile(part.reshape(-1), groups), phases)
