"""Whole networks cross-compiled for AArch64 and run there on TVM's runtime give what they give here, bit for bit.

AArch64 is emulated.  ``SELECTOR_EMULATED_NETWORKS=all`` adds every network of the repository, which takes minutes.
"""

import functools
import os
from pathlib import Path

import numpy as np
import pytest

import selector
from selector.cross import LinkerNotFound, find_linker
from selector.tensors import random_inputs
from tests.graph import emulated
from tests.models import qdq_block_model

NETWORKS = Path(__file__).parents[2] / "datasets" / "networks"
SMALLEST = "shufflenet_v2_x0_5.u8u8"
CPUS = ("cortex-a72", "neoverse-n1")  # without and with 8-bit dot products
ALL = os.environ.get("SELECTOR_EMULATED_NETWORKS") == "all"


@functools.cache
def here(name):
    """Inputs of a network, and its outputs on this machine; both lowerings give the same."""
    compiled = selector.compile(module(name), policy="int8", threads=2)
    feed = random_inputs(compiled.inputs, seed=7)
    return feed, compiled.run(*feed)


@functools.cache
def module(name):
    return selector.load(qdq_block_model() if name == "block" else NETWORKS / f"{name}.onnx")


def check(name, cpu, policy, folder):
    try:
        find_linker(cpu)
        emulated.runner()
    except (LinkerNotFound, emulated.Unavailable) as error:
        pytest.skip(str(error))
    feed, expected = here(name)
    library = folder / "net.so"
    selector.compile(module(name), target=cpu, policy=policy, threads=2).save(library)
    actual = emulated.run(library, feed, cpu)
    assert len(actual) == len(expected)
    for mine, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(mine, wanted, strict=True)
        assert np.ptp(wanted) > 0


@pytest.mark.parametrize("policy", ["int8", "int16"])
@pytest.mark.parametrize("cpu", CPUS)
def test_block(cpu, policy, tmp_path):
    check("block", cpu, policy, tmp_path)


@pytest.mark.skipif(ALL, reason="one of those below")
def test_smallest_network(tmp_path):
    check(SMALLEST, "cortex-a72", "int16", tmp_path)


@pytest.mark.skipif(not ALL, reason="takes minutes: set SELECTOR_EMULATED_NETWORKS=all")
@pytest.mark.parametrize("policy", ["int8", "int16", "roofline"])
@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", sorted(path.stem for path in NETWORKS.glob("*.onnx")))
def test_network(name, cpu, policy, tmp_path):
    check(name, cpu, policy, tmp_path)
