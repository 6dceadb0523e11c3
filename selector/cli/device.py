"""``selector device serve | tracker | list``: the machines that kernels are timed on over TVM's RPC."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from selector.cli import common
from selector.wording import counted

if TYPE_CHECKING:
    from selector.collect.link import Link
    from selector.collect.rpc import Inspected
    from selector.target import TargetLike, TargetProfile

Host = Annotated[
    str,
    typer.Option(
        help="Interface to listen on, such as 0.0.0.0 for all. Whoever reaches it can run code here as you; "
        "127.0.0.1 is reached from this machine alone."
    ),
]

_PACKAGES = ("cloudpickle", "psutil", "tornado")  # of TVM's RPC
_HERE = "127.0.0.1"


@common.command
def serve(
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Register at this RPC tracker.", show_default="none")
    ] = None,
    key: Annotated[str, typer.Option(help="Name that devices of this kind share, e.g. pi4.")] = "",
    emulated: Annotated[
        bool, typer.Option("--emulated", help="This is an emulator: mark its rows, which never enter training.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9090,
    host: Host = _HERE,
    address: Annotated[
        str | None,
        typer.Option(help="Address at which clients reach this machine.", show_default="what the tracker sees"),
    ] = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Let `selector collect --rpc` time kernels here; restarts the server when a kernel kills it, until Ctrl-C."""
    where = None if tracker is None else parse_address(tracker, "--tracker")
    check_key(key)
    if where is not None and not key:
        raise common.BadInput("--tracker needs --key, the name that devices of this kind share")
    if where is not None and address is None and _is_here(host) and not _is_here(where[0]):
        raise common.BadInput(
            f"clients of the tracker {tracker} cannot reach {host}: give --host, an interface of this machine in a "
            "network that you trust"
        )
    common.require("serving a device", *_PACKAGES)
    _warn_of(host)
    from selector.collect.link import EMULATED
    from selector.collect.serve import CannotServe, Served, supervise

    if emulated:
        key = key.removesuffix(EMULATED) + EMULATED
    served = Served(host, port, key, where, address)
    try:
        with _until_terminated():
            supervise(served, _logger(as_json=as_json))
    except CannotServe as error:
        raise common.WorkFailed(str(error)) from error


@common.command
def tracker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9190,
    host: Host = _HERE,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Run an RPC tracker, which lends the devices that register with it to collections, until Ctrl-C."""
    common.require("a tracker", *_PACKAGES)
    _warn_of(host)
    from tvm.rpc.tracker import Tracker

    from selector.collect.serve import CannotServe, check_port

    try:
        check_port(host, port)
    except CannotServe as error:
        raise common.WorkFailed(str(error)) from error
    with _until_terminated():
        running = Tracker(host, port, port + 1, silent=True)
        try:
            _logger(as_json=as_json)(f"tracking at {host}:{port}")
            running.proc.join()
            raise common.WorkFailed(f"the tracker at {host}:{port} has died")
        finally:
            running.proc.kill()


@common.command
def list_devices(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="RPC tracker to ask.")],
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Show the devices of a tracker and how many are free."""
    where = parse_address(tracker, "--tracker")
    from selector.collect.link import NoDevice, tracked

    try:
        devices, loads = tracked(*where)
    except NoDevice as error:
        raise common.WorkFailed(str(error)) from error
    if as_json:
        common.print_json({"devices": [asdict(item) for item in devices], "keys": [asdict(item) for item in loads]})
        return
    table = Table("key", "devices", "free", "waiting", "addresses")
    for load in loads:
        addresses = ", ".join(device.address for device in devices if device.key == load.key)
        table.add_row(load.key, str(load.devices), str(load.free), str(load.pending), addresses)
    if loads:
        common.console().print(table)
    typer.echo(f"{counted(len(devices), 'device')} at {tracker}")


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.  Raises BadInput."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise common.BadInput(f"{option} takes HOST:PORT, such as 192.168.1.20:9190, got '{text}'")
    return host.strip("[]"), int(port)


def check_key(key: str) -> None:
    """Raises BadInput for what TVM's RPC cannot take as the key of a device."""
    if any(character.isspace() or character == ":" for character in key):
        raise common.BadInput(f"the key of a device has neither blanks nor colons, got '{key}'")


