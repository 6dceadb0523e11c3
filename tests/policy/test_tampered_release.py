"""Released models from strangers: whatever is in the folder, there is a model or a ReleaseError, and then the rule.

``SELECTOR_TEST_TAMPERED`` sets how many folders are made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selector.policy import learned, release
from selector.policy.learned import Learned, ModelWarning
from selector.policy.release import ReleaseError
from selector.target import profile
from tests.policy import released

COUNT = int(os.environ.get("SELECTOR_TEST_TAMPERED", "40"))
FILES = ("manifest.json", "trees.txt", "README.md")
NUMBERS = "nan inf -inf 1e308 -1e308 -1 0 7 99999999999999999999 1e9 1.5 five".split()
WORKLOADS = released.training_workloads()[::20]


def odd_value(rng: random.Random) -> Any:
    """What nobody expects in a manifest."""
    deep: Any = []
    for _ in range(rng.choice([5, 900, 5000])):
        deep = [deep]
    values = [None, True, -1, 0.5, 10**30, 1e308, -1e308, float("nan"), float("inf"), "", "x\n" * 9, "../..", [], {}]
    return rng.choice([*values, deep, "x" * 10**6, [0.0] * 10**5, {"known": None}, [[1, 0], [0, 1]]])


def change_manifest(folder: Path, rng: random.Random) -> None:
    """Another value somewhere, or none, and a checksum that fits."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    inner: Any = values
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if inner[key] and isinstance(inner[key], dict | list) and rng.random() < 0.8:
            inner = inner[key]
        elif rng.random() < 0.3:
            del inner[key]
            break
        else:
            inner[key] = odd_value(rng)
            break
    with contextlib.suppress(RecursionError, ReleaseError):
        values["digest"] = release._digest(values)
        path.write_text(json.dumps(values))


