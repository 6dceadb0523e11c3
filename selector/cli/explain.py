"""``selector explain``: what each convolution gets, and why, without compiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import common

if TYPE_CHECKING:
    from selector.policy import Decision
    from selector.target import TargetProfile

    Stored = dict[str, dict[str, int]]  # see ``selector.stored_bytes``

_HOW = {"chosen": "as decided", "int8": "if all were int8", "int16": "if all were int16"}


@common.command
def explain(
    model: common.Model,
    target: common.Target = "native",
    policy: common.PolicyName = None,
    threads: common.Threads = None,
    shape: common.Shape = None,
    batch: common.Batch = None,
    lazy_weights: common.LazyWeights = True,
    max_size: common.MaxSize = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also show reasons, bytes and what decided, some lines for each layer.")
    ] = False,
    sizes: Annotated[
        bool, typer.Option("--bytes/--no-bytes", help="With --details or --json: bytes of weights under each lowering.")
    ] = True,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Show the lowering of every convolution, and with --details the reasons for it."""
    common.existing_file(model, "the network")
    import selector
    from selector.graph.compile import layer_bytes
    from selector.graph.variants import inputs_of
    from selector.report import tables
    from selector.target import profile

    count, variants = common.set_threads(threads), common.parse_variants(shape, batch)
    resolved, policy = common.resolve_target(target), common.resolve_policy(policy)
    most = common.parse_size(max_size)
    with common.progress(f"reading {model.name}", quiet=as_json):
        modules = [selector.load(model, **given) for given in variants]
        decisions = selector.explain(modules, resolved, policy, count, lazy_weights=lazy_weights, max_bytes=most)
        stored = layer_bytes(decisions, profile(resolved), lazy_weights=lazy_weights) if sizes else {}
    made = [[item for item in decisions if item.variant == index] for index in range(len(modules))]
    if tables.lowering_counts(decisions).keys() - {"tvm"}:
        common.warn_of_float(tables.float_share(decisions))
    shapes = [" ".join(map(str, inputs_of(module))) for module in modules]
    if as_json:
        about = {"model": str(model), "target": target, "policy": policy, "threads": count}
        found = [_facts(one, stored) for one in made]
        rows = [{"shapes": text} | facts for text, facts in zip(shapes, found, strict=True)]
        common.print_json(about | (found[0] if len(found) == 1 else {"variants": rows}))
        return
    for text, one in zip(shapes, made, strict=True):
        if len(made) > 1:
            common.console().print(f"{text}:")
        _print(one)
        if details:
            _print_details(one, stored, profile(resolved))
    if not details and decisions:
        common.console().print("--details: reasons, bytes and what decided, for each layer")


def _facts(decisions: list[Decision], stored: Stored) -> dict[str, Any]:
    """The decisions for one set of shapes, for JSON."""
    from selector.report import tables

    layers = [tables.decision_row(decision) | {"stored_bytes": stored.get(decision.layer)} for decision in decisions]
    return {
        "lowerings": tables.lowering_counts(decisions),
        "deciders": tables.deciders(decisions),
        "stored_bytes": tables.total_bytes(stored, decisions),
        "layers": layers,
    }


def _print(decisions: list[Decision]) -> None:
    """The decisions for one set of shapes, for people."""
    from selector.report import decisions as report
    from selector.report import tables

    out = common.console()
    counts, deciders = tables.lowering_counts(decisions), tables.deciders(decisions)
    if decisions:
        out.print(report.decisions_table(decisions, out.width))
        out.print()
        out.print(report.legend(decisions))
    for line in report.left_in_float(decisions):
        out.print(line, markup=False)
    out.print(common.describe_counts(counts))
    if deciders is not None:
        out.print(tables.describe_deciders(deciders))


def _print_details(decisions: list[Decision], stored: Stored, target: TargetProfile) -> None:
    from selector.report import decisions as report
    from selector.report import tables

    out = common.console()
    if stored:
        total = {name: tables.format_bytes(size) for name, size in tables.total_bytes(stored, decisions).items()}
        out.print("weights in the library: " + ", ".join(f"{size} {_HOW[name]}" for name, size in total.items()))
    if any(decision.movers for decision in decisions):
        out.print("for int8, ×1.20: what follows raised the predicted ratio by this factor; for int16: lowered it")
    out.print()
    for line in report.details(decisions, stored, target, out.width):
        out.print(line)
