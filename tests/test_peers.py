"""Other runtimes as peers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selector import peers


@pytest.mark.filterwarnings("ignore")  # LiteRT's own
def test_litert_computes_the_network(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from tests.graph.tflite_models import average_pool

    path = tmp_path / "net.tflite"
    path.write_bytes(average_pool())
    data = np.random.default_rng(0).integers(-128, 128, (1, 6, 6, 4)).astype("int8")
    (found,) = peers.litert(path, threads=1)([data])
    means = data.reshape(1, 3, 2, 3, 2, 4).astype("float64").mean((2, 4))
    assert np.abs(found - means).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "file", "other"), [("onnxruntime", "a.tflite", "litert"), ("litert", "a.onnx", "onnxruntime")]
)
def test_file_that_a_runtime_does_not_read(name: str, file: str, other: str) -> None:
    with pytest.raises(peers.PeerUnavailable, match=f"{name} does not read {file}: the peer that does is {other}"):
        getattr(peers, name)(Path(file), threads=1)
