"""``selector targets``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selector import profiles
from selector.collect import calibrate as calibration
from selector.target import profile
from tests.cli.conftest import Run
from tests.test_profiles import stored


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder of profiles."""
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path))
    return tmp_path / "targets"


def test_list_says_where_and_what_is_broken(selector_command: Run, own: Path) -> None:
    path = profiles.write(stored())
    (own / "broken.json").write_text("{}")
    rows = selector_command("targets", "list", "--json").json()["profiles"]
    mine = {row["path"]: row for row in rows if str(own) in row["path"]}
    assert mine[str(path)]["kind"] == "written"
    assert mine[str(path)]["error"] is None
    assert "schema_version must be 1" in mine[str(own / "broken.json")]["error"]
    outcome = selector_command("targets", "list")
    assert outcome.code == 0
    assert "cortex-a72" in outcome.out
    assert "broken" in outcome.out


def test_show(selector_command: Run) -> None:
    assert selector_command("targets", "show", "cortex-a72", "--json").json()["name"] == "cortex-a72"
    profiles.write(stored())
    answer = selector_command("targets", "show", "cortex-a72", "--json").json()
    assert (answer["cores"], answer["rates"]["kind"], answer["rates"]["dots"]) == (
        77,
        "written",
        {"generic_int16": 4.0},
    )
    outcome = selector_command("targets", "show", "cortex-a72")
    assert "generic_int16" in outcome.out
    assert "222 KiB" in outcome.out


def test_show_without_rates(selector_command: Run) -> None:
    outcome = selector_command("targets", "show", "cortex-a35")
    assert outcome.code == 0, outcome.err
    assert "rates: not known" in outcome.out
    assert selector_command("targets", "show", "cortex-a35", "--json").json()["rates"] is None


def test_diff(selector_command: Run, tmp_path: Path) -> None:
    faster = profiles.write(replace(stored(), rates=replace(stored().rates, dots=(("generic_int16", 6.0),))), tmp_path)
    profiles.write(stored())
    rows = selector_command("targets", "diff", faster, "cortex-a72", "--json").json()["rates"]
    assert rows[0] == {"what": "registers only", "of": "generic_int16", "first": 6.0, "second": 4.0, "ratio": 1.5}
    assert {row["ratio"] for row in rows[1:]} == {1.0}
    outcome = selector_command("targets", "diff", faster, "cortex-a72")
    assert "1.50" in outcome.out
    assert "reading" in outcome.out


def test_calibrate(selector_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = profile().name
    monkeypatch.setattr(calibration, "calibrate", lambda target, **_: stored("native"))
    answer = selector_command("targets", "calibrate", "--into", tmp_path / "new", "--json").json()
    path = Path(answer["profiles"][0]["path"])
    assert path == tmp_path / "new" / f"{name}.json"
    assert profiles.read(path) == stored("native")
    outcome = selector_command("targets", "calibrate", "--target", "native")
    assert outcome.code == 0, outcome.err
    assert f"{name}: written to" in outcome.out
    assert (tmp_path / "targets" / f"{name}.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "pentium-9000"), "unknown target 'pentium-9000'"),
        (("show", "{"), "not valid JSON"),
        (("calibrate", "--target", "native", "--target", "pentium-9000"), "unknown target"),
        (("diff", "nowhere.json", "native"), "cannot read the target profile nowhere.json"),
        (("diff", "cortex-a72", "cortex-a35"), "no rates of cortex-a35 are known"),
        (("describe", "pentium-9000"), "unknown target"),
        (("describe", "haswell", "--llvm-mca", "nowhere"), "install the package llvm"),
        (("describe", "haswell", "--specification", "nowhere.json"), "cannot read the specifications"),
        (("describe", "pentium4"), "has no specification of 'pentium4'"),
    ],
)
def test_bad_input(selector_command: Run, own: Path, arguments: tuple[str, ...], message: str) -> None:
    selector_command("targets", *arguments).assert_bad_input(message)
    assert not own.exists(), "nothing is written"


def test_targets_of_other_machines_are_refused_before_anything_is_measured(selector_command: Run, own: Path) -> None:
    other = "cortex-a72" if profile().arch == "x86_64" else "x86-64"
    outcome = selector_command("targets", "calibrate", "--target", "native", "--target", other)
    outcome.assert_bad_input(f"calibrate on a {other}")
    assert not own.exists()


def test_a_folder_that_cannot_be_written(
    selector_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda target, **_: stored("native"))
    (tmp_path / "file").write_text(json.dumps({}))
    outcome = selector_command("targets", "calibrate", "--into", tmp_path / "file")
    outcome.assert_bad_input("cannot write the target profile")
