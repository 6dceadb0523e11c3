"""What the compiler knows about a CPU: resolved from any way a user may name it, never from a list of CPU names.

``resolve`` turns a user's target into a ``tvm.target.Target``; ``profile`` asks LLVM for its features.
"""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import tvm
from tvm.target import codegen

from selector import cpuinfo, profiles, quiet
from selector.profiles import Rates, StoredProfile
from selector.threads import host_cores

TargetLike: TypeAlias = str | tvm.target.Target | Mapping[str, Any]

_UNKNOWN_CPU = b"using default `-mcpu=generic`"  # the end of a line that TVM writes; ``_check_known`` says it instead

# LLVM features that are instructions, by how they start; others are tuning flags, belong to the system, or are used
# neither by the kernels nor by LLVM of its own accord (AMX, which hypervisors hide).
_INSTRUCTIONS = tuple("avx sse ssse fma bmi f16c gfni vaes neon dotprod i8mm sve fullfp16".split())

_WHOLE_VPDPWSSD = "fast-dpwssd"  # a tuning flag of LLVM's

LEVELS = ("generic", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")  # what many CPUs can do: no CPU of its own


class UnknownTarget(ValueError):
    """The target cannot be understood; the message says what can be given."""


class NotMeasurable(ValueError):
    """The target's kernels cannot run on the machine that is to time them."""


@dataclass(frozen=True, slots=True)
class TargetProfile:
    """The facts about a CPU that lowerings, features and policies read."""

    name: str  # LLVM cpu name
    arch: str  # as ``architecture`` gives it
    features: frozenset[str] = field(repr=False)  # LLVM feature names, e.g. "avx2", "dotprod"
    vector_bits: int  # widest integer vector the kernels use
    vector_registers: int  # architectural registers of that width
    cores: int
    l1_bytes: int  # data cache of one core
    l2_bytes: int  # per core
    l3_bytes: int  # shared; 0: none
    spec: str = field(repr=False)  # the target as tvm takes it, in JSON
    rates: Rates | None = field(default=None, repr=False)  # None: neither calibrated nor described

    def tvm_target(self) -> tvm.target.Target:
        """The target to compile for."""
        return tvm.target.Target(self.spec)

    def has(self, *features: str) -> bool:
        """Whether the CPU has every one of these LLVM features."""
        return self.features.issuperset(features)


def resolve(target: TargetLike = "native") -> tvm.target.Target:
    """The tvm Target for ``"native"``, an LLVM cpu name, a dict as tvm takes it (also as JSON), or a Target itself.

    ``"llvm"`` is what it is for tvm: any CPU of this machine's architecture.
    With what the kernels ask of LLVM for it.  Raises UnknownTarget, with what was given and what would do.
    """
    if isinstance(target, str):
        return _of_text(target)
    if isinstance(target, tvm.target.Target):
        return _tuned(target)
    try:
        with quiet.without_lines(_UNKNOWN_CPU):
            made = tvm.target.Target(dict(target))
    except Exception as error:  # tvm raises several kinds for a malformed dict
        raise UnknownTarget(f"tvm does not take the target {dict(target)!r}: {str(error).splitlines()[-1]}") from None
    return _tuned(made)


@functools.lru_cache(maxsize=64)
def _of_text(target: str) -> tvm.target.Target:
    """As ``resolve``; one object for each text, since what is kept for a Target is kept for the object."""
    if target == "native":
        return resolve(_native())
    if not target.lstrip().startswith("{"):
        return resolve(_named(target))
    try:
        return resolve(json.loads(target))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnknownTarget(f"the target is not valid JSON: {error}") from None


def profile(target: TargetLike = "native", measured_on: str | None = None) -> TargetProfile:
    """Profile of a target, with the rates of its stored profile (``selector.profiles``) where there is one.

    Cores and cache sizes are those of the stored profile if it describes another CPU than this machine's, else those of
    this machine if it is of the target's architecture, else common ones.  ``measured_on``: model name of the CPU that
    is meant; they are its own where it measured the target, for one of LEVELS where it measured any.
    Rates are those that this CPU measured for the target if there are any; for LEVELS it is this machine's by default.
    """
    resolved = resolve(target)
    if resolved.kind.name != "llvm":
        raise UnknownTarget(f"Selector compiles for CPUs through LLVM (kind 'llvm'), got kind '{resolved.kind.name}'")
    found = _profile(resolved)
    stored = profiles.find(found.name, found.features)
    if stored is None:
        return found
    cpu = measured_on or (cpuinfo.model() if found.name in LEVELS else None)
    there = profiles.find(found.name, found.features, cpu) if cpu else None
    return _with_stored(found, stored, there or stored, measured_on)


def why_not_here(target: TargetProfile) -> str:
    """Why this machine cannot execute code for a target, as in "this machine lacks avx2"; empty: it can."""
    return why_not_on(profile("native"), target)


def why_not_on(machine: TargetProfile, target: TargetProfile) -> str:
    """Why a machine cannot execute code for a target, as in "the machine lacks avx2"; empty: it can."""
    if target.arch != machine.arch:
        return f"is {machine.arch}"
    missing = sorted(name for name in target.features - machine.features if name.startswith(_INSTRUCTIONS))
    return f"lacks {', '.join(missing)}" if missing else ""


def architecture(triple: str) -> str:
    """Architecture of an LLVM triple: "x86_64", "aarch64", or what it starts with."""
    name = triple.split("-")[0]
    return "aarch64" if name == "arm64" else name  # Apple's name for it


def host_architecture() -> str:
    """Architecture of this machine, as ``architecture`` gives it."""
    return architecture(platform.machine())


def _named(name: str) -> dict[str, Any]:
    """Target dict of an LLVM cpu name; the triple is the host's where the host's LLVM backend knows the name."""
    if name == "llvm":  # what tvm.compile calls it
        return {"kind": "llvm"}
    host = codegen.llvm_get_system_triple()
    for triple in dict.fromkeys((host, "x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu")):
        if name and codegen.llvm_is_valid_cpu(name, triple):
            return {"kind": "llvm", "mcpu": name} | ({} if triple == host else {"mtriple": triple})
    raise UnknownTarget(
        f"unknown target '{name}': give 'native', an LLVM cpu name such as 'znver3', 'x86-64-v2' or 'cortex-a72', "
        "or a target as tvm takes it"
    )


@functools.lru_cache(maxsize=64)
def _tuned(target: tvm.target.Target) -> tvm.target.Target:
    """The target, on which LLVM leaves ``vpdpwssd`` whole.

    It would take chains of them apart into products and additions, of which a core does not do more (depthwise int16
    kernels take .62 to .96 of the time on Emerald Rapids).
    """
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    cpu = str(target.attrs.get("mcpu") or "generic")
    if target.kind.name != "llvm" or architecture(triple) != "x86_64" or not codegen.llvm_is_valid_cpu(cpu, triple):
        return target
    features = set(map(str, codegen.llvm_get_cpu_features(target)))
    if _WHOLE_VPDPWSSD in features or features.isdisjoint(("avxvnni", "avx512vnni")):
        return target
    values = json.loads(str(target))
    return tvm.target.Target(values | {"mattr": [*values.get("mattr", ()), f"+{_WHOLE_VPDPWSSD}"]})


def _native() -> tvm.target.Target:
    cpu = codegen.llvm_get_system_cpu()
    target: dict[str, Any] = {"kind": "llvm", "mcpu": cpu}
    # LLVM names a virtual CPU after its silicon: what the hypervisor hides has to be taken away again
    hidden = cpuinfo.lacking(codegen.llvm_get_cpu_features(tvm.target.Target(target)))
    if hidden:
        target["mattr"] = [f"-{feature}" for feature in hidden]
    return tvm.target.Target(target)


@functools.lru_cache(maxsize=64)
def _profile(target: tvm.target.Target) -> TargetProfile:
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    name = str(target.attrs.get("mcpu") or "generic")
    _check_known(name, triple)
    features = frozenset(str(feature) for feature in codegen.llvm_get_cpu_features(target))
    arch = architecture(triple)
    bits, registers = _vectors(arch, features)
    l1, l2, l3 = host_caches() if arch == host_architecture() else (32 << 10, 512 << 10, 8 << 20)
    return TargetProfile(
        name=name,
        arch=arch,
        features=features,
        vector_bits=bits,
        vector_registers=registers,
        cores=host_cores(),
        l1_bytes=l1,
        l2_bytes=l2,
        l3_bytes=l3,
        spec=str(target),
    )


def _check_known(name: str, triple: str) -> None:
    """TVM takes a CPU that LLVM does not know for ``generic``, and crashes if LLVM does not know the architecture."""
    with quiet.without_lines(_UNKNOWN_CPU):
        known, architecture = (codegen.llvm_is_valid_cpu(cpu, triple) for cpu in (name, "generic"))
    if not architecture:
        raise UnknownTarget(f"LLVM knows no architecture '{triple}': give a triple such as 'aarch64-linux-gnu'")
    if not known:
        raise UnknownTarget(f"LLVM knows no CPU '{name}' of {triple}; 'generic' is every one of an architecture")


@functools.lru_cache(maxsize=64)
def _with_stored(
    found: TargetProfile, stored: StoredProfile, there: StoredProfile, measured_on: str | None
) -> TargetProfile:
    """``found`` with the rates of ``there``, and cores and caches of what is meant."""
    level = found.name in LEVELS
    here = (level or found.name == codegen.llvm_get_system_cpu()) and found.arch == host_architecture()
    meant: TargetProfile | StoredProfile = found if here else stored
    if measured_on is not None and there.is_measured_on(measured_on):
        meant = there
    elif measured_on is not None and level:
        meant = profiles.of_cpu(measured_on) or meant
    return replace(
        found,
        rates=there.rates,
        cores=meant.cores,
        l1_bytes=meant.l1_bytes,
        l2_bytes=meant.l2_bytes,
        l3_bytes=meant.l3_bytes,
    )


def _vectors(arch: str, features: frozenset[str]) -> tuple[int, int]:
    """Vector width in bits and number of vector registers."""
    if arch == "x86_64":
        if "avx512bw" in features:
            return 512, 32
        return (256, 16) if "avx2" in features else (128, 16)
    return 128, 32


def host_caches() -> tuple[int, int, int]:
    """Data cache sizes of this machine's CPU 0 in bytes (L1, L2, L3), from Linux; common sizes elsewhere."""
    sizes = {1: 32 << 10, 2: 512 << 10, 3: 0}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            level = int((index / "level").read_text())
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes[level] = int(text.rstrip("KM")) * unit
    return sizes[1], sizes[2], sizes[3]
