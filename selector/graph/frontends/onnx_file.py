"""ONNX files that are changed for a while."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from selector.runtime import ModelError


@contextmanager
def rewritten(path: Path, rewrite: Callable[[onnx.ModelProto], onnx.ModelProto], refusal: ModelError) -> Iterator[Path]:
    """A file of the same name with what ``rewrite`` makes of the network, which is gone afterwards.

    Raises ``refusal`` if the file is no ONNX network, and OSError if it cannot be read.
    """
    try:
        model = onnx.load(path)
    except DecodeError:
        raise refusal from None
    made = rewrite(model)
    with tempfile.TemporaryDirectory(prefix="selector-") as folder:
        file = Path(folder) / path.name
        onnx.save(made, file)
        yield file
