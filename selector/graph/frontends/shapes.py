"""The static shapes that a network is compiled for: its file's, or those that the user gives.

A dynamic batch that nobody gives is 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from selector.graph.frontends.onnx_file import rewritten
from selector.runtime import ModelError

Shapes = Mapping[str, Sequence[int]]  # input -> its shape
_LARGEST_DIMENSION = 1 << 31
_EXAMPLE_SIDE = 224  # in the command that a message suggests


class BatchWarning(UserWarning):
    """The network has a dynamic batch, and is compiled for a batch of 1."""


def fix_shapes(
    model: onnx.ModelProto, where: str, shapes: Shapes | None = None, batch: int | None = None
) -> onnx.ModelProto:
    """The model with static inputs; itself where nothing changes.

    ``shapes`` go before ``batch``, which is the first dimension of all other inputs, and both before the file's.
    Where they fix a named dimension, it is fixed wherever the name occurs.  Raises ModelError.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    given = dict(shapes or {})
    unknown = sorted(given.keys() - {info.name for info in inputs})
    if unknown:
        listed = ", ".join(f"'{info.name}'" for info in inputs)
        raise ModelError(f"{where} has no input '{unknown[0]}': it has {listed}")
    if batch is not None and batch < 1:
        raise ModelError(f"a batch is at least 1, got {batch}")
    wanted = {info.name: _wanted(info, where, given.get(info.name), batch) for info in inputs}
    known: dict[str, int] = {}  # named dimensions
    for info in inputs:
        for dim, size in zip(info.type.tensor_type.shape.dim, wanted[info.name], strict=False):
            if dim.dim_param and size is not None:
                known.setdefault(dim.dim_param, size)
    for info in inputs:
        names = [dim.dim_param for dim in info.type.tensor_type.shape.dim] or [""] * len(wanted[info.name])
        sizes = [known.get(name) if size is None else size for name, size in zip(names, wanted[info.name], strict=True)]
        wanted[info.name] = _checked(info.name, where, names, sizes)
    if all(_static(info) == wanted[info.name] for info in inputs):
        return model
    return _with_shapes(model, wanted)


@contextmanager
def fixed_file(path: Path, shapes: Shapes | None, batch: int | None) -> Iterator[Path]:
    """A file of the network in these shapes, for other runtimes; the path itself where none are given.

    Raises ModelError.
    """
    if not shapes and batch is None:
        yield path
        return
    refusal = ModelError(f"{path} is not an ONNX model, and shapes can be given for those only")
    with rewritten(path, lambda model: fix_shapes(model, str(path), shapes, batch), refusal) as made:
        yield made


def _wanted(info: onnx.ValueInfoProto, where: str, given: Sequence[int] | None, batch: int | None) -> list[int | None]:
    """Sizes of an input, None for a dynamic one."""
    tensor = info.type.tensor_type
    if given is not None:
        rank = len(tensor.shape.dim) if tensor.HasField("shape") else len(given)
        if len(given) != rank:
            text = "x".join(map(str, given))
            raise ModelError(f"{where}: input '{info.name}' has {rank} dimensions, the given shape {text} {len(given)}")
        return [int(size) for size in given]
    if not tensor.HasField("shape"):
        raise ModelError(
            f"{where}: input '{info.name}' has no shape; Selector compiles for fixed shapes: "
            f"add e.g. --shape {info.name}=1x3x{_EXAMPLE_SIDE}x{_EXAMPLE_SIDE}"
        )
    sizes = _static(info)
    return [batch, *sizes[1:]] if batch is not None and sizes else sizes


def _static(info: onnx.ValueInfoProto) -> list[int | None]:
    dims = info.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims]


def _checked(name: str, where: str, names: Sequence[str], sizes: list[int | None]) -> list[int | None]:
    """Sizes without None; a batch is 1 where it alone is dynamic."""
    dynamic = [index for index, size in enumerate(sizes) if size is None]
    if dynamic == [0]:
        said = names[0] or "?"
        warnings.warn(
            f"{where}: the batch of input '{name}' is dynamic ('{said}'): it is compiled for 1 (--batch: for another)",
            BatchWarning,
            stacklevel=4,
        )
        sizes = [1, *sizes[1:]]
    elif dynamic:
        example = [(1 if index < 2 else _EXAMPLE_SIDE) if size is None else size for index, size in enumerate(sizes)]
        raise ModelError(
            f"{where}: dimension {dynamic[-1]} of input '{name}' is dynamic ('{names[dynamic[-1]] or '?'}'); "
            f"Selector compiles for fixed shapes: add e.g. --shape {name}={'x'.join(map(str, example))}"
        )
    for index, size in enumerate(sizes):
        if size is not None and size < 1:
            raise ModelError(f"{where}: dimension {index} of input '{name}' is {size or 'zero'}: nothing to compute")
        if size is not None and size >= _LARGEST_DIMENSION:
            raise ModelError(f"{where}: dimension {index} of input '{name}' is {size}: too large")
    return sizes


def _with_shapes(model: onnx.ModelProto, wanted: Mapping[str, Sequence[int | None]]) -> onnx.ModelProto:
    """The model with these inputs; what follows from the old ones is inferred anew."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.value_info[:]
    for info in made.graph.output:
        info.type.tensor_type.ClearField("shape")
    for info in made.graph.input:
        if info.name in wanted:
            del info.type.tensor_type.shape.dim[:]
            for size in wanted[info.name]:
                info.type.tensor_type.shape.dim.add().dim_value = size or 0
    return made
