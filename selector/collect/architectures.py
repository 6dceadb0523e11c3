"""Published CNN architectures as lists of convolutions: the JSON files in ``datasets/architectures``.

A file is ``{"name", "source", "published_macs", "layers": [...]}``; ``published_macs`` may be null.  A layer has the
fields of ``Layer``; those with a default may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from selector import schema
from selector.schema import Count, Natural, SchemaError, Text
from selector.workload import ConvWorkload


class ArchitectureError(ValueError):
    """An architecture file cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or dense layer of an architecture, batch 1; sizes are height and width in pixels."""

    input: tuple[Count, Count, Count]  # height, width, channels
    out_channels: Count
    kernel: tuple[Count, Count]
    stride: tuple[Count, Count] = (1, 1)
    padding: tuple[Natural, Natural, Natural, Natural] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[Count, Count] = (1, 1)
    groups: Count = 1
    count: Count = 1  # how often it occurs

    def __post_init__(self) -> None:
        self.workload()  # raises UnsupportedWorkload

    def workload(self) -> ConvWorkload:
        """The layer with the default dtypes."""
        return ConvWorkload(
            1,
            *self.input,
            self.out_channels,
            kernel_height=self.kernel[0],
            kernel_width=self.kernel[1],
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


@dataclass(frozen=True, slots=True)
class Architecture:
    """A published network."""

    name: Text
    source: Text  # the paper, or the reference implementation
    published_macs: Count | None  # of the convolutions and dense layers, as published; None: no well-known figure
    layers: Annotated[tuple[Layer, ...], Meta(min_length=1)]  # distinct ones, in the order of their first occurrence

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.count * layer.workload().macs() for layer in self.layers)


def load_architectures(folder: Path) -> list[Architecture]:
    """All architectures of a folder, by name.  Raises ArchitectureError, also where there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ArchitectureError(f"{folder} has no architecture files (*.json)")
    return sorted((load_architecture(path) for path in paths), key=lambda architecture: architecture.name)


def load_architecture(path: Path) -> Architecture:
    """One architecture.  Raises ArchitectureError with the file and the reason."""
    try:
        return schema.build(Architecture, schema.decode(schema.read(path)))
    except (OSError, SchemaError) as error:
        raise ArchitectureError(f"{path}: {error}") from None
