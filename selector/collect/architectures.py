"""Published CNN architectures as lists of convolutions: the JSON files in ``datasets/architectures``.

A file is ``{"name", "source", "published_macs", "layers": [...]}``; ``published_macs`` may be null.  A layer has the
fields of ``Layer``; those with a default may be left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from selector.workload import ConvWorkload


class ArchitectureError(ValueError):
    """An architecture file cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or dense layer of an architecture, batch 1; sizes are height and width in pixels."""

    input: tuple[int, int, int]  # height, width, channels
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    count: int = 1  # how often it occurs

    def workload(self) -> ConvWorkload:
        """The layer with the default dtypes.  Raises UnsupportedWorkload."""
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

    name: str
    source: str  # the paper, or the reference implementation
    published_macs: int | None  # of the convolutions and dense layers, as published; None: no well-known figure
    layers: tuple[Layer, ...]  # distinct ones, in the order of their first occurrence

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
        values = json.loads(path.read_text())
        _check_keys(values, Architecture)
        macs = values["published_macs"]
        if macs is not None and not _is_count(macs):
            raise ValueError(f"published_macs must be a positive integer or null, got {macs!r}")
        if not isinstance(values["layers"], list) or not values["layers"]:
            raise ValueError("layers must be a list of at least one layer")
        layers = tuple(_layer(number, layer) for number, layer in enumerate(values["layers"], start=1))
        for name in ("name", "source"):
            if not isinstance(values[name], str) or not values[name]:
                raise ValueError(f"{name} must be a text, got {values[name]!r}")
    except (OSError, ValueError) as error:
        raise ArchitectureError(f"{path}: {error}") from None
    return Architecture(values["name"], values["source"], macs, layers)


def _layer(number: int, values: Any) -> Layer:
    try:
        _check_keys(values, Layer)
        given: dict[str, Any] = {key: _numbers(key, value) for key, value in values.items()}
        layer = Layer(**given)
        layer.workload()
    except ValueError as error:
        raise ValueError(f"layer {number}: {error}") from None
    return layer


_LENGTHS = {"input": 3, "kernel": 2, "stride": 2, "padding": 4, "dilation": 2}


def _numbers(key: str, value: Any) -> int | tuple[int, ...]:
    least = 0 if key == "padding" else 1
    length = _LENGTHS.get(key)
    numbers = [value] if length is None else value
    if not isinstance(numbers, list) or len(numbers) != (length or 1) or not all(_is_count(n, least) for n in numbers):
        wanted = f"{length} integers" if length else "an integer"
        raise ValueError(f"{key} must be {wanted} of at least {least}, got {value!r}")
    return value if length is None else tuple(numbers)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_keys(values: Any, record: type) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"expected an object with the fields of {record.__name__}, got {type(values).__name__}")
    known = {field.name: field for field in fields(record)}
    required = {name for name, field in known.items() if field.default is field.default_factory}
    for problem, names in (("unknown", values.keys() - known), ("missing", required - values.keys())):
        if names:
            raise ValueError(f"{problem} field '{min(names)}'")
