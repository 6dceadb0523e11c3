"""``selector collect``: a small collection for real, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selector.collect.active import active
from selector.collect.host import describe_host
from selector.collect.runner import About, failed
from selector.collect.sources import from_samples
from selector.collect.store import Store, measurements, read
from selector.collect.tasks import ReleasedModel
from selector.policy import release
from selector.target import profile
from selector.threads import host_cores
from tests.cli.conftest import Run
from tests.policy import released


def test_collects_and_goes_on(selector_command: Run, network: Path, tmp_path: Path) -> None:
    arguments = ["collect", "--from", network, "--threads", 1, "--target", "native", "--max-seconds", 0.05]
    arguments += ["--workers", 1, "--into", tmp_path / "rows"]
    outcome = selector_command(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [event["event"] for event in events if event["event"] != "retry"] == ["started", "row", "finished"]
    row = next(event for event in events if event["event"] == "row")
    assert (row["shape"], row["threads"], row["error"]) == ("1x7x6x8 -> 12, 3x3 s1", 1, "")
    assert min(row["int8_us"], row["int16_us"], row["seconds"]) > 0
    assert events[-1]["rows_per_minute"] > 0
    stored = read(tmp_path / "rows")
    assert stored["key"].to_list() == [row["key"]]
    assert stored["networks"].to_list() == [["net"]]

    again = selector_command(*arguments)
    assert again.code == 0, again.err
    assert f"already in {tmp_path / 'rows'}: 1 of 1 row\n" in again.err
    assert "0 rows in" in again.out


def test_errors_are_measured_again_on_demand(selector_command: Run, tmp_path: Path) -> None:
    arguments = ["collect", "--samples", 1, "--threads", 1, "--target", "native", "--max-seconds", 0.05]
    arguments += ["--workers", 1, "--into", tmp_path]
    (candidate,) = from_samples(1, 0, [1])
    name = profile("native").name
    with Store.open(tmp_path) as store:
        store.add(failed(candidate.workload, name, describe_host(), "the device went", About()))
    outcome = selector_command(*arguments)
    assert outcome.code == 0, outcome.err
    assert "0 rows in" in outcome.out
    outcome = selector_command(*arguments, "--retry-errors")
    assert outcome.code == 0, outcome.err
    assert "1 row in" in outcome.out


def test_a_model_says_what_to_collect(selector_command: Run, tmp_path: Path) -> None:
    model = ReleasedModel(release.load(released.write(tmp_path / "model")))
    arguments = ["collect", "--active", tmp_path / "model", "--count", 2, "--threads", 1, "--target", "native"]
    arguments += ["--max-seconds", 0.05, "--workers", 1, "--into", tmp_path / "rows"]
    outcome = selector_command(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    wanted = active(model, from_samples(20, 0, [1]), 2, profile())
    assert {row.workload for row in measurements(tmp_path / "rows")} == {item.workload for item in wanted}
    first, *_ = map(json.loads, outcome.out.splitlines())
    assert first["total"] == 2


def test_refuses(selector_command: Run, tmp_path: Path) -> None:
    into = ["--into", tmp_path / "rows"]
    selector_command("collect").assert_bad_input("nothing to collect: give --plan")
    selector_command("collect", "--from", tmp_path / "none.onnx", *into).assert_bad_input("cannot read the network")
    selector_command("collect", "--samples", 1, "--target", "pdp-11", *into).assert_bad_input("unknown target 'pdp-11'")
    selector_command("collect", "--samples", 1, "--threads", 4096, *into).assert_bad_input(
        f"this machine has {host_cores()} CPUs"
    )
    selector_command("collect", "--active", tmp_path / "none", *into).assert_bad_input("there is no model in")
    selector_command("collect", "--architectures", tmp_path, *into).assert_bad_input("no architecture files")
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("target", ["cortex-a72", "bdver4"])
def test_refuses_targets_of_other_machines(selector_command: Run, target: str, tmp_path: Path) -> None:
    outcome = selector_command("collect", "--samples", 1, "--target", target, "--into", tmp_path / "rows")
    outcome.assert_bad_input(f"kernels for '{target}' are timed by running them, but this machine ")


def test_sub_commands_keep_their_names(selector_command: Run, tmp_path: Path) -> None:
    selector_command("collect", "status", tmp_path / "none").assert_bad_input("no dataset folder")
    assert "--samples" in selector_command("collect", "run", "--help").out
