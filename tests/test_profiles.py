"""Stored profiles: the trip through a file, what is refused, and which targets they are for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selector import data, profiles, target
from selector.lowering.dot import DOTS
from selector.profiles import INSTRUCTION_SETS, ProfileError, ProfileWarning, Rates, StoredProfile

RATES = Rates(
    "written", "data sheet", (("generic_int16", 4.0),), 50.0, 25.0, 12.0, 8.0, 16.0, (("generic_int16", 2.5),)
)

SPEEDS = {"first": 40.0, "here": 60.0, "there": 80.0}  # CPU -> GB/s


def stored(name: str = "cortex-a72", **changes: Any) -> StoredProfile:
    """A profile that fits the target of this name."""
    wanted = target.profile(name)
    first = StoredProfile(
        name=wanted.name,
        arch=wanted.arch,
        features=wanted.features,
        vector_bits=wanted.vector_bits,
        cores=77,
        l1_bytes=11 << 10,
        l2_bytes=222 << 10,
        l3_bytes=0,
        rates=RATES,
        date="2026-01-31",
    )
    return replace(first, **changes)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder of profiles, empty; those that come with Selector are out of sight."""
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(data, "folder", lambda name: tmp_path / "shipped" / name)
    return tmp_path / "own" / "targets"


def test_round_trip(own: Path) -> None:
    profile = stored(note="by hand")
    path = profiles.write(profile)
    assert path == own / "cortex-a72.json"
    assert profiles.read(path) == profile
    assert list(own.iterdir()) == [path]


def test_a_target_gets_its_rates(own: Path) -> None:
    assert target.profile("cortex-a72").rates is None
    profiles.write(stored())
    rates = target.profile("cortex-a72").rates
    assert rates == RATES
    assert (rates.dot("generic_int16"), rates.loop("generic_int16"), rates.dot("abacus")) == (4.0, 2.5, None)


def test_a_changed_file_is_read_again(own: Path) -> None:
    profiles.write(stored())
    assert target.profile("cortex-a72").cores == 77
    profiles.write(stored(cores=7, note="changed"))
    assert target.profile("cortex-a72").cores == 7


def test_the_users_come_first(own: Path) -> None:
    profiles.write(stored(cores=5), data.folder("targets"))
    assert target.profile("cortex-a72").cores == 5
    profiles.write(stored())
    assert target.profile("cortex-a72").cores == 77


def test_another_cpu_has_its_own_cores_and_caches(own: Path) -> None:
    profiles.write(stored())
    found = target.profile("cortex-a72")
    assert (found.cores, found.l1_bytes, found.l2_bytes, found.l3_bytes) == (77, 11 << 10, 222 << 10, 0)


@pytest.mark.skipif(
    target.profile("native").arch != "x86_64", reason="the levels of x86-64 are this machine's only there"
)
def test_this_machine_and_levels_keep_the_caches_of_this_machine(own: Path) -> None:
    for name in ("native", "x86-64-v3"):
        before = target.profile(name)
        profiles.write(stored(name))
        assert target.profile(name) == replace(before, rates=RATES)


@pytest.mark.parametrize("attribute", ["-dotprod", "+i8mm"])
def test_other_instructions_are_another_cpu(own: Path, attribute: str) -> None:
    profiles.write(stored("neoverse-n1"))
    given = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"}
    assert target.profile(given).rates == RATES
    assert target.profile(given | {"mattr": ["+lse2"]}).rates == RATES
    assert target.profile(given | {"mattr": [attribute]}).rates is None


def test_instruction_sets_are_those_of_the_kernels() -> None:
    assert {feature for row in DOTS for feature in row.features} <= INSTRUCTION_SETS


def test_a_cpu_name_is_no_path(own: Path) -> None:
    profiles.write(stored())
    assert profiles.find("../targets/cortex-a72", stored().features) is None


def test_a_broken_file_is_left_out_with_one_warning(own: Path) -> None:
    profiles.write(stored(), data.folder("targets"))
    own.mkdir(parents=True)
    (own / "cortex-a72.json").write_text("{")
    with pytest.warns(ProfileWarning, match=r"cortex-a72\.json is not a target profile: .*; it is left out") as caught:
        assert target.profile("cortex-a72").rates == RATES
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert target.profile("cortex-a72").rates == RATES


