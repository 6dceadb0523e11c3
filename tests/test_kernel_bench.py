"""What the kernel benchmark reports; no test here asserts a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selector import kernel_bench, lowering
from selector.kernel_bench import LoweringsDiffer, by_kind, compare_kernels, geometric_mean, peak_gmacs
from selector.kernel_cases import KernelCase, from_file
from selector.kernel_peers import ONNXRUNTIME
from selector.lowering import dot
from selector.report.kernels import summary_rows
from tests.test_kernel_cases import SHAPE


@pytest.fixture
def case(tmp_path: Path) -> KernelCase:
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps([SHAPE]))
    return from_file(path, threads=1)[0]


def test_result_of_one_convolution(case: KernelCase) -> None:
    result = compare_kernels(case, peer=ONNXRUNTIME, rounds=2)
    assert [item.lowering for item in result.lowerings] == ["int8", "int16"]
    assert result.rounds == 2
    for item in result.lowerings:
        assert item.row in {row.name for row in dot.DOTS}
        assert item.microseconds > 0
        assert item.peak_fraction > 0
        assert item.gmacs == pytest.approx(case.workload.macs() / item.microseconds / 1e3)
    assert (result.peer, result.peer_differs) in {("onnxruntime", 0), ("onnxruntime", 1)}
    as_json = json.loads(json.dumps(result.to_dict()))
    assert as_json["kind"] == "dense"
    assert set(as_json["lowerings"]) == {"int8", "int16"}


def test_summary_has_geometric_means(case: KernelCase) -> None:
    result = compare_kernels(case, rounds=1)
    pair = [replace(result, ratio=0.5, better="int8"), replace(result, ratio=2.0, better="int16")]
    assert set(by_kind(pair)) == {"dense", "3x3 stride 1", "all"}
    rows = {row["kind"]: row for row in summary_rows(pair)}
    assert rows["all"]["ratio"] == pytest.approx(1.0)
    assert (rows["all"]["worst_ratio"], rows["all"]["int16_better"], rows["all"]["convolutions"]) == (2.0, 1, 2)
    assert summary_rows([result])[0]["ratio"] is None
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_different_outputs_are_an_error(case: KernelCase, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = lowering.build

    def broken(workload, constants, target, name):  # type: ignore[no-untyped-def]
        if name == "int16":
            constants = replace(constants, bias=constants.bias + np.int32(100_000))
        return exact(workload, constants, target, name)

    monkeypatch.setattr(kernel_bench, "build", broken)
    with pytest.raises(LoweringsDiffer, match=r"shapes:1 \(1x6x5x8 -> 12, 3x3 s1\)"):
        compare_kernels(case, rounds=1)


def test_peak_rate_is_macs_over_time() -> None:
    row = dot.DOTS[-1]
    assert peak_gmacs(row, 2.0) == pytest.approx(peak_gmacs(row, 1.0) / 2)
