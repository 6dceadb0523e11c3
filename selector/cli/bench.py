"""``selector bench``: one network, several ways of running it, timed in turns."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Annotated

import typer

from selector.cli import common
from selector.wording import counted

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help=f"A policy to time: {common.POLICIES}; may be repeated.",
        show_default=common.DEFAULT_POLICY,
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(help="A peer to time: tvm, onnxruntime or litert; may be repeated.", show_default="those installed"),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Bring activations and weights into other types first: u8s8, u8s8-7bit, s8s8, u8u8, u16s8 or s16s8.",
        show_default="as it is",
    ),
]


@common.command
def bench(
    model: common.Model,
    target: common.Target = "native",
    policy: Policies = None,
    against: Against = None,
    format: Format = None,
    threads: common.Threads = None,
    shape: common.Shape = None,
    batch: common.Batch = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds to run.", show_default="until the ratios are stable")
    ] = None,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of timing at most, without --rounds.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of the random input.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Also show the time of every layer.")] = False,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Time the network under policies and in other runtimes, interleaved in one process.

    Several shapes are timed one after the other, as variants of one library.
    """
    common.existing_file(model, "the network")
    import selector
    from selector.graph.frontends.shapes import fixed_file
    from selector.networks import PEERS, compare_network
    from selector.peers import installed, own_runtime
    from selector.quantized_formats import in_format
    from selector.report import tables

    count, variants = common.set_threads(threads), common.parse_variants(shape, batch)
    resolved = common.resolve_target(target)
    requested: list[str | None] = [*policy] if policy else [None]
    policies = list(dict.fromkeys(common.resolve_policy(name) for name in requested))
    if against is None:
        against = ["tvm", *filter(installed, [own_runtime(model)])]
    for name in against:
        if name not in PEERS:
            raise common.BadInput(f"unknown peer '{name}': give one of {', '.join(PEERS)}")
    reading = common.progress(f"reading {model.name}", quiet=as_json)
    with ExitStack() as files, reading as update:
        shaped = [files.enter_context(fixed_file(model, **given)) for given in variants]
        paths = [files.enter_context(in_format(path, format)) for path in shaped]

        @functools.cache
        def library(policy: str) -> selector.CompiledModel:
            modules = [selector.load(path) for path in paths]
            return selector.compile(modules, target=resolved, policy=policy, threads=count)

        results = [
            compare_network(
                path,
                policies=policies,
                against=list(dict.fromkeys(against)),
                target=resolved,
                threads=count,
                rounds=rounds,
                max_seconds=max_seconds,
                seed=seed,
                profile=profile,
                library=library,
                stage=lambda text: update(description=text),
                progress=lambda fraction: update(fraction=fraction),
            )
            for path in paths
        ]
        shapes = list(map(str, library(policies[0]).variants))
    if as_json:
        about = {"model": str(model), "format": format, "target": target, "threads": count}
        rows = [{"shapes": text} | result.to_dict() for text, result in zip(shapes, results, strict=True)]
        common.print_json(about | (results[0].to_dict() if len(results) == 1 else {"variants": rows}))
        return
    name = f"{model.name} as {format}" if format else model.name
    for text, result in zip(shapes, results, strict=True):
        about_shapes = f", {text}" if len(shapes) > 1 else ""
        title = f"{name}{about_shapes}, target {target}, {counted(count, 'thread')}"
        common.console().print(tables.comparison_table(result, against or [result.comparison.timings[0].name], title))
        for contender, times in result.profiles.items():
            common.console().print(tables.profile_table(times, contender))
