"""``selector explain``: what each convolution gets, and why, without compiling."""

from __future__ import annotations

from typing import Annotated

import typer

from selector.cli import common

_HOW = {"chosen": "as decided", "int8": "if all were int8", "int16": "if all were int16"}


@common.command
def explain(
    model: common.Model,
    target: common.Target = "native",
    policy: common.PolicyName = None,
    threads: common.Threads = None,
    shape: common.Shape = None,
    batch: common.Batch = None,
    sizes: Annotated[
        bool,
        typer.Option("--bytes/--no-bytes", help="Show the bytes of weights under each lowering, which packs them."),
    ] = True,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Show the lowering of every convolution and the reason for it."""
    common.existing_file(model, "the network")
    import selector
    from selector.report import tables

    count, shapes = common.set_threads(threads), common.parse_shapes(shape)
    resolved, policy = common.resolve_target(target), common.resolve_policy(policy)
    with common.progress(f"reading {model.name}", quiet=as_json):
        module = selector.load(model, shapes=shapes, batch=batch)
        decisions = selector.explain(module, target=resolved, policy=policy, threads=count)
        stored = selector.stored_bytes(module, target=resolved, threads=count) if sizes else {}
    counts, deciders = tables.lowering_counts(decisions), tables.deciders(decisions)
    if counts.keys() - {"tvm"}:
        common.warn_of_float(tables.float_share(decisions))
    if as_json:
        layers = [
            tables.decision_row(decision) | {"stored_bytes": stored.get(decision.layer)} for decision in decisions
        ]
        common.print_json(
            {
                "model": str(model),
                "target": target,
                "policy": policy,
                "threads": count,
                "lowerings": counts,
                "deciders": deciders,
                "stored_bytes": tables.total_bytes(stored, decisions),
                "layers": layers,
            }
        )
        return
    out = common.console()
    if decisions:
        out.print(tables.decisions_table(decisions, stored))
    predictions = tables.predictions_table(decisions)
    if predictions is not None:
        out.print(predictions)
    out.print(common.describe_counts(counts))
    if deciders is not None:
        out.print(tables.describe_deciders(deciders))
    if stored:
        total = {name: tables.format_bytes(size) for name, size in tables.total_bytes(stored, decisions).items()}
        out.print("weights, packed: " + ", ".join(f"{size} {_HOW[name]}" for name, size in total.items()))
