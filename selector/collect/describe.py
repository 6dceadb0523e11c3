"""Profiles of CPUs that are not at hand: LLVM's scheduling models, and what the data sheet says.

LLVM knows the instructions of a CPU and models how many of them it does in a cycle; caches, memory, cores and frequency
are in no model and come from a specification.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from tvm.target import codegen

from selector import data, schema
from selector.collect.llvm_mca import Mca, ModelUnavailable, find_mca, hottest_loop, without_copies
from selector.collect.row_kernels import compile_peak, pointwise, usable_rows
from selector.lowering.dot import Dot
from selector.lowering.pipeline import compile_kernel
from selector.profiles import INSTRUCTION_SETS, ProfileError, Rates, StoredProfile, three_digits
from selector.schema import Count, Natural, Positive, Text
from selector.target import LEVELS, TargetLike, TargetProfile, host_architecture, profile

_TRIPLES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_CHANNELS = 256  # of the convolution whose inner loop is modelled


@dataclass(frozen=True, slots=True)
class Specification:
    """What a CPU's data sheet says; one entry of ``specifications/cpus.json`` beside the profiles."""

    source: Text  # the product, and where the figures come from
    base_ghz: Positive
    boost_ghz: Positive  # most that a core runs at; the same where the frequency is fixed
    cores: Count
    l1_bytes: Count
    l2_bytes: Count
    l3_bytes: Natural  # that a core can use; 0: none
    l1_bytes_per_cycle: Positive  # widest vector loads of one core from this level, in cycles of the core
    l2_bytes_per_cycle: Positive
    l3_bytes_per_cycle: Annotated[float, Meta(ge=0)]  # 0: there is no such level
    dram_gbs: Positive  # one core
    dram_all_gbs: Positive  # all cores
    unverified: tuple[str, ...] = ()  # fields that no document was found for: estimates

    def __post_init__(self) -> None:
        if not set(self.unverified) <= {item.name for item in fields(Specification)}:
            raise ValueError("unverified lists fields of the specification")

    @property
    def clock_ghz(self) -> float:
        """Frequency that rates are given at: a loaded core runs somewhere between the two that are specified."""
        return (self.base_ghz + self.boost_ghz) / 2


def describe(
    target: TargetLike,
    *,
    like: str | None = None,
    specification: Specification | None = None,
    mca: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> StoredProfile:
    """Model a CPU: kind "modelled", dated today.

    ``like`` is the CPU whose scheduling model is taken, and whose specification where the target has none: for a name
    that is no CPU of its own, such as x86-64-v3 (None: this machine's for those, else the CPU itself).
    ``specification`` None: the entry in ``specifications()``.  ``mca``: path of llvm-mca; None: the newest in the
    search path.

    Raises ModelUnavailable without llvm-mca or a model of the CPU, ProfileError without a specification.
    """
    wanted = profile(target)
    model = like or _own_model(wanted)
    if wanted.arch not in _TRIPLES:
        raise ModelUnavailable(f"only {' and '.join(_TRIPLES)} can be modelled, not {wanted.arch} ('{wanted.name}')")
    sheet = specification or find_specification(specifications(), wanted.name, model)
    tool = find_mca(_TRIPLES[wanted.arch], model, tuple(sorted(wanted.features & INSTRUCTION_SETS)), mca)
    rows = usable_rows(wanted)
    dots, loops = [], []
    for done, row in enumerate(rows, 1):
        loop = _inner_loop(row, wanted, tool)
        peak = max(_peak(row, wanted, tool), loop)  # LLVM may order the instructions of the one better
        dots.append((row.name, three_digits(peak * sheet.clock_ghz)))
        loops.append((row.name, three_digits(loop * sheet.clock_ghz)))
        if progress:
            progress(done / len(rows))
    # as many loads a cycle as the CPU does, of vectors that a level may have narrower; the caches below pass lines
    narrower = min(1.0, wanted.vector_bits / profile(model).vector_bits)
    widths = {1: narrower, 2: 1.0, 3: 1.0}
    levels = {
        f"l{n}_gbs": getattr(sheet, f"l{n}_bytes_per_cycle") * width * sheet.clock_ghz for n, width in widths.items()
    }
    rates = Rates(
        kind="modelled",
        source=sheet.source,
        dots=tuple(dots),
        loops=tuple(loops),
        **{name: three_digits(speed or sheet.dram_gbs) for name, speed in levels.items()},
        dram_gbs=float(sheet.dram_gbs),
        dram_all_gbs=float(sheet.dram_all_gbs),
    )
    return StoredProfile(
        name=wanted.name,
        arch=wanted.arch,
        features=wanted.features,
        vector_bits=wanted.vector_bits,
        cores=sheet.cores,
        l1_bytes=sheet.l1_bytes,
        l2_bytes=sheet.l2_bytes,
        l3_bytes=sheet.l3_bytes,
        rates=rates,
        date=datetime.date.today().isoformat(),
        note=f"selector targets describe: llvm-mca {tool.version}, scheduling model of {model}, at "
        f"{sheet.clock_ghz:g} GHz",
    )


def specifications() -> Path:
    """The file with the specifications that come with Selector."""
    return data.folder("targets") / "specifications" / "cpus.json"


def find_specification(path: Path, *cpus: str) -> Specification:
    """Entry of the first of these CPUs in a JSON file of specifications by LLVM cpu name.  Raises ProfileError."""
    try:
        table = schema.build(dict[str, Any], schema.decode(schema.read(path)))
        found = next((cpu for cpu in cpus if cpu in table), None)
        if found is None:
            raise ProfileError(
                f"it has {', '.join(sorted(table))}: give one with --specification, or --like one of them"
            )
        return schema.build(Specification, table[found])
    except OSError as error:
        raise ProfileError(f"cannot read the specifications {path}: {error.strerror}") from None
    except ValueError as error:  # SchemaError, ProfileError
        raise ProfileError(f"{path} has no specification of '{cpus[0]}': {error}") from None


def _own_model(target: TargetProfile) -> str:
    if target.name not in LEVELS:
        return target.name
    if target.arch != host_architecture():
        raise ModelUnavailable(f"'{target.name}' is no CPU of its own: say which one to model with --like")
    return str(codegen.llvm_get_system_cpu())


def _peak(row: Dot, target: TargetProfile, mca: Mca) -> float:
    """Multiply-accumulates a cycle of the loop that touches registers only.

    Its copies of registers do not count, unless two-operand instructions chain without them: LLVM writes them because
    each operand is an accumulator, kernels have none, and on an in-order core each takes the place of a product.
    """
    module, _ = compile_peak(row, 1000, target)
    loop, macs = hottest_loop(str(module.mod.inspect_source("asm")))
    return max(macs / mca.cycles(body) for body in (loop, without_copies(loop)))


def _inner_loop(row: Dot, target: TargetProfile, mca: Mca) -> float:
    """Multiply-accumulates a cycle of the inner loop of a 1×1 convolution."""
    kernel, _ = pointwise(row, _CHANNELS, target)
    loop, macs = hottest_loop(str(compile_kernel(kernel, target.tvm_target()).mod.inspect_source("asm")))
    return macs / mca.cycles(loop)
