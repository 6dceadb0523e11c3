"""Weights of saved libraries, apart from whole networks (see tests/graph/test_stored.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import selector
from selector import mapped_weights, runtime
from selector.mapped_weights import ALIGNMENT, StoredWeight
from tests.models import qdq_conv_model


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one layer with 36 kB of weights."""
    path = tmp_path_factory.mktemp("library") / "net.so"
    selector.compile(qdq_conv_model(in_channels=64, out_channels=64), policy="int8", threads=1).save(path)
    return path


def test_a_library_without_its_weights(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_weights, "SYMBOL", "selector_nothing")
    with pytest.raises(runtime.ModelError, match="selector_nothing"):
        runtime.load(library)


def test_weights_stay_where_the_library_has_them(library: Path) -> None:
    (tensor,) = runtime.open_library(library).weights
    address = np.from_dlpack(tensor).ctypes.data
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(library))]
    ranges = [[int(end, 16) for end in words[0].split("-")] for words in maps if "w" not in words[1]]
    assert any(first <= address < stop for first, stop in ranges)


def test_bytes() -> None:
    plain = StoredWeight(0, (3, 5), "float32")
    made = StoredWeight(64, (72,), "int16", "make", 9, "int8")
    assert (plain.nbytes, plain.stored_bytes) == (60, 60)
    assert (made.nbytes, made.stored_bytes) == (144, 9)


def test_fresh_memory_is_aligned() -> None:
    arrays = mapped_weights._aligned([1, 100, 64])
    assert [array.nbytes for array in arrays] == [1, 100, 64]
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in arrays)
    arrays[0][:], arrays[1][:], arrays[2][:] = 1, 2, 3
    assert [int(array.sum()) for array in arrays] == [1, 200, 192]
    assert mapped_weights._aligned([]) == []
