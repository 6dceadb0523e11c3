"""The example server, as a process: many requests at once get the answers that one after the other get."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from selector.tensors import random_inputs
from tests.examples.conftest import EXAMPLES

REQUESTS = 200
CLIENTS = 8
DIFFERENT = 20  # inputs; many times as many requests catch answers that get mixed up
SECONDS = 60  # a server that hangs fails the test

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")), reason="no fastapi and uvicorn here"
)


@contextmanager
def serving(library: Path, *command: str, folder: Path) -> Iterator[int]:
    """A server, and the port it answers on; ``{fd}`` in ``command`` becomes the socket it is to use.

    The socket listens before there is a server, which finds the first requests waiting: nobody has to look for a free
    port, or to ask again and again whether it is there yet.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "SELECTOR_LIBRARY": str(library),
        "HOME": str(folder),  # gunicorn writes there
    }
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listening:
        number = listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", *(part.format(fd=number) for part in command)], env=environment, pass_fds=[number]
        )
        port = listening.getsockname()[1]
    try:
        yield port
    finally:
        server.terminate()
        try:
            assert server.wait(SECONDS) in (0, -15)  # uvicorn ends itself by the signal once all is shut down
        finally:
            server.kill()


@pytest.fixture(scope="module")
def uvicorn(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with serving(library[0], *_UVICORN, folder=folder) as port:
        yield port


_UVICORN = ("uvicorn", "--app-dir", str(EXAMPLES / "server"), "server:app", "--fd", "{fd}", "--log-level", "warning")
_GUNICORN = ("gunicorn", "--pythonpath", str(EXAMPLES / "server"), "server:app", "--bind", "fd://{fd}")
_FORKED = ("--preload", "--workers", "2", "--worker-class", "asgi")


def post(port: int, body: bytes, path: str = "/run", kind: str = "application/x-npy") -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


def npy(*arrays: np.ndarray) -> bytes:
    """Arrays one after the other."""
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def all_answers_right(port, compiled):
    feeds = [random_inputs(compiled.inputs, seed) for seed in range(DIFFERENT)]
    answers = [(200, npy(*compiled.run(*feed))) for feed in feeds]
    assert len({body for _, body in answers}) == DIFFERENT
    with ThreadPoolExecutor(CLIENTS) as clients:
        got = list(clients.map(lambda i: post(port, npy(*feeds[i % DIFFERENT])), range(REQUESTS)))
    assert got == [answers[i % DIFFERENT] for i in range(REQUESTS)]


def test_many_requests_at_once(uvicorn, library):
    all_answers_right(uvicorn, library[1])


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="no gunicorn here")
def test_workers_forked_after_loading(library, tmp_path):
    pytest.importorskip("gunicorn.workers.gasgi", reason="gunicorn here has no ASGI worker")
    with serving(library[0], *_GUNICORN, *_FORKED, folder=tmp_path) as port:
        all_answers_right(port, library[1])


def test_json(uvicorn, library):
    compiled = library[1]
    feed = random_inputs(compiled.inputs)
    status, body = post_json(uvicorn, [array.tolist() for array in feed])
    assert status == 200
    for got, want in zip(body["outputs"], compiled.run(*feed), strict=True):
        np.testing.assert_array_equal(np.array(got, want.dtype), want)


def test_several_inputs_and_outputs(two_of_each, tmp_path):
    path, compiled = two_of_each
    feed = random_inputs(compiled.inputs)
    results = compiled.run(*feed)
    with serving(path, *_UVICORN, folder=tmp_path) as port:
        assert post(port, npy(*feed)) == (200, npy(*results))
        lists = [array.tolist() for array in feed]
        assert post_json(port, lists) == (200, {"outputs": [array.tolist() for array in results]})
        lists[0][0][0][0][0] = 256
        assert post_json(port, lists) == (422, {"detail": "some of the numbers are no uint8"})


def test_inputs_are_described(uvicorn):
    connection = HTTPConnection("127.0.0.1", uvicorn, timeout=SECONDS)
    connection.request("GET", "/")
    described = json.loads(connection.getresponse().read())
    connection.close()
    assert described == {"variants": [[{"name": "x", "shape": [1, 3, 16, 16], "dtype": "float32"}]]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the model takes 1 input, got 0"),
        (b"nonsense", "the magic string is not correct"),
        (npy(np.zeros(3, "float32"))[:-1], "EOF"),
        (npy(np.zeros((1, 3, 16, 16), "uint8")), "input 'x' is float32"),
        (npy(np.zeros((1, 3, 16, 15), "float32")), "input 'x' is float32"),
    ],
)
def test_refused(uvicorn, body, message):
    status, answer = post(uvicorn, body)
    assert status == 422
    assert message in json.loads(answer)["detail"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "the model takes 1 input, got 0"),
        ([["a"]], "numbers are needed"),
        ([[1, [2]]], "inhomogeneous"),
        ([[1, 2]], "input 'x' is float32"),
    ],
)
def test_json_refused(uvicorn, inputs, message):
    status, answer = post_json(uvicorn, inputs)
    assert status == 422
    assert message in answer["detail"]


def post_json(port, inputs):
    status, body = post(port, json.dumps({"inputs": inputs}).encode(), "/run.json", "application/json")
    return status, json.loads(body)
