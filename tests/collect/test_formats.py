"""Formats and the canonical form: facts of real weights survive, differences that no kernel sees do not."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.collect.formats import FORMATS, Format, canonical, sides, with_format
from selector.collect.synthetic import synthesize
from selector.lowering import LOWERINGS, scheme
from selector.lowering.plan import plan
from selector.target import profile
from selector.weights import WeightFacts, weight_facts
from selector.workload import ConvConstants, ConvWorkload

GEOMETRIES = [
    ConvWorkload(1, 7, 7, 3, 16, 3, 3, stride=(2, 2), padding=(1, 1, 1, 1)),
    ConvWorkload(1, 4, 4, 40, 24, 1, 1),
    ConvWorkload(1, 4, 4, 8, 8, 3, 3, padding=(1, 1, 1, 1)),
    ConvWorkload(1, 9, 9, 20, 8, 3, 3, dilation=(2, 2)),
    ConvWorkload(1, 6, 6, 8, 8, 1, 3),
    ConvWorkload(1, 6, 6, 24, 24, 3, 3, groups=24),
    ConvWorkload(1, 6, 6, 24, 48, 5, 5, groups=24),
    ConvWorkload(1, 6, 6, 24, 24, 3, 3, groups=4),
    ConvWorkload(1, 1, 1, 2, 5, 1, 1),
]


def facts_of(work: ConvWorkload, constants: ConvConstants) -> WeightFacts:
    return weight_facts(
        constants.weight, constants.weight_zero_point, groups=work.groups, dilation_width=work.dilation[1]
    )


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda number_format: number_format.name)
@pytest.mark.parametrize("shape", GEOMETRIES, ids=ConvWorkload.describe)
def test_synthesized_weights_have_the_facts_of_the_workload(shape: ConvWorkload, number_format: Format) -> None:
    work = with_format(shape, number_format, "asymmetric")
    constants, data = synthesize(work)
    assert replace(work, **asdict(facts_of(work, constants))) == work
    assert constants.weight.dtype == work.weight_dtype
    assert data.dtype == work.data_dtype
    differs = len(set(constants.weight_zero_point.tolist())) > 1
    assert differs == (work.weight_zero_point is None)


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda number_format: number_format.name)
def test_formats_differ_in_their_limits(number_format: Format) -> None:
    shape = ConvWorkload(1, 4, 4, 64, 8, 3, 3)
    work = with_format(shape, number_format)
    others = [with_format(shape, other) for other in FORMATS if other != number_format]
    assert work not in others
    expected = {
        "full": number_format.dtypes.endswith("u8"),
        "trimmed": True,
        "asymmetric": True,
        "asymmetric trimmed": True,
    }
    assert work.term2 == expected.get(number_format.range, False)
    assert (work.pair_bound <= 128) == (number_format.range in ("7bit", "6bit"))
    assert (work.quad_bound <= 128) == (number_format.range == "6bit")


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(GEOMETRIES[:-1]),
    weight_dtype=st.sampled_from(["uint8", "int8"]),
    deviation=st.sampled_from([6, 20, 45, 100]),
    offset=st.integers(-12, 12),
    data_zero_point=st.integers(0, 127),
)
@settings(max_examples=60, deadline=None)
def test_canonical_keeps_every_side(
    seed: int, shape: ConvWorkload, weight_dtype: str, deviation: int, offset: int, data_zero_point: int
) -> None:
    rng = np.random.default_rng(seed)
    work = _described(rng, shape, weight_dtype, deviation, offset, data_zero_point)
    same = canonical(work)
    assert sides(same) == sides(work)
    assert canonical(same) == same
    constants, _ = synthesize(same)
    assert facts_of(same, constants) == WeightFacts(
        same.weight_bound, same.pair_bound, same.quad_bound, same.channel_bound, same.term2
    )
    for target in (profile("x86-64"), profile("x86-64-v3")):
        for lowering in LOWERINGS:
            assert plan(same, target, lowering) == plan(work, target, lowering)


def test_two_trained_networks_share_one_canonical_workload() -> None:
    shape = ConvWorkload(1, 14, 14, 64, 64, 3, 3)
    one, other = (
        _described(np.random.default_rng(seed), shape, "int8", 38, 0, zero_point)
        for seed, zero_point in ((0, 101), (1, 130))
    )
    assert one != other
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(("mean", "expected"), [(0.15, scheme.F4), (0.3, scheme.F42), (1.0, scheme.F2)])
def test_the_channel_bound_decides_the_winograd_scheme(mean: float, expected: scheme.Scheme) -> None:
    taps = 9 * 512
    work = ConvWorkload(1, 14, 14, 512, 16, 3, 3, padding=(1, 1, 1, 1), weight_bound=127, pair_bound=254)
    work = replace(work, channel_bound=round(mean * 127 * taps), term2=False)
    same = canonical(work)
    constants, _ = synthesize(same)
    assert scheme.schemes(same, scheme.output_bound(same, constants))[0] == expected
    assert facts_of(same, constants).channel_bound == same.channel_bound


def _described(
    rng: np.random.Generator,
    shape: ConvWorkload,
    weight_dtype: str,
    deviation: float,
    offset: int,
    data_zero_point: int,
) -> ConvWorkload:
    """The shape with normally distributed weights around a zero point, as a network would bring it."""
    limits = np.iinfo(weight_dtype)
    zero_point = (limits.min + limits.max + 1) // 2 + offset
    kernel = (shape.out_channels, shape.kernel_height, shape.kernel_width, shape.group_in_channels)
    weight = np.clip(np.rint(rng.normal(zero_point, deviation, kernel)), limits.min, limits.max).astype(weight_dtype)
    constants = ConvConstants(weight, np.full(len(weight), zero_point))
    work = replace(
        shape,
        weight_dtype=weight_dtype,
        out_dtype="uint8",
        data_zero_point=data_zero_point,
        weight_zero_point=zero_point,
    )
    return replace(work, **asdict(facts_of(work, constants)))