def change(values: dict[str, Any], name: str, value: Any) -> None:
    inner = values["rates"] if name in values["rates"] else values
    inner[name] = value


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda values: values.pop("cores"), "missing required field `cores`"),
        (lambda values: values["rates"].pop("l1_gbs"), r"missing required field `l1_gbs` - at `\$\.rates`"),
        (lambda values: values.update(color="red"), "unknown field 'color'"),
        (lambda values: change(values, "schema_version", 99), "schema_version must be 1, got 99"),
        (lambda values: change(values, "cores", 0), r"Expected `int` >= 1 - at `\$\.cores`"),
        (lambda values: change(values, "cores", True), r"Expected `int`, got `bool` - at `\$\.cores`"),
        (lambda values: change(values, "l2_bytes", "1M"), r"Expected `int`, got `str` - at `\$\.l2_bytes`"),
        (lambda values: change(values, "l3_bytes", -1), r"Expected `int` >= 0 - at `\$\.l3_bytes`"),
        (lambda values: change(values, "name", "../evil"), r"Expected `str` matching .* at `\$\.name`"),
        (lambda values: change(values, "name", 5), r"Expected `str`, got `int` - at `\$\.name`"),
        (lambda values: change(values, "name", "cortex-a53"), "describes 'cortex-a53', so name it cortex-a53.json"),
        (lambda values: change(values, "date", "yesterday"), r"Expected `str` matching .* at `\$\.date`"),
        (lambda values: change(values, "features", "neon"), r"Expected `array`, got `str` - at `\$\.features`"),
        (lambda values: change(values, "rates", 3), r"Expected `object`, got `int` - at `\$\.rates`"),
        (lambda values: change(values, "kind", "guessed"), "Invalid enum value 'guessed'"),
        (lambda values: change(values, "source", None), r"Expected `str`, got `null` - at `\$\.rates\.source`"),
        (lambda values: change(values, "dram_gbs", -8.0), r"Expected `float` > 0\.0 - at `\$\.rates\.dram_gbs`"),
        (lambda values: change(values, "l1_gbs", float("nan")), "not valid JSON"),
        (lambda values: change(values, "dots", [1.0]), r"Expected `array`, got `float` - at `\$\.rates\.dots"),
        (lambda values: change(values, "dots", {"a": "fast"}), r"Expected `float`, got `str` - at `\$\.rates\.dots"),
    ],
)
def test_what_is_wrong_is_said(own: Path, break_it: Callable[[dict[str, Any]], object], message: str) -> None:
    path = profiles.write(stored())
    values = json.loads(path.read_text())
    break_it(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ProfileError, match=message):
        profiles.read(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'"text"'])
def test_files_that_are_no_profiles(own: Path, content: bytes) -> None:
    own.mkdir(parents=True)
    path = own / "cortex-a72.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match="is not a target profile"):
        profiles.read(path)
    [(where, found)] = profiles.scan()
    assert where == path
    assert isinstance(found, ProfileError)


def test_missing_file_and_folder_that_cannot_be_written(own: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read the target profile"):
        profiles.read(own / "cortex-a72.json")
    own.parent.mkdir()
    own.write_text("a file, where the folder should be")
    with pytest.raises(ProfileError, match="cannot write the target profile"):
        profiles.write(stored())


def test_the_profiles_that_come_with_selector() -> None:
    for path in sorted(data.folder("targets").glob("*.json")):
        found = profiles.read(path)
        wanted = target.profile(found.name)
        assert found.matches(wanted.name, wanted.features), path
        assert (found.arch, found.vector_bits) == (wanted.arch, wanted.vector_bits), path


def test_a_cpu_has_its_own_measurements_of_a_target(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.cpuinfo, "model", lambda: "here")
    level = "x86-64"
    first, here, there = (replace(RATES, kind="measured", source=name, l1_gbs=speed) for name, speed in SPEEDS.items())
    shipped = data.folder("targets")
    profiles.write(stored(level, rates=first), shipped)
    profiles.write(stored(level, rates=here), shipped / "one")
    profiles.write(stored(level, rates=there), shipped / "two")
    profiles.write(stored(level, rates=replace(there, kind="modelled", l1_gbs=1.0)), shipped / "modelled")
    assert target.profile(level).rates == here
    assert target.profile(level, measured_on="there").rates == there
    assert target.profile(level, measured_on="first").rates == first
    assert target.profile(level, measured_on="another").rates == first
    profiles.write(stored(level))
    assert target.profile(level).rates == RATES, "the user's own come before all that come with Selector"


def test_a_cpu_by_name_is_not_this_machine(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.cpuinfo, "model", lambda: "here")
    profiles.write(stored(), data.folder("targets"))
    profiles.write(stored(rates=replace(RATES, kind="measured", source="here")), data.folder("targets") / "one")
    assert target.profile("cortex-a72").rates == RATES
    assert target.profile("cortex-a72", measured_on="here").rates != RATES
