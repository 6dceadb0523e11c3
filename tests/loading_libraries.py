"""Loads each library whose path it reads, in a process of its own, and prints what came of it: a line of JSON.

The processes are forked before anything of TVM runs, so that one that dies of a library costs nothing but itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from selector import runtime

SECONDS = 60  # after which a process that hangs is ended, which the parent then reports


def attempt(path: str) -> str:
    """ "loaded", or the name of the error and its message."""
    try:
        runtime.load(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


def main() -> None:
    for line in sys.stdin:
        started = time.monotonic()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            os.write(writing, attempt(line.rstrip("\n")).encode()[:4000])
            os._exit(0)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            text = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        print(json.dumps({"outcome": text, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