def parse_links(
    tracker: str | None, server: str | None, keys: Sequence[str] | None, linker: str | None
) -> tuple[Link, ...]:
    """The devices that the options of ``selector collect`` name; none: this machine.  Raises BadInput."""
    if tracker is None and server is None:
        if keys or linker:
            raise common.BadInput("--key and --linker are for devices: give their tracker, --rpc, or --rpc-server")
        return ()
    from selector.collect.link import Link

    if tracker is not None and server is not None:
        raise common.BadInput("give --rpc, the address of a tracker, or --rpc-server, that of one server, not both")
    if tracker is not None and not keys:
        raise common.BadInput("--rpc needs --key: 'selector device list' shows the keys of a tracker")
    if server is not None and len(keys or ()) > 1:
        raise common.BadInput("--rpc-server is one device with one --key; several are for a tracker, --rpc")
    for key in keys or ():
        check_key(key)
    option, address = ("--rpc-server", server) if tracker is None else ("--rpc", tracker)
    host, port = parse_address(address or "", option)
    return tuple(Link(host, port, key, tracker is not None, linker=linker) for key in dict.fromkeys(keys or [""]))


@dataclass(frozen=True, slots=True)
class RemoteTargets:
    """What is to be collected on which devices."""

    targets: dict[str, TargetLike]  # name in the dataset -> target
    links: dict[str, tuple[Link, ...]]  # name in the dataset -> the devices that can run its kernels
    threads: int  # that a kernel can run on, on every device
    devices: int


def remote_targets(links: Sequence[Link], names: Sequence[str] | None) -> RemoteTargets:
    """Targets by name (None and "native": the devices' own), and the devices that can run them.

    Raises WorkFailed, NotMeasurable where a target has no device or a device no target, LinkerNotFound, UnknownTarget,
    BadInput.
    """
    from selector.collect import link as link_errors
    from selector.collect import rpc
    from selector.cross import LinkFailed, find_linker
    from selector.target import NotMeasurable, profile

    targets: dict[str, TargetLike] = {}
    able: dict[str, tuple[Link, ...]] = {}
    try:
        found = {link: rpc.inspect(link) for link in links}
        for name in names or ("native",):
            if name == "native":
                targets |= {profile(target).name: target for target in map(_own_target, found.items())}
            else:
                targets[name] = common.resolve_target(name)
        for name, target in targets.items():
            wanted = profile(target)
            find_linker(target, links[0].linker)
            reasons = {link: _why_not(link, device, wanted) for link, device in found.items()}
            able[name] = tuple(link for link, reason in reasons.items() if not reason)
            if not able[name]:
                where = "; nor on ".join(f"the device {link}, which {reason}" for link, reason in reasons.items())
                raise NotMeasurable(f"kernels for '{wanted.name}' cannot run on {where}")
    except (link_errors.NoDevice, link_errors.DeviceLost, TimeoutError, LinkFailed) as error:
        raise common.WorkFailed(str(error)) from error
    for link in links:
        if not any(link in some for some in able.values()):
            raise NotMeasurable(f"the device {link} has nothing to do: it runs no kernels for {', '.join(targets)}")
    threads = min(device.threads for device in found.values())
    return RemoteTargets(targets, able, threads, sum(device.devices for device in found.values()))


def _own_target(found: tuple[Link, Inspected]) -> TargetLike:
    link, device = found
    if device.target is None:
        raise common.BadInput(f"the device {link} does not tell its CPU: give --target")
    return device.target


def _why_not(link: Link, device: Inspected, wanted: TargetProfile) -> str:
    """Why a device cannot run kernels for a target; empty: it can."""
    from selector.collect import rpc
    from selector.target import profile, why_not_on

    if device.target is None:
        return rpc.why_not_run(link, wanted)
    return why_not_on(profile(device.target), wanted)


def _is_here(host: str) -> bool:
    """Whether an interface, or the address of a machine, is reached from this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _warn_of(host: str) -> None:
    if not _is_here(host):
        typer.echo(f"warning: whoever reaches this machine at {host or '0.0.0.0'} can run code here as you", err=True)


@contextmanager
def _until_terminated() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, and are what it is expected to end with."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _logger(*, as_json: bool) -> Callable[[str], None]:
    """Lines on standard error, or JSON objects on standard output."""
    if as_json:
        return lambda text: print(json.dumps({"event": text}), flush=True)
    return lambda text: typer.echo(text, err=True)
