"""A wheel of all that running compiled networks needs: ``selector.runtime`` and TVM's runtime library.

The package itself depends on apache-tvm, a compiler of 300 MB, and an extra can add dependencies but take none away.
So the machine that compiles networks also packs what runs them: for machines like itself, or, from a wheel of
apache-tvm for another platform, for a device.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import itertools
import re
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import selector

DISTRIBUTION = "tvm-selector-runtime"
_LIBRARY = "tvm/lib/libtvm_runtime.so"
_PACKED_LIBRARY = "selector/lib/libtvm_runtime.so"  # where ``runtime.load_runtime`` looks
_DEPENDENCIES = ("apache-tvm-ffi", "numpy")  # of those of the package itself, in the versions it asks for
_LICENCES = re.compile(r"tvm/(LICENSE|NOTICE|licenses/.*)")
_PACKED_AT = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel

_METADATA = """\
Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: Runs networks that Selector compiled
License: Apache-2.0
Requires-Python: {python}
{requirements}

Modules of tvm-selector {version} and the runtime library of apache-tvm {tvm}.  Not to be installed beside tvm-selector,
which has the same modules.
"""


class NoRuntime(ValueError):
    """There is no runtime library of TVM to pack; one line that says why."""


def write(folder: Path, tvm_wheel: Path | None = None) -> Path:
    """Write the wheel into ``folder``, and return its path.

    TVM's runtime comes from the installed apache-tvm, or from ``tvm_wheel``, which is for the platform that the wheel
    shall be for.  Raises NoRuntime, and OSError if the wheel cannot be written.
    """
    own, tvm = _installed("tvm-selector"), _installed("apache-tvm")
    if tvm_wheel is not None:
        tvm = _in_wheel(tvm_wheel, tvm.version)
    tags = re.findall(r"^Tag: .*-(.*)$", tvm.read_text("WHEEL") or "", re.MULTILINE)
    stem = f"{DISTRIBUTION.replace('-', '_')}-{own.version}"
    info = f"{stem}.dist-info"
    files = {
        **_sources(),
        **_parts_of(tvm, info),
        f"{info}/licenses/LICENSE": next(f for f in own.files or () if f.name == "LICENSE").read_binary(),
        f"{info}/METADATA": _metadata(own, tvm).encode(),
        f"{info}/WHEEL": _wheel(tags).encode(),
    }
    path = folder / f"{stem}-py3-none-{'.'.join(tags)}.whl"
    path.write_bytes(_packed(files, f"{info}/RECORD"))
    return path


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise NoRuntime(f"the package '{name}' is not installed") from None


def _in_wheel(path: Path, version: str) -> Distribution:
    """TVM in a wheel, which has to be of this version: the one that compiles networks here."""
    found = next(iter(distributions(name="apache-tvm", path=[str(path)])), None)
    if found is None:
        raise NoRuntime(f"{path} is not a wheel of apache-tvm")
    if found.version != version:
        raise NoRuntime(f"{path} is apache-tvm {found.version}, and {version} compiles networks here")
    return found


def _sources() -> dict[str, bytes]:
    """Path -> contents of ``selector.runtime`` and of all modules of the package that it imports."""
    package = Path(selector.__file__).parent
    found: dict[str, bytes] = {}
    waiting = ["selector.runtime"]
    while waiting:
        # a module's packages are imported before it
        for name in itertools.accumulate(waiting.pop().split("."), "{}.{}".format):
            base = package.parent.joinpath(*name.split("."))
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                key = path.relative_to(package.parent).as_posix()
                if name.startswith("selector") and path.is_file() and key not in found:
                    found[key] = path.read_bytes()
                    waiting += _imported(found[key])
    return found


def _imported(source: bytes) -> list[str]:
    """What a module imports when it is imported, as names of modules; some may be names of other things in them."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _parts_of(tvm: Distribution, info: str) -> dict[str, bytes]:
    """Path in the wheel -> contents of TVM's runtime library and of the licences it comes under."""
    theirs = {path.as_posix(): path for path in tvm.files or ()}
    if _LIBRARY not in theirs:
        raise NoRuntime(f"apache-tvm {tvm.version} has no {_LIBRARY}: its platform is not supported")
    parts = {_PACKED_LIBRARY: theirs[_LIBRARY].read_binary()}
    for name, path in theirs.items():
        if match := _LICENCES.fullmatch(name):
            parts[f"{info}/licenses/apache-tvm/{match[1]}"] = path.read_binary()
    return parts


def _metadata(own: Distribution, tvm: Distribution) -> str:
    requirements = [
        text for text in own.requires or () if re.split(r"[^\w.-]", text)[0] in _DEPENDENCIES and ";" not in text
    ]
    return _METADATA.format(
        name=DISTRIBUTION,
        version=own.version,
        python=own.metadata["Requires-Python"],
        requirements="\n".join(f"Requires-Dist: {text}" for text in requirements),
        tvm=tvm.version,
    )


def _wheel(tags: list[str]) -> str:
    lines = ["Wheel-Version: 1.0", "Generator: tvm-selector", "Root-Is-Purelib: false"]
    return "\n".join([*lines, *(f"Tag: py3-none-{tag}" for tag in tags), ""])


def _packed(files: dict[str, bytes], record: str) -> bytes:
    """A wheel of these files, with the list of them and of their hashes."""
    rows = []
    for name, contents in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(contents)}")
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in {**files, record: "\n".join([*rows, f"{record},,", ""]).encode()}.items():
            entry = zipfile.ZipInfo(name, _PACKED_AT)
            entry.external_attr = 0o100644 << 16  # a plain file that all may read
            archive.writestr(entry, contents, zipfile.ZIP_DEFLATED)
    return memory.getvalue()
