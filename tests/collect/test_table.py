"""Records and their columns: nothing is lost on the way to Arrow and back."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.collect.record import SCHEMA_VERSION, Host, Measurement, Samples
from selector.collect.row import from_row, to_row
from selector.collect.table import SCHEMA, from_table, rows_to_table, to_table, workload
from selector.workload import ConvWorkload
from tests.collect.rows import failed, measured

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FLOATS = st.floats(allow_nan=False)
TIMES = st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(tuple)
COUNTS = st.integers(1, 1 << 40)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))

SAMPLES = st.builds(Samples, TEXT, TEXT, COUNTS, TIMES, TIMES)
WORKLOADS = st.builds(
    ConvWorkload,
    *[st.integers(8, 512)] * 5,
    *[st.just(1)] * 2,
    stride=PAIRS,
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=PAIRS,
    weight_zero_point=st.none() | st.integers(-128, 255),
    term2=st.booleans(),
    threads=COUNTS,
)
MEASUREMENTS = st.builds(
    Measurement,
    WORKLOADS,
    target=TEXT,
    status=st.sampled_from(["ok", "noisy", "error"]),
    host=st.builds(Host, *[TEXT] * 2, COUNTS, *[TEXT] * 3, COUNTS, TEXT, st.booleans()),
    networks=st.lists(TEXT, max_size=2).map(tuple),
    int8=st.none() | SAMPLES,
    int16=st.none() | SAMPLES,
    log2_ratio=st.none() | FLOATS,
    reference_us=st.tuples(FLOATS, FLOATS),
    timestamp=FLOATS,
    id=TEXT,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(MEASUREMENTS, max_size=3))
def test_round_trip(rows: list[Measurement]) -> None:
    table = to_table(rows)
    assert table.schema == SCHEMA
    assert from_table(table) == rows
    flat = json.loads(json.dumps([to_row(row) for row in rows]))
    assert rows_to_table(flat) == table
    assert list(map(from_row, flat)) == rows


def test_timings_become_float32() -> None:
    samples = Samples("kernel", "code", 1, (0.1,), (0.3,))
    (row,) = from_table(to_table([measured(int8=samples)]))
    assert row.int8 == Samples("kernel", "code", 1, (float(np.float32(0.1)),), (float(np.float32(0.3)),))


def test_columns() -> None:
    row = to_row(measured(log2_ratio=1.0))
    expected = {
        "schema_version": SCHEMA_VERSION,
        "kind": "dense",
        "key": measured().key,
        "in_channels": 16,
        "padding": (1, 1, 1, 1),
        "cpu": "a cpu",
        "int8_kernel": "qconv2d_dense_int8__direct",
        "int16_warm_us": (16.0, 16.0, 16.0),
        "reference_before_us": 5.0,
        "reference_after_us": 5.25,
    }
    assert {name: row[name] for name in expected} == expected
    assert list(row) == SCHEMA.names
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    assert SCHEMA.field("int16_warm_us").type == pa.list_(pa.float32())
    assert SCHEMA.field("stride").type == pa.list_(pa.int64(), 2)
    assert {field.name for field in SCHEMA if field.nullable} == {
        "weight_zero_point",
        *(f"{lowering}_{name}" for lowering in ("int8", "int16") for name in Samples.__dataclass_fields__),
        *("log2_ratio", "log2_low", "log2_high", "cold_log2_ratio"),
    }


def test_workload_of_a_row() -> None:
    for row in (measured(channels=32), failed(channels=48)):
        assert workload(to_row(row)) == row.workload
