"""Where the workloads to collect come from: networks, published architectures, and random sampling."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from selector.collect.architectures import Architecture
from selector.collect.formats import Format, canonical, draw_format, with_format
from selector.collect.sampling import MAX_MACS, MAX_WEIGHTS, sample
from selector.workload import ConvWorkload

_LEAST_SAMPLED = 0.3  # share of the default plan that is drawn at random


@dataclass(frozen=True, slots=True)
class Candidate:
    """A workload that might be measured."""

    workload: ConvWorkload
    networks: tuple[str, ...] = ()  # the networks it occurs in, in alphabetical order; empty: drawn at random


def from_networks(paths: Iterable[Path], threads: Sequence[int] = (1,)) -> list[Candidate]:
    """Every distinct quantized convolution of 8-bit data in network files; a network is named after its file.

    Raises ModelError for a file that cannot be loaded.
    """
    from selector.graph.compile import extract_workloads

    found = [
        Candidate(canonical(workload), (path.stem,))
        for path in paths
        for workload in extract_workloads(str(path), threads=1)
        if not workload.has_16bit_data  # which leaves nothing to choose
    ]
    return _threaded(combine(found), threads)


def from_architectures(
    architectures: Iterable[Architecture], seed: int, threads: Sequence[int] = (1,), formats_per_layer: float = 1
) -> list[Candidate]:
    """Every distinct layer in a format: one format an architecture, as a quantizer would give.

    ``formats_per_layer``: 1.5 gives half of the layers a second format, drawn for each.  What an architecture gets
    depends on its name and the seed alone.  Layers too large to measure quickly are left out.
    """
    found = []
    for architecture in architectures:
        rng = np.random.default_rng([seed, zlib.crc32(architecture.name.encode())])
        common = draw_format(rng)
        symmetric = rng.random() < 0.3  # the activations' quantizer
        for number, layer in enumerate(architecture.layers):
            shape = layer.workload()
            extra = int(formats_per_layer - 1 + rng.random())
            formats = [common, *(draw_format(rng) for _ in range(extra))]
            is_last = number == len(architecture.layers) - 1
            for number_format in formats:
                workload = _in_network(rng, shape, number_format, symmetric, is_last=is_last)
                if workload.macs() <= MAX_MACS and workload.weight_bytes() <= MAX_WEIGHTS:
                    found.append(Candidate(workload, (architecture.name,)))
    return _threaded(combine(found), threads)


def from_samples(count: int, seed: int, threads: Sequence[int] = (1,)) -> list[Candidate]:
    """``count`` random convolutions, each for every thread count."""
    return [Candidate(workload) for workload in sample(count, seed, threads=threads)]


def combine(*lists: Iterable[Candidate]) -> list[Candidate]:
    """All candidates in the order of their first occurrence; equal workloads become one with all network names."""
    networks: dict[ConvWorkload, set[str]] = {}
    for candidates in lists:
        for candidate in candidates:
            networks.setdefault(candidate.workload, set()).update(candidate.networks)
    return [Candidate(workload, tuple(sorted(names))) for workload, names in networks.items()]


def default_plan(
    architectures: Sequence[Architecture], count: int = 1600, seed: int = 0, threads: Sequence[int] = (1, 2)
) -> list[Candidate]:
    """``count`` distinct convolutions, each for every thread count (next to each other).

    At least half come from the architectures if these have that many, at least three in ten are random; every prefix
    has about the same mix of origins and kinds.
    """
    published = from_architectures(architectures, seed)
    if len(published) < count / 2:
        published = from_architectures(architectures, seed, formats_per_layer=1 + count / 2 / max(len(published), 1))
    published = shuffled(published, seed)[: round(count * (1 - _LEAST_SAMPLED))]
    plan = published
    wanted = count
    while len(plan) < count:  # again only if a sample happens to be a layer
        plan = combine(published, from_samples(wanted - len(published), seed))
        wanted += count - len(plan)
    return _threaded(shuffled(plan, seed), threads)


def shuffled(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """A random order in which every prefix has about the same mix of origins (network or random) and kinds."""
    rng = np.random.default_rng(seed)
    strata: dict[tuple[bool, str], list[Candidate]] = {}
    for candidate in candidates:
        strata.setdefault((bool(candidate.networks), candidate.workload.kind), []).append(candidate)
    placed: list[tuple[float, Candidate]] = []
    for stratum in strata.values():
        offset = rng.random()
        order = rng.permutation(len(stratum))
        placed += [((place + offset) / len(stratum), stratum[index]) for place, index in enumerate(order)]
    return [candidate for _, candidate in sorted(placed, key=lambda item: item[0])]


def _threaded(candidates: Iterable[Candidate], threads: Sequence[int]) -> list[Candidate]:
    def copies() -> Iterator[Candidate]:
        for candidate in candidates:
            for number in threads:
                yield replace(candidate, workload=replace(candidate.workload, threads=number))

    return list(copies())


def _in_network(
    rng: np.random.Generator, shape: ConvWorkload, number_format: Format, symmetric: bool, *, is_last: bool
) -> ConvWorkload:
    """A layer of a network in a format: data mostly after a ReLU, the last layer's output mostly float32."""
    after_relu = shape.in_channels > 4 and rng.random() < 0.7
    workload = with_format(shape, number_format, "relu" if after_relu else "symmetric" if symmetric else "asymmetric")
    if is_last and rng.random() < 0.5:
        return replace(workload, out_dtype="float32")
    return workload