def sign_trees(folder: Path, content: bytes) -> None:
    """Other trees, with checksums that fit."""
    (folder / "trees.txt").write_bytes(content)
    values = json.loads((folder / "manifest.json").read_text())
    values["files"]["trees.txt"] = hashlib.sha256(content).hexdigest()
    values["digest"] = release._digest(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def change_number(folder: Path, rng: random.Random) -> None:
    """Another number in a line of the trees."""
    lines = (folder / "trees.txt").read_text().split("\n")
    place = rng.choice([index for index, line in enumerate(lines) if "=" in line])
    name, _, numbers = lines[place].partition("=")
    parts = numbers.split(" ")
    parts[rng.randrange(len(parts))] = rng.choice(NUMBERS)
    lines[place] = f"{name}={' '.join(parts if rng.random() < 0.8 else parts * 2)}"
    sign_trees(folder, "\n".join(lines).encode())


def change_lines(folder: Path, rng: random.Random) -> None:
    """Lines of the trees that are missing, doubled, in another order, or all of it cut off."""
    lines = (folder / "trees.txt").read_bytes().split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        del lines[first:]
    sign_trees(folder, b"\n".join(lines))


def swap_features(folder: Path, rng: random.Random) -> None:
    """Names of features in another order."""
    text = (folder / "trees.txt").read_text()
    names = text.partition("feature_names=")[2].partition("\n")[0]
    sign_trees(folder, text.replace(names, " ".join(rng.sample(names.split(" "), len(names.split(" "))))).encode())


def chain(folder: Path, rng: random.Random) -> None:
    """One tree that is a long list, or one whose nodes are a circle, with leaves of any size."""
    text = (folder / "trees.txt").read_text()
    inner = rng.choice([5, 290, 5000, 100_000])
    left = [*range(1, inner), -1] if rng.random() < 0.7 else [*range(1, inner), 0]
    fields = {
        "num_leaves": inner + 1,
        "num_cat": 0,
        "split_feature": " ".join(["0"] * inner),
        "threshold": " ".join(["0.5"] * inner),
        "decision_type": " ".join(["2"] * inner),
        "left_child": " ".join(map(str, left)),
        "right_child": " ".join(str(-2 - index) for index in range(inner)),
        "leaf_value": " ".join([rng.choice(["0.25", "1e308", "nan", "1e-320"])] * (inner + 1)),
        "internal_value": " ".join(["0"] * inner),
    }
    header = text.partition("tree_sizes=")[0] + "tree_sizes=1\n\n"
    body = "\n".join(f"{name}={value}" for name, value in fields.items())
    sign_trees(folder, f"{header}Tree=0\n{body}\n\nend of trees\n".encode())


def claim_much(folder: Path, rng: random.Random) -> None:
    """Trees that say that they are larger than they are."""
    text = (folder / "trees.txt").read_text()
    old = f"num_leaves={text.partition('num_leaves=')[2].partition(chr(10))[0]}"
    sign_trees(
        folder, text.replace(old, f"num_leaves={rng.choice([10**9, 2**62, 10**30])}", rng.choice([1, -1])).encode()
    )


def write_bytes(folder: Path, rng: random.Random) -> None:
    """Another content in place of a file."""
    path = folder / rng.choice(FILES)
    whole = path.read_bytes()
    cut = rng.randrange(len(whole))
    contents = [
        b"",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        whole[:cut],
        whole[:cut] + b"\x00" + whole[cut:],
    ]
    path.write_bytes(rng.choice([*contents, rng.randbytes(5000), whole.decode().encode("utf-16"), b"{}", b"9" * 10**6]))


def trees_that_are_no_text(folder: Path, rng: random.Random) -> None:
    """Bytes in place of the trees that are not UTF-8, with checksums that fit."""
    whole = (folder / "trees.txt").read_bytes()
    sign_trees(
        folder, rng.choice([whole.replace(b"Tree=1", b"Tr\xe9\xe9=1"), rng.randbytes(4000), whole + b"\xff", b""])
    )


def no_file(folder: Path, rng: random.Random) -> None:
    """Something else in place of a file."""
    path = folder / rng.choice(FILES)
    path.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(
            rng.choice(["/dev/zero", "/dev/full", "/dev/random", "/proc/self/mem", "/dev/stdin", "/dev/tty"])
        )
    elif kind == 3:
        path.symlink_to(rng.choice([path, folder, folder / "nothing"]))
    elif kind == 4:
        with path.open("wb") as file:
            file.truncate(5 << 30)
    elif kind == 5:
        with socket.socket(socket.AF_UNIX) as unix, contextlib.suppress(OSError):  # too long a name
            unix.bind(str(path))


def no_folder(folder: Path, rng: random.Random) -> None:
    """Something else in place of the folder."""
    shutil.rmtree(folder)
    kind = rng.randrange(3)
    if kind == 0:
        os.mkfifo(folder)
    elif kind == 1:
        folder.symlink_to(folder)
    else:
        folder.touch()


KINDS: list[Callable[[Path, random.Random], None]] = [
    *[change_manifest] * 6,
    *[change_number] * 4,
    *[change_lines] * 2,
    *[write_bytes] * 2,
    *[no_file] * 3,
    trees_that_are_no_text,
    swap_features,
    chain,
    claim_much,
    no_folder,
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.write(tmp_path_factory.mktemp("models") / "test", trust={"direct pmaddubsw": 0.75})


def tampered(good: Path, folder: Path, seed: int) -> str:
    """A copy of a release in which something is wrong; what was done to it."""
    rng = random.Random(seed)
    shutil.copytree(good, folder)
    change = KINDS[seed % len(KINDS)]
    change(folder, rng)
    return change.__name__


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_model_or_a_release_error(good: Path, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "test"
    tampered(good, folder, seed)
    problem = ""
    try:
        release.load(folder)
    except ReleaseError as error:
        problem = str(error)
    assert len(problem) < 1000
    assert "\n" not in problem
    learned._loaded.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decisions = Learned(folder).decide_all(WORKLOADS, profile("x86-64-v3"))
    sources = {decision.source for decision in decisions}
    assert sources == {"rule"} if problem else sources <= {"learned", "roofline"}
    assert [item.category for item in caught] == [ModelWarning] * len(caught), [str(item.message) for item in caught]
    assert not problem or problem in str(caught[0].message)
    json.dumps([decision.to_dict() for decision in decisions], allow_nan=False)
