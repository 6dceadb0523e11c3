"""``selector bench kernels``: the kernels of single convolutions, timed in turns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import common

if TYPE_CHECKING:
    from selector.kernel_peers import KernelPeer

Networks = Annotated[
    list[Path] | None,
    typer.Option("--network", help="Take the distinct convolutions of this network; repeatable.", show_default="none"),
]
Shapes = Annotated[Path | None, typer.Option(help="Take the convolutions of a JSON or CSV file.", show_default="none")]
Against = Annotated[
    str | None,
    typer.Option(
        help="Peer to time the same convolutions in: 'onnxruntime', or 'metaschedule', TVM's tuner (minutes for each).",
        show_default="none",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads a convolution runs on.")]
Trials = Annotated[int, typer.Option(min=1, help="Candidates that metaschedule measures for a convolution.")]
Records = Annotated[
    Path | None,
    typer.Option(
        help="Folder that keeps metaschedule's records; what was tuned is not tuned again.", show_default="none"
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        help="'network', or random ones: '7bit', 'full'; repeatable.", show_default="network with --network, else 7bit"
    ),
]
DTypes = Annotated[
    list[str] | None,
    typer.Option(help="Data and weights, e.g. u8s8, s8s8, u8u8; repeatable.", show_default="as they come"),
]


@common.command
def bench_kernels(
    network: Networks = None,
    shapes: Shapes = None,
    weights: Weights = None,
    dtypes: DTypes = None,
    against: Against = None,
    trials: Trials = 128,
    records: Records = None,
    target: common.Target = "native",
    threads: Threads = 1,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds to run.", show_default="until the ratios are stable")
    ] = None,
    max_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timing a convolution at most.")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option(help="Write a roofline plot (.png, .svg, .pdf).", show_default="none")
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Time both lowerings of single convolutions, the peaks of their instructions, and a peer, interleaved."""
    from selector import kernel_cases
    from selector.kernel_bench import compare_kernels
    from selector.peers import require_runnable
    from selector.report import kernels, roofline

    if not network and shapes is None:
        raise common.BadInput("nothing to time: give --network net.onnx or --shapes file.json")
    for path in network or ():
        common.existing_file(path, "the network")
    if shapes is not None:
        common.existing_file(shapes, "the shapes file")
    kinds = list(dict.fromkeys(weights or (["network"] if network else ["7bit"])))
    types = list(dict.fromkeys(dtypes or ()))
    _check(kinds, kernel_cases.WEIGHTS, "weights")
    _check(types, kernel_cases.DTYPES, "dtypes")
    peer = _peer(against, trials, records)
    if "network" in kinds and (types or not network or shapes is not None):
        raise common.BadInput("weights 'network' need --network alone, and no --dtypes: other types need other weights")
    if plot is not None:
        roofline.require_matplotlib()
    count = common.set_threads(threads)
    resolved = common.resolve_target(target)
    require_runnable(resolved)
    with common.progress("reading", quiet=as_json) as update:
        found = [case for path in network or () for case in kernel_cases.from_network(path, count)]
        if shapes is not None:
            found += kernel_cases.from_file(shapes, count)
        plan = kernel_cases.plan(found, kinds, types)  # type: ignore[arg-type]
        if not plan:
            raise common.BadInput("nothing to time: no quantized convolution was found")
        results = []
        for number, (_, case) in enumerate(plan):
            update(description=case.workload.describe(), fraction=number / len(plan))
            result = compare_kernels(
                case,
                target=resolved,
                peer=peer,
                rounds=rounds,
                max_seconds=max_seconds,
            )
            results.append(result)
    if plot is not None:
        roofline.plot_roofline(results, plot)
    if as_json:
        rows = [{"weights": kind} | result.to_dict() for (kind, _), result in zip(plan, results, strict=True)]
        summary = kernels.summary_rows(results)
        common.print_json({"target": target, "threads": count, "summary": summary, "convolutions": rows})
        return
    console = common.console()
    console.print(kernels.kernels_table(results, [kind for kind, _ in plan]))
    console.print(kernels.summary_table(results))


def _peer(name: str | None, trials: int, records: Path | None) -> KernelPeer | None:
    """The peer of that name.  Raises BadInput for one that is not known, PeerUnavailable."""
    from selector import kernel_peers, metaschedule_peer

    known = {
        "onnxruntime": lambda: kernel_peers.ONNXRUNTIME,
        "metaschedule": lambda: metaschedule_peer.metaschedule(trials, records),
    }
    _check([name] if name else [], known, "peer")
    return known[name]() if name else None


def _check(values: list[str], known: object, what: str) -> None:
    """Raises BadInput for a value that is not known."""
    names = list(known)  # type: ignore[call-overload]
    for value in values:
        if value not in names:
            raise common.BadInput(f"unknown {what} '{value}': give one of {', '.join(names)}")
