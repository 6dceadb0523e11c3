"""train, evaluate and models on a folder of measurements and a tracking store of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest

from selector import profiles
from selector.collect.record import Samples
from selector.collect.store import Store
from selector.policy import release
from tests.cli.conftest import Run
from tests.learn.frames import coded, failed, measurements

RECIPE = """
folds = 2
[boosting]
num_iterations = 20
learning_rate = 0.2
num_leaves = 6
min_data_in_leaf = 4
[tuning]
trials = 1
folds = 2
[tuning.space]
num_leaves = [4, 8]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, further measurements and a recipe; the tracking store is made in it."""
    folder = tmp_path_factory.mktemp("training")
    rows = [coded(row) for row in measurements(24)]
    for name, part in (("measurements", rows[:80]), ("more", rows[80:])):
        with Store.open(folder / name) as store:
            for row in part:
                store.add(row)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> dict[str, Any]:
    """What ``selector train`` printed; in a process of its own, as a user runs it: MLflow keeps state."""
    command = "from selector.cli import app; app()"
    arguments = ["train", "measurements", "--recipe", "recipe.toml", "--report", "report.md", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def store(place: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the tracking store is."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained["tracking"])
    return place


def test_training_is_recorded(trained: dict[str, Any], store: Path, selector_command: Run) -> None:
    assert trained["version"] == 1
    assert trained["rows"] == 80
    assert trained["tracking"] == f"sqlite:///{store / 'mlflow.db'}"
    assert (store / "report.md").read_text().startswith("# Evaluation of recipe `recipe`")
    assert {path.parent.name for path in store.glob("mlruns/**/*.png")} == {"plots"}
    (kept,) = store.glob("mlruns/**/held-out.parquet")
    rows = polars.read_parquet(kept)
    assert set(rows["protocol"]) == {"shape", "network", "target"}
    assert len(rows.filter(polars.col("protocol") == "shape")) == 80
    shown = selector_command("models", "show", "candidate", "--json").json()
    assert shown["aliases"] == ["candidate"]
    assert shown["parameters"]["dataset.digest"] == trained["dataset"]
    network = trained["evaluation"]["network"]
    assert shown["metrics"]["network/learned/mean"] == pytest.approx(network["policies"]["learned"]["mean"])
    assert shown["metrics"]["network/fold/net_a/worst"] == pytest.approx(
        network["by_fold"]["learned"]["net_a"]["worst"]
    )


def test_lineage_and_signature(trained: dict[str, Any], store: Path) -> None:
    from selector.features import NAMES
    from selector.learn.tracking import MODEL, connect, quiet

    with quiet():
        import mlflow

        run = connect().get_run(trained["run"])
        inputs = [item.dataset for item in run.inputs.dataset_inputs]
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}@candidate")
        import pandas

        predicted = model.predict(pandas.DataFrame([[1.0] * len(NAMES)], columns=list(NAMES)))
    assert [(item.name, item.digest) for item in inputs] == [("measurements", trained["dataset"])]
    assert str(store / "measurements") in inputs[0].source
    assert len(run.data.tags["mlflow.source.git.commit"]) >= len("unknown")
    assert list(predicted.columns) == ["log2_ratio", "low", "high"]


def test_list_and_compare(store: Path, selector_command: Run) -> None:
    listed = selector_command("models", "list", "--json").json()["models"]
    assert [item["number"] for item in listed] == [1]
    same = selector_command("models", "compare", "candidate", "1", "--json").json()["comparisons"]
    assert {item["worse"] for item in same} == {False}
    assert "3 in common" in same[0]["what"]
    assert "candidate" in selector_command("models", "list").out


def test_promote_export_reproduce_and_evaluate(trained: dict[str, Any], store: Path, selector_command: Run) -> None:
    from selector.learn.tracking import MODEL, connect, quiet

    with quiet():
        connect().log_metric(selector_command("models", "show", "--json").json()["run_id"], "target/int8/mean", 1.0)
    refused = selector_command("models", "promote")
    assert refused.code == 1
    assert "worse than the best baseline" in refused.err
    selector_command("models", "promote", "--force").assert_bad_input("--reason")
    selector_command("models", "show", "champion").assert_bad_input("no model 'champion'", "versions 1")
    forced = selector_command("models", "promote", "--force", "--reason", "a test", "--json").json()
    assert any(item["worse"] for item in forced["comparisons"])
    with quiet():
        assert connect().get_model_version_by_alias(MODEL, "champion").tags["forced"] == "a test"

    made = Path(selector_command("models", "export", "--name", "mine", "--json").json()["folder"])
    assert json.loads((store / "models/champion.json").read_text()) == {"model": "mine"}
    assert release.load(made).version == "1"
    selector_command("models", "export", "--name", "mine").assert_bad_input("exists")

    same = selector_command("models", "reproduce", "measurements", "--model", made, "--json").json()
    assert (same["model"], same["rows"], same["reproduced"], same["same_trees"]) == ("mine", 80, True, True)
    part = selector_command("models", "reproduce", "measurements", "--model", made, "--slice", "--json").json()
    assert (part["reproduced"], part["same_trees"]) == (True, True)
    assert 0 < part["rows"] < 80
    other = selector_command("models", "reproduce", "more", "--model", made, "--no-tune")
    assert "decisions: " in other.out
    assert f"not {trained['dataset']}: 16 rows" in other.out

    result = selector_command("evaluate", "measurements", "--model", made, "--json")
    scores = result.json()
    assert scores["trained_on"]
    assert scores["stale"] is None
    assert set(scores["policies"]) == {"learned", "int8", "int16", "rule", "expert", "roofline"}
    assert set(scores["by_target"]["learned"]) == {"x86-64", "x86-64-v3"}
    options = ["--model", made, "--profiles", profiles.modelled_folder()]
    modelled = selector_command("evaluate", "measurements", *options, "--json").json()
    assert set(modelled["agreement"]) == {"x86-64", "x86-64-v3"}
    assert modelled["dataset"] == scores["dataset"]
    # The title is as long as the path in it, and may be wrapped anywhere.
    assert "decided alike" in " ".join(selector_command("evaluate", "measurements", *options).out.split())
    elsewhere = selector_command("evaluate", "measurements", "--profiles", store)
    elsewhere.assert_bad_input("no profile of x86-64, x86-64-v3 in")
    by_alias = selector_command("evaluate", "more", "--model", "champion", "--policy", "rule", "--json").json()
    assert set(by_alias["policies"]) == {"learned", "rule"}
    assert not by_alias["trained_on"]


@pytest.mark.parametrize("run", [None, "f" * 32], ids=["none", "gone"])
def test_a_version_without_a_run_is_listed_and_not_promoted(
    run: str | None, store: Path, tmp_path: Path, selector_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selector.learn.tracking import MODEL, connect, quiet

    copy = tmp_path / "mlflow.db"
    shutil.copy(store / "mlflow.db", copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    with quiet():
        number = connect().create_model_version(MODEL, str(tmp_path / "by hand"), run_id=run).version
    listed = selector_command("models", "list", "--json").json()["models"][0]
    assert (listed["number"], listed["run_id"], listed["metrics"]) == (int(number), run, {})
    shown = selector_command("models", "show", number).out
    assert shown.split()[:2] == ["version", str(number)]
    assert (run or "none") in shown
    refused = selector_command("models", "promote", number)
    assert refused.code == 1
    assert f"nothing compares version {number} with" in refused.err
    selector_command("models", "promote", number, "--force", "--reason", "a test", "--json").json()
    with quiet():
        assert connect().get_model_version_by_alias(MODEL, "champion").tags["forced"] == "a test"


def test_added_folders_are_trained_on(store: Path, selector_command: Run) -> None:
    options = ["--recipe", "recipe.toml", "--add", "more", "--no-tune", "--json"]
    again = selector_command("train", "measurements", *options).json()
    assert (again["version"], again["rows"]) == (2, 96)
    assert again["recipe"]["tuning"]["trials"] == 0
    aliases = {
        item["number"]: item["aliases"] for item in selector_command("models", "list", "--json").json()["models"]
    }
    assert "candidate" in aliases[2]
    assert "candidate" not in aliases[1]


def test_rows_of_other_kernels_are_not_trained_on(place: Path, tmp_path: Path, selector_command: Run) -> None:
    """Whatever their number says, the code of the rows tells."""
    first, second = measurements(2)[0], measurements(2)[-1]
    cases = {
        "other code": ([replace(coded(first), int8=Samples("int8", "0" * 16, 1, (1.0,), ()))], "raise KERNEL_VERSION"),
        "newer": ([replace(second, host=replace(second.host, kernels=99))], "rows of kernels 99 are unknown"),
        "older": ([replace(second, host=replace(second.host, kernels=0))], "is of other kernels"),
    }
    for name, (rows, message) in cases.items():
        with Store.open(tmp_path / name) as made:
            for row in rows:
                made.add(row)
        selector_command("train", tmp_path / name, "--recipe", place / "recipe.toml").assert_bad_input(message)


def test_bad_input(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selector_command: Run) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = place / "recipe.toml"
    empty = tmp_path / "empty"
    with Store.open(empty) as made:
        made.add(failed(measurements(1)[0].workload, "x86-64"))
    few = tmp_path / "few"
    with Store.open(few) as made:
        made.add(coded(measurements(1)[0]))
    for command in ("train", "evaluate"):
        options = ["--recipe", recipe] if command == "train" else []
        selector_command(command, tmp_path / "absent", *options).assert_bad_input("absent", "selector collect")
        selector_command(command, empty, *options).assert_bad_input("counts: each failed", "empty")
    selector_command("train", few, "--recipe", recipe).assert_bad_input("2 folds need 2 shapes")
    selector_command("train", few).assert_bad_input("default.toml", "No such file")
    selector_command("train", few, "--recipe", recipe, "--no-tune", "--trials", 3).assert_bad_input("contradict")
    selector_command("train", few, "--recipe", recipe, "--report", "absent/r.md").assert_bad_input("absent")
    selector_command("evaluate", few, "--model", "absent/model").assert_bad_input("absent/model")
    selector_command("evaluate", few, "--policy", "oracle").assert_bad_input("unknown policy 'oracle'", "roofline")
    assert not (tmp_path / "mlflow.db").exists()
