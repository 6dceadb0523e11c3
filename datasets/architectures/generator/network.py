"""A network as a sequence of convolutions: keeps the shape of the current tensor and notes every layer."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """The same number for height and width, or the two that were given."""
    return value if isinstance(value, tuple) else (value, value)


def divisible(channels: float, divisor: int = 8) -> int:
    """Rounding of scaled channel counts in the MobileNet family: to a multiple, never down by more than 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass
class Network:
    """``height``, ``width`` and ``channels`` are those of the current tensor; every method returns the network."""

    name: str
    source: str
    published_macs: float | None
    height: int
    width: int
    channels: int = 3
    tensorflow: bool = False  # "same" padding as TensorFlow has it: one more at the end where it is odd
    layers: list[dict[str, Any]] = field(default_factory=list)

    def conv(
        self,
        out: int,
        kernel: Pair = 1,
        stride: Pair = 1,
        *,
        padding: Pair | None = None,
        dilation: Pair = 1,
        groups: int = 1,
    ) -> Network:
        """A convolution; ``padding`` None: "same"."""
        (kh, kw), (sh, sw), (dh, dw) = pair(kernel), pair(stride), pair(dilation)
        extents = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
        if padding is not None:
            ph, pw = pair(padding)
            pads = (ph, pw, ph, pw)
        else:
            (top, bottom), (left, right) = (
                self._same(size, extent, step)
                for size, extent, step in zip((self.height, self.width), extents, (sh, sw), strict=True)
            )
            pads = (top, left, bottom, right)
        layer: dict[str, Any] = {
            "input": [self.height, self.width, self.channels],
            "out_channels": out,
            "kernel": [kh, kw],
        }
        if (sh, sw) != (1, 1):
            layer["stride"] = [sh, sw]
        if any(pads):
            layer["padding"] = list(pads)
        if (dh, dw) != (1, 1):
            layer["dilation"] = [dh, dw]
        if groups != 1:
            layer["groups"] = groups
        self.layers.append(layer)
        self.height = (self.height + pads[0] + pads[2] - extents[0]) // sh + 1
        self.width = (self.width + pads[1] + pads[3] - extents[1]) // sw + 1
        self.channels = out
        return self

    def _same(self, size: int, extent: int, step: int) -> tuple[int, int]:
        if self.tensorflow:
            total = max((math.ceil(size / step) - 1) * step + extent - size, 0)
            return total // 2, total - total // 2
        return (extent - 1) // 2, (extent - 1) // 2

    def depthwise(
        self, kernel: Pair = 3, stride: Pair = 1, *, dilation: Pair = 1, padding: Pair | None = None
    ) -> Network:
        """One filter a channel."""
        return self.conv(self.channels, kernel, stride, dilation=dilation, padding=padding, groups=self.channels)

    def separable(self, out: int, kernel: Pair = 3, stride: Pair = 1, *, dilation: Pair = 1) -> Network:
        """Depthwise, then 1×1."""
        return self.depthwise(kernel, stride, dilation=dilation).conv(out)

    def pool(self, kernel: Pair = 3, stride: Pair = 2, *, padding: Pair = 0, ceil: bool = False) -> Network:
        """Pooling: changes the image alone."""
        rounded = math.ceil if ceil else math.floor
        (kh, kw), (sh, sw), (ph, pw) = pair(kernel), pair(stride), pair(padding)
        self.height = rounded((self.height + 2 * ph - kh) / sh) + 1
        self.width = rounded((self.width + 2 * pw - kw) / sw) + 1
        return self

    def resize(self, factor: float) -> Network:
        """Up- or downsampling, pixel shuffle aside."""
        self.height, self.width = round(self.height * factor), round(self.width * factor)
        return self

    def squeeze_excite(self, squeezed: int) -> Network:
        """Two 1×1 convolutions on the mean of the image, beside the tensor."""
        self.branch().vector().conv(squeezed).conv(self.channels)
        return self

    def vector(self) -> Network:
        """Global pooling."""
        self.height = self.width = 1
        return self

    def flatten(self) -> Network:
        """All values of the tensor as channels of one pixel."""
        self.channels *= self.height * self.width
        return self.vector()

    def classifier(self, classes: int = 1000) -> Network:
        """Global pooling and a dense layer."""
        return self.vector().conv(classes)

    def branch(self) -> Network:
        """Another path from the current tensor, whose layers are noted in the same network."""
        other = copy.copy(self)
        other.layers = self.layers
        return other

    def concat(self, *branches: Network) -> Network:
        """Continue with the concatenation of branches (without this network's own tensor)."""
        self.height, self.width = branches[0].height, branches[0].width
        self.channels = sum(branch.channels for branch in branches)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The file's content: equal layers as one, with their number."""
        distinct: list[dict[str, Any]] = []
        counts: list[int] = []
        for layer in self.layers:
            if layer in distinct:
                counts[distinct.index(layer)] += 1
            else:
                distinct.append(layer)
                counts.append(1)
        layers = [
            layer | ({"count": count} if count > 1 else {}) for layer, count in zip(distinct, counts, strict=True)
        ]
        macs = None if self.published_macs is None else round(self.published_macs)
        return {"name": self.name, "source": self.source, "published_macs": macs, "layers": layers}
