"""``selector export-runtime`` writes the wheel, or says in one line why it does not."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_the_wheel_is_written(selector_command: Run, tmp_path: Path) -> None:
    answer = selector_command("export-runtime", tmp_path, "--json").json()
    (wheel,) = tmp_path.iterdir()
    assert answer == {"wheel": str(wheel), "bytes": wheel.stat().st_size}
    assert f"wrote {wheel}, " in selector_command("export-runtime", tmp_path).out


def test_bad_input(selector_command: Run, tmp_path: Path) -> None:
    selector_command("export-runtime", tmp_path / "none").assert_bad_input("no such folder")
    (tmp_path / "tvm.whl").write_bytes(b"nothing")
    wheel = tmp_path / "tvm.whl"
    selector_command("export-runtime", tmp_path, "--tvm", wheel).assert_bad_input("is not a wheel of apache-tvm")
    selector_command("export-runtime", tmp_path, "--tvm", tmp_path / "no.whl").assert_bad_input("no.whl")
