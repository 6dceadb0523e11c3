"""A pool of what one call at a time uses, for any number of threads, through forks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing")


class Pool(Generic[Thing]):
    """Things that are made when needed, at most ``limit`` of them.  Who finds none waits for one.

    A fork waits until all are back, so that none is lost in the child.
    """

    def __init__(self, make: Callable[[], Thing], limit: int) -> None:
        self.limit = limit
        self._make = make
        self._idle: list[Thing] = []
        self.renew()
        _pools.add(self)

    def renew(self) -> None:
        """Locks that nobody holds; only while nobody borrows."""
        self._gate = threading.Lock()  # whoever waits for a permit holds it, so that a fork's turn comes
        self._permits = threading.Semaphore(self.limit)
        self._making = threading.Lock()

    @contextmanager
    def borrow(self) -> Iterator[Thing]:
        """One thing for the block; the one that was used last, whose memory is warm."""
        with self._gate:
            self._permits.acquire()
        try:
            thing = self._taken()
            try:
                yield thing
            finally:
                self._idle.append(thing)
        finally:
            self._permits.release()

    def _taken(self) -> Thing:
        try:
            return self._idle.pop()
        except IndexError:
            with self._making:
                return self._make()

    def close(self) -> None:
        """Wait until all things are back, and lend none."""
        self._gate.acquire()
        for _ in range(self.limit):
            self._permits.acquire()

    def open(self) -> None:
        """Lend again."""
        self._permits.release(self.limit)
        self._gate.release()


_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
_forking = threading.Lock()  # one fork at a time
_closed: list[Pool[Any]] = []  # while there is one


def _before_fork() -> None:
    _forking.acquire()
    _closed.extend(_pools)
    for pool in _closed:
        pool.close()


def _after_fork_in_parent() -> None:
    for pool in _closed:
        pool.open()
    _closed.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    for pool in _closed:
        pool.renew()
    _closed.clear()
    _forking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
