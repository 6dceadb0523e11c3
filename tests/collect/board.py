"""An emulated Arm board: TVM's RPC server, whose sessions are TVM's runtime for AArch64 under QEMU's user emulation.

Everything between a collection and a board is what it is with a real one; only what runs kernels is emulated.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm.rpc.server

from selector.collect.serve import prepare_server
from tests.graph import emulated

_SESSION = Path(__file__).parent / "aarch64" / "serve_session.cc"


def prepare_board(cpu: str) -> Callable[[], None]:
    """What the process of a board's server does first; ``cpu`` as LLVM names it.  Raises ``emulated.Unavailable``."""
    command = [*emulated.emulator(cpu), str(emulated.build(_SESSION))]

    def prepare() -> None:  # a closure, which is sent by value: the server's process may not find this module
        prepare_server()
        tvm.rpc.server._serve_loop = emulate

    def emulate(client: socket.socket, _libraries: Sequence[str], folder: Any) -> None:
        os.set_inheritable(client.fileno(), True)
        os.execvp(command[0], [*command, str(client.fileno()), folder.path])

    return prepare
