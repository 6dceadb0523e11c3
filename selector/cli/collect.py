"""``selector collect``: timing both lowerings of many convolutions, into a dataset."""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import progress as bars
from rich.console import Console

from selector.cli import common
from selector.cli.device import parse_links, remote_targets
from selector.wording import counted

if TYPE_CHECKING:
    from selector.collect.campaign import Event, Progress
    from selector.collect.sources import Candidate
    from selector.target import TargetLike

DEFAULT_FOLDER = Path("datasets/measurements")
_X86_TARGETS = ("x86-64", "x86-64-v2", "x86-64-v3")
_POOL = 10  # random convolutions to choose from, for each that --active is to collect
_SECONDS_BETWEEN_LINES = 60.0  # of progress, where standard error is no terminal

Networks = Annotated[list[Path] | None, typer.Argument(help="More networks, after --from.", show_default=False)]
From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Collect the convolutions of this network; may be repeated.", show_default="none"),
]
Architectures = Annotated[
    Path | None,
    typer.Option(
        help="Collect the layers of the architectures in this folder, or plan with them.", show_default="none"
    ),
]
Samples = Annotated[int | None, typer.Option(min=1, help="Collect this many random convolutions.", show_default="none")]
Plan = Annotated[
    int | None,
    typer.Option(
        min=1, help="Collect this many convolutions, a mix of published and random ones.", show_default="none"
    ),
]
Active = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a released model: collect those convolutions that it is likely to be most wrong about, of "
        "those given or of random ones.",
        show_default="none",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="CPU to compile for; may be repeated.", show_default="the x86-64 levels to v3"),
]
ThreadCounts = Annotated[
    list[int] | None,
    typer.Option("--threads", min=1, help="Threads of a kernel; may be repeated.", show_default="1 and all CPUs"),
]
Tracker = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT",
        help="Time on all devices that have the --key at this RPC tracker.",
        show_default="none",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--rpc-server",
        metavar="HOST:PORT",
        help="Time on the device of this RPC server, without a tracker.",
        show_default="none",
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        help="Key of the devices; may be repeated. Rows of a NAME@emulated never enter training.",
        show_default="none",
    ),
]
Linker = Annotated[
    str | None, typer.Option(help="Compiler that links for the devices.", show_default="one on the PATH")
]


@common.command
def collect(
    more_networks: Networks = None,
    networks: From = None,
    architectures: Architectures = None,
    samples: Samples = None,
    plan: Plan = None,
    active: Active = None,
    count: Annotated[int, typer.Option(min=1, help="With --active: how many convolutions, for each target.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn at random.")] = 0,
    target: Targets = None,
    threads: ThreadCounts = None,
    rpc: Tracker = None,
    rpc_server: Server = None,
    key: Keys = None,
    linker: Linker = None,
    into: Annotated[Path, typer.Option(help="Folder of the dataset.")] = DEFAULT_FOLDER,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that build and time.", show_default="the CPUs, or the devices")
    ] = None,
    width: Annotated[
        float, typer.Option(min=1e-4, help="Half the 95 % interval of log2(t_int16 / t_int8) to reach.")
    ] = 0.02,
    max_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timing a pair at most.")] = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many rows.", show_default="none")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what the dataset has already.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Measure also what the dataset has only as an error.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events on standard output, a JSON object each.")
    ] = False,
    debug: common.Debug = False,
) -> None:
    """Time both lowerings of convolutions, here or on devices, and store the rows; what is stored is left out."""
    paths = [common.existing_file(path, "the network") for path in [*(networks or []), *(more_networks or [])]]
    if not (paths or architectures or samples or plan or active):
        raise common.BadInput("nothing to collect: give --plan, --samples, --architectures, --active or --from")
    if active and not (paths or architectures or samples or plan):
        samples = _POOL * count
    remote_packages = ("cloudpickle", "psutil", "tornado") if rpc or rpc_server else ()
    common.require("collecting", "pebble", "polars", "pyarrow", *remote_packages)
    links = parse_links(rpc, rpc_server, key, linker)
    from selector import cpuinfo
    from selector.collect import campaign
    from selector.collect.journal import StoreFull
    from selector.collect.protocol import Rules
    from selector.collect.store import Store
    from selector.collect.tasks import ReleasedModel, pending
    from selector.policy import release
    from selector.threads import host_cores

    remote = None
    if links:
        with common.progress("asking the devices", quiet=as_json):
            remote = remote_targets(links, target)
        targets, cores, workers = remote.targets, remote.threads, workers or remote.devices
    else:
        targets, cores = _targets(target), host_cores()
    model = ReleasedModel(release.load(active)) if active else None
    counts = list(dict.fromkeys(threads or (1, cores)))
    if max(counts) > cores:
        where = f"the device {' or '.join(map(str, links))}" if links else "this machine"
        raise common.BadInput(f"--threads {max(counts)}: {where} has {counted(cores, 'CPU')}")
    with common.progress("listing convolutions", quiet=as_json):
        candidates = _candidates(paths, architectures, samples, plan, seed, counts)
    settings = campaign.Settings(Rules(width=width, max_seconds=max_seconds), workers, debug=debug)
    try:
        with Store.open(into) as store, _terminable():
            finished: set[str] = set()
            if not again:
                cpu = None if remote else cpuinfo.model()
                finished = store.finished(("ok", "noisy"), cpu) if retry_errors else store.finished(cpu=cpu)
            tasks = pending(candidates, targets, finished, model, count)
            if remote:
                tasks = [replace(task, links=remote.links[task.target_name]) for task in tasks]
            if not as_json:
                _tell_known(candidates, targets, finished, into)
            with _listener(as_json=as_json) as listen:
                result = campaign.collect(tasks[:limit], store, settings, listen)
    except (StoreFull, campaign.CollectionStopped) as error:
        raise common.WorkFailed(str(error)) from error
    if not as_json:
        common.console().print(_summary(result, into))
    if result.interrupted:
        raise common.WorkFailed(
            f"stopped after {result.done} of {counted(result.total, 'row')}: the same command goes on there"
        )
    if result.done and result.errors == result.done:
        raise common.WorkFailed("not one pair could be measured: 'selector collect status' shows the errors")


