"""Networks that are called from several threads and processes, and by name."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import selector
from selector import network as networks
from selector import runtime
from selector.pool import Pool
from tests.models import qdq_conv_model, random_inputs

_MODEL = qdq_conv_model()


@pytest.fixture(scope="module", params=[1, 2])
def library(request, tmp_path_factory):
    """A library for one thread, and one for two."""
    path = tmp_path_factory.mktemp(f"threads{request.param}") / "net.so"
    selector.compile(_MODEL, policy="int8", threads=request.param).save(path)
    return path


def feeds(count):
    return [random_inputs(_MODEL, seed)["x"] for seed in range(count)]


@pytest.mark.parametrize("concurrency", [None, 1, 3])
def test_calls_from_many_threads_give_what_one_gives(library, concurrency):
    network = runtime.load(library, concurrency=concurrency)
    data = feeds(5)
    wanted = [network.run(x)[0] for x in data]
    wrong = []

    def work(first):
        for index in range(40):
            place = (first + index) % len(data)
            if not np.array_equal(network.run(data[place])[0], wanted[place]):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("short", [0, 1e9])
def test_calls_that_keep_the_lock_of_python_and_calls_that_do_not(library, monkeypatch, short):
    monkeypatch.setattr(networks, "SHORT", short)
    network = runtime.load(library, concurrency=2)
    data = feeds(3)
    wanted = [network.run(x)[0] for x in data]
    found = {}
    workers = [threading.Thread(target=lambda i=i: found.update({i: network.run(data[i])[0]})) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(found[index], wanted[index]) for index in range(3))


def test_a_compiled_model_may_be_called_from_threads_too():
    compiled = selector.compile(_MODEL, policy="int16", threads=2, concurrency=2)
    (x,) = feeds(1)
    (wanted,) = compiled.run(x)
    found = []
    workers = [threading.Thread(target=lambda: found.append(compiled.run(x)[0])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert all(np.array_equal(one, wanted) for one in found)


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_that_is_none(library, concurrency):
    with pytest.raises(ValueError, match=f"concurrency must be at least 1, got {concurrency}"):
        runtime.load(library, concurrency=concurrency)


_FORKS = """
import multiprocessing, os, sys, threading
import numpy as np
from selector import runtime
network, x = runtime.load(sys.argv[1]), np.load(sys.argv[2])
if sys.argv[3] == "before":
    wanted = network.run(x)[0]
else:
    wanted = np.load(sys.argv[4])

def same(_=None):
    return np.array_equal(network.run(x)[0], wanted)

stop = threading.Event()
def busy():
    while not stop.is_set():
        network.run(x)
beside = threading.Thread(target=busy)
if sys.argv[3] == "before":
    beside.start()
child = os.fork()
if child == 0:
    grandchild = os.fork() if same() else None
    if grandchild is None:
        os._exit(1)
    if grandchild == 0:
        os._exit(0 if same() else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
stop.set()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with multiprocessing.get_context("fork").Pool(4) as pool:
    assert all(pool.map(same, range(12)))
assert same()
print("done")
"""


@pytest.mark.parametrize("first_run", ["before", "after"])
def test_forks(library, tmp_path, first_run):
    """Of a process that has run the network, with a thread still running it; and of one that has not."""
    (x,) = feeds(1)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", selector.compile(_MODEL, policy="int8", threads=1).run(x)[0])
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, str(library), str(tmp_path / "x.npy"), first_run]
    done = subprocess.run([*command, str(tmp_path / "y.npy")], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_a_pool_makes_what_it_needs_and_no_more():
    made = []
    pool = Pool(lambda: made.append(None) or len(made), 2)
    with pool.borrow() as first:
        with pool.borrow() as second:
            assert (first, second) == (1, 2)
            waiting = threading.Thread(target=lambda: pool.borrow().__enter__())
            waiting.start()
            waiting.join(0.05)
            assert waiting.is_alive()
        waiting.join(10)
        assert not waiting.is_alive()
    assert len(made) == 2


def test_inputs_and_outputs_by_name(library):
    network = runtime.load(library)
    (x,) = feeds(1)
    (wanted,) = network.run(x)
    (spec,) = network.outputs
    assert (spec.shape, spec.dtype) == (wanted.shape, str(wanted.dtype))
    assert spec.name == _MODEL.graph.output[0].name
    for found in (network.run_named({"x": x}), network.run_named(x=x)):
        np.testing.assert_array_equal(found[spec.name], wanted)
    with pytest.raises(ValueError, match="has no input 'y'; its inputs are x"):
        network.run_named(x=x, y=x)
    with pytest.raises(ValueError, match="needs the input 'x' too; its inputs are x"):
        network.run_named()
    with pytest.raises(ValueError, match="input 'x' is masked"):
        network.run(np.ma.masked_array(x, mask=False))
