"""A compiled network that the examples run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import selector
from selector.cross import NATIVE
from selector.runtime import Network
from tests.models import GraphBuilder, qdq_block_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """A small network with every pattern: its library, and itself."""
    return _saved(qdq_block_model(), tmp_path_factory)


@pytest.fixture(scope="session")
def two_of_each(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """A network of two inputs, of different dtypes, and two outputs."""
    b = GraphBuilder()
    a, c = b.input("a", (1, 8, 5, 4), "uint8"), b.input("c", (1, 8, 5, 4))
    weight = b.weight((8, 8, 1, 1))
    conv = b.qdq(b.node("Conv", [b.dequantize(a, 0.02, 117), weight]), 0.1, 120)
    total = b.node("Add", [conv, b.qdq(c, 0.05, 128)])
    model = b.model({b.quantize(total, 0.1, 120): "uint8", b.node("Relu", [conv]): "float32"})
    return _saved(model, tmp_path_factory)


def _saved(model, tmp_path_factory):
    if not any(shutil.which(name) for name in NATIVE):
        pytest.skip("no C++ compiler here to link a library")
    compiled = selector.compile(model, policy="int8", threads=1, lazy_weights=False)
    path = tmp_path_factory.mktemp("library") / "net.so"
    compiled.save(path)
    return path, compiled
