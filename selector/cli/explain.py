"""``selector explain``: what each convolution gets, and why, without compiling."""

from __future__ import annotations

from selector.cli import common


@common.command
def explain(
    model: common.Model,
    target: common.Target = "native",
    policy: common.PolicyName = None,
    threads: common.Threads = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Show the lowering of every convolution and the reason for it."""
    common.existing_file(model, "the network")
    import selector
    from selector.report import tables

    count = common.set_threads(threads)
    resolved, policy = common.resolve_target(target), common.resolve_policy(policy)
    with common.progress(f"reading {model.name}", quiet=as_json):
        decisions = selector.explain(model, target=resolved, policy=policy, threads=count)
    counts = tables.lowering_counts(decisions)
    if as_json:
        layers = [tables.decision_row(decision) for decision in decisions]
        common.print_json(
            {
                "model": str(model),
                "target": target,
                "policy": policy,
                "threads": count,
                "lowerings": counts,
                "layers": layers,
            }
        )
        return
    out = common.console()
    if decisions:
        out.print(tables.decisions_table(decisions))
    out.print(common.describe_counts(counts))
