"""``selector device serve | tracker | list``: the machines that kernels are timed on over TVM's RPC."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from selector.cli import common

if TYPE_CHECKING:
    from selector.collect.link import Link
    from selector.collect.rpc import Inspected
    from selector.target import TargetLike

Host = Annotated[str, typer.Option(help="Interface to listen on. Whoever reaches it can run code as you.")]


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
    host: Host = "0.0.0.0",
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
    host: Host = "0.0.0.0",
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> None:
    """Run an RPC tracker, which lends the devices that register with it to collections, until Ctrl-C."""
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
    typer.echo(f"{len(devices)} devices at {tracker}")


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


def parse_link(tracker: str | None, server: str | None, key: str, linker: str | None) -> Link | None:
    """The devices that the options of ``selector collect`` name; None: this machine.  Raises BadInput."""
    if tracker is None and server is None:
        if key or linker:
            raise common.BadInput("--key and --linker are for devices: give their tracker, --rpc, or --rpc-server")
        return None
    from selector.collect.link import Link

    check_key(key)
    if tracker is None or server is None:
        if tracker is not None and not key:
            raise common.BadInput("--rpc needs --key: 'selector device list' shows the keys of a tracker")
        option, address = ("--rpc-server", server) if tracker is None else ("--rpc", tracker)
        return Link(*parse_address(address or "", option), key, tracker=tracker is not None, linker=linker)
    raise common.BadInput("give --rpc, the address of a tracker, or --rpc-server, that of one server, not both")


def remote_targets(link: Link, names: Sequence[str] | None) -> tuple[dict[str, TargetLike], Inspected]:
    """Name in the dataset -> target (None and "native": the device's own), and what is known of the devices.

    Raises WorkFailed, NotMeasurable, LinkerNotFound, UnknownTarget, BadInput.
    """
    from selector.collect import link as links
    from selector.collect import rpc
    from selector.cross import find_linker
    from selector.target import NotMeasurable, profile, why_not_on

    try:
        found = rpc.inspect(link)
    except (links.NoDevice, links.DeviceLost, TimeoutError) as error:
        raise common.WorkFailed(str(error)) from error
    targets: dict[str, TargetLike] = {}
    for name in names or ("native",):
        target = found.target if name == "native" else common.resolve_target(name)
        if target is None:
            raise common.BadInput(f"the device {link} does not tell its CPU: give --target")
        wanted = profile(target)
        reason = "" if found.target is None else why_not_on(profile(found.target), wanted)
        if reason:
            raise NotMeasurable(f"kernels for '{wanted.name}' cannot run on the device {link}, which {reason}")
        find_linker(target, link.linker)
        targets[wanted.name if name == "native" else name] = target
    return targets, found


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
