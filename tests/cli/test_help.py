"""What `--help` promises: defaults, units, names that exist, examples that parse."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from selector.cli import app, common
from selector.policy.registry import DEFAULT, POLICIES
from tests.cli.conftest import Run


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups included."""
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


EVERY = dict(commands(get_command(app)))
EXAMPLES = sorted({line for command in EVERY.values() for line in (command.epilog or "").split("\n\n")[1:]})


def options() -> Iterator[Any]:
    for path, command in EVERY.items():
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag and not option.required:
                yield pytest.param(option, id=" ".join((*path, option.opts[0])))


@pytest.mark.parametrize("option", list(options()))
def test_defaults_and_units(option: Any) -> None:
    assert option.help
    assert option.default is not None or isinstance(option.show_default, str)
    if "seconds" in option.name:
        assert "Seconds" in option.help


def test_every_policy_is_named(selector_command: Run) -> None:
    assert sorted(common.POLICIES.replace(" or ", ", ").split(", ")) == sorted(POLICIES)
    assert common.DEFAULT_POLICY == DEFAULT
    for command in (("compile",), ("explain",), ("bench", "network")):
        (policy,) = (option for option in EVERY[command].params if "--policy" in option.opts)
        assert common.POLICIES in policy.help
        assert policy.show_default == DEFAULT


@pytest.mark.parametrize("path", [("compile",), ("run",), ("explain",), ("bench",)], ids="-".join)
def test_examples_are_shown(selector_command: Run, path: tuple[str, ...]) -> None:
    shown = selector_command(*path, "--help").out
    for line in EVERY[path].epilog.split("\n\n"):
        assert line in shown


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_parse(example: str) -> None:
    assert len(example) <= 78
    program, name, *rest = shlex.split(example, comments=True)
    path = (name, rest.pop(0) if rest[0] in ("network", "kernels") else "network") if name == "bench" else (name,)
    assert program == "selector"
    EVERY[path].make_context(" ".join(path), rest)
