"""``selector compile``: a network to a shared library."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import common
from selector.wording import counted

if TYPE_CHECKING:
    import tvm

    import selector
    from selector.peers import Runner
    from selector.target import TargetLike
    from selector.verify import Difference

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Shared library to write, e.g. net.so.", show_default="none")
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Run it on random input and compare with TVM and ONNX Runtime or LiteRT."),
]
LinkerCommand = Annotated[
    str | None,
    typer.Option(
        "--linker",
        help="Compiler that links the library, e.g. 'clang --target=aarch64-linux-gnu'.",
        show_default="found by the target",
    ),
]


@common.command
def compile_network(
    model: common.Model,
    target: common.Target = "native",
    policy: common.PolicyName = None,
    threads: common.Threads = None,
    shape: common.Shape = None,
    batch: common.Batch = None,
    output: Output = None,
    verify: Verify = False,
    linker: LinkerCommand = None,
    lazy_weights: common.LazyWeights = True,
    max_size: common.MaxSize = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Compile a network; without --output it is compiled (and verified) and not kept."""
    common.existing_file(model, "the network")
    if output:
        require_writable(output)
    import selector
    from selector.cross import LinkFailed, find_linker
    from selector.graph.compile import layer_bytes
    from selector.report import tables
    from selector.target import profile, why_not_here

    count, variants = common.set_threads(threads), common.parse_variants(shape, batch)
    resolved, policy = common.resolve_target(target), common.resolve_policy(policy)
    most = common.parse_size(max_size)
    link = find_linker(resolved, linker) if output else None
    if verify:
        _require_verifiable(resolved)
    differences: list[list[Difference]] = []  # of each variant
    with common.progress(f"compiling {model.name}", quiet=as_json) as update:
        modules = [selector.load(model, **given) for given in variants]
        start = time.perf_counter()
        compiled = selector.compile(modules, resolved, policy, count, lazy_weights=lazy_weights, max_bytes=most)
        seconds = time.perf_counter() - start
        if verify:
            update(description="verifying")
            from selector.graph.frontends.shapes import fixed_file

            for module, given in zip(modules, variants, strict=True):
                with fixed_file(model, **given) as path:
                    differences.append(_verify(path, module, lambda feed: compiled.run(*feed), resolved, count))
    failed = [row for rows in differences for row in rows if not row.passed]
    saved = None if failed else output
    if saved:
        try:
            compiled.save(saved, link)
        except LinkFailed as error:
            raise common.WorkFailed(str(error)) from None
    stored = layer_bytes(compiled.decisions, profile(resolved), lazy_weights=lazy_weights)
    summary: dict[str, Any] = {
        "model": str(model),
        "target": target,
        "policy": policy,
        "threads": count,
        "shapes": list(map(str, compiled.variants)),
        "lowerings": tables.lowering_counts(compiled.decisions),
        "deciders": tables.deciders(compiled.decisions),
        "sources": dict(Counter(decision.source for decision in compiled.decisions)),
        "compile_seconds": seconds,
        "output": str(saved) if saved else None,
        "model_bytes": model.stat().st_size,
        "library_bytes": saved.stat().st_size if saved else None,
        "weights_bytes": tables.total_bytes(stored, [d for d in compiled.decisions if d.variant == 0])["chosen"],
        "largest_layers": tables.largest_layers(stored, compiled.decisions),
        "verification": [row.to_dict() | {"variant": i} for i, rows in enumerate(differences) for row in rows]
        if verify
        else None,
    }
    if summary["lowerings"].keys() - {"tvm"}:
        common.warn_of_float(tables.float_share(compiled.decisions))
    if as_json:
        common.print_json(summary)
    else:
        _print(summary, compiled, differences)
        if threads is None and why_not_here(profile(resolved)):
            common.console().print(
                f"it will use {counted(count, 'thread')}, the CPUs of this machine (--threads: of the device)"
            )
    if failed:
        worst = max(failed, key=lambda row: row.largest / row.tolerance if row.tolerance else math.inf)
        raise common.WorkFailed(
            f"verification: output {worst.output} differs from {worst.reference} by {worst.largest:.4g}, "
            f"allowed are {worst.tolerance:.4g}" + ("; nothing was written" if output else "")
        )


def require_writable(output: Path) -> None:
    """Raises BadInput, before any work, if the library cannot be written there."""
    if output.is_dir():
        raise common.BadInput(f"{output} is a folder; --output names the library to write")
    if output.suffix != ".so":
        raise common.BadInput(f"the output {output} must end in .so")
    probe = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise common.BadInput(f"cannot write {output}: {error.strerror}") from None


def _require_verifiable(target: TargetLike) -> None:
    from selector.peers import PeerUnavailable, require_runnable

    try:
        require_runnable(target)
    except PeerUnavailable as error:
        raise common.BadInput(f"--verify runs the network, but {error}: leave --verify out") from None


def _verify(path: Path, module: tvm.IRModule, compiled: Runner, target: TargetLike, threads: int) -> list[Difference]:
    from selector import peers
    from selector.verify import Reference, verify

    name = peers.own_runtime(path)
    own = peers.reference(path, threads=threads) if peers.installed(name) else None
    references = {"tvm": Reference(peers.tvm_default(module, target), own)}
    if own is not None:
        references[name] = Reference(own, peers.second_opinion(path, threads=threads))
    return verify(module, compiled, references)


def _print(summary: dict[str, Any], compiled: selector.CompiledModel, differences: list[list[Difference]]) -> None:
    from selector.report import tables

    out = common.console()
    several = len(compiled.variants) > 1
    for index, variant in enumerate(compiled.variants):
        counts = tables.lowering_counts([item for item in compiled.decisions if item.variant == index])
        out.print((f"{variant}: " if several else "") + common.describe_counts(counts))
    sources = ", ".join(f"{source} ({count})" for source, count in summary["sources"].items())
    out.print(f"decided by {sources or 'nobody'}; compiled in {summary['compile_seconds']:.1f} s")
    if summary["deciders"] is not None:
        out.print(tables.describe_deciders(summary["deciders"]))
    for variant, rows in zip(compiled.variants, differences, strict=False):
        out.print(tables.differences_table(rows, str(variant) if several else ""))
    largest = [f"{row['layer']} {tables.format_bytes(row['bytes'])}" for row in summary["largest_layers"]]
    out.print(
        f"weights in the library: {tables.format_bytes(summary['weights_bytes'])}, of a model of "
        f"{tables.format_bytes(summary['model_bytes'])}" + (f"; most in {', '.join(largest)}" if largest else "")
    )
    if summary["output"]:
        out.print(f"wrote {summary['output']}, {tables.format_bytes(summary['library_bytes'])}")
    else:
        out.print("no library was written" + ("" if differences else " (--output net.so writes one)"))