def _targets(names: Sequence[str] | None) -> dict[str, TargetLike]:
    """Name in the dataset -> target.  Raises NotMeasurable, UnknownTarget, BadInput."""
    from selector.target import NotMeasurable, profile, why_not_here

    if not names:
        names = _X86_TARGETS if platform.machine() == "x86_64" else ("native",)
    targets: dict[str, TargetLike] = {}
    for name in names:
        target = common.resolve_target(name)
        wanted = profile(target)
        reason = why_not_here(wanted)
        if reason:
            raise NotMeasurable(
                f"kernels for '{wanted.name}' are timed by running them, but this machine {reason}: collect on another"
            )
        targets[wanted.name if name == "native" else name] = target
    return targets


def _candidates(
    networks: Sequence[Path],
    architectures: Path | None,
    samples: int | None,
    plan: int | None,
    seed: int,
    threads: Sequence[int],
) -> list[Candidate]:
    from selector import data
    from selector.collect import sources
    from selector.collect.architectures import load_architectures

    lists = [sources.from_networks(networks, threads)]
    if plan:
        published = load_architectures(architectures or data.folder("architectures"))
        lists.append(sources.default_plan(published, plan, seed, threads))
    elif architectures:
        lists.append(sources.from_architectures(load_architectures(architectures), seed, threads))
    if samples:
        lists.append(sources.from_samples(samples, seed, threads))
    return sources.combine(*lists)


def _tell_known(
    candidates: Sequence[Candidate], targets: dict[str, TargetLike], finished: Set[str], into: Path
) -> None:
    from selector.collect.record import measurement_key

    known = sum(measurement_key(item.workload, name) in finished for item in candidates for name in targets)
    if known:
        typer.echo(f"already in {into}: {known} of {counted(len(candidates) * len(targets), 'row')}", err=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _listener(*, as_json: bool) -> Iterator[Callable[[Event], None]]:
    """What shows the events of a run: JSON lines, a live bar, or a line a minute."""
    if as_json:
        yield lambda event: typer.echo(json.dumps(event.to_dict()))
    elif sys.stderr.isatty():
        with bars.Progress(
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.description}"),
            bars.TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=1,  # drawing takes time from a CPU on which kernels are timed
        ) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda event: bar.update(
                task, description=describe(event.progress), completed=event.progress.done, total=event.progress.total
            )
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS_BETWEEN_LINES
            progress = event.progress
            typer.echo(f"{progress.done}/{progress.total} rows, {describe(progress)}", err=True)


def describe(progress: Progress) -> str:
    """Rate, remaining time, what went wrong, and the share of pairs in which int8 is faster, by kind."""
    parts = [f"{progress.rows_per_minute:.0f} rows/min"]
    if progress.remaining_seconds is not None:
        parts.append(f"{progress.remaining_seconds / 60:.0f} min left")
    parts += [f"{progress.noisy} noisy", f"{counted(progress.errors, 'error')}"]
    shares = [f"{kind} {wins / pairs:.0%}" for kind, (wins, pairs) in sorted(progress.int8_wins.items())]
    return ", ".join(parts) + (f"; int8 faster: {', '.join(shares)}" if shares else "")


def _summary(progress: Progress, into: Path) -> str:
    text = (
        f"{counted(progress.done, 'row')} in {progress.seconds / 60:.1f} min ({progress.rows_per_minute:.1f} rows/min) "
    )
    text += f"into {into}: {progress.noisy} noisy, {counted(progress.errors, 'error')}"
    return text + (f", {progress.retries} timed again" if progress.retries else "")
