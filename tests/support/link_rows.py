"""Random spans over tiny key domains, so that keys collide, tie and loop."""

import hashlib
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bridge.linker import LinkOptions
from bridge.spans import Direction, Encoding, Kind, SpanColumns

Row = dict[str, int]

MS = 1_000_000
NOON = 1_700_000_000_000 * MS
"""Starts are few steps of 20 ms around this one, so that `clock_slack` (50 ms) matters, and some a few ns beside."""

_TIMES = [0, *(NOON + 20 * MS * k for k in range(8)), NOON + 1, NOON + 100]
_KTIMES = [0, *(1000 + 10 * k for k in range(6))]
_LENGTHS = [-1, 0, 10, 30, 20 * MS, 60 * MS]
_TRACES = [(0, 0), (0, 0), (0, 0), (0, 7), (5, 7), (5, 8)]
_IDS = range(101, 113)
_SIDES = [
    (Kind.ENTRY, Direction.INCOMING),
    (Kind.EXIT, Direction.OUTGOING),
    (Kind.ENTRY, Direction.OUTGOING),
    (Kind.EXIT, Direction.INCOMING),
    (Kind.UNKNOWN, Direction.UNKNOWN),
    (Kind.UNKNOWN, Direction.INCOMING),
]


def espan(random: Random) -> dict[str, Any]:
    """What one eSpan says."""
    one = random.choice
    kind, direction = random.choices(_SIDES, [8, 8, 1, 1, 1, 1])[0]
    return {
        "kind": kind,
        "direction": direction,
        "net": one([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2)]),
        "thread_trace_id": one([0, 0, 1, 2, 3]),
        "pid": one([0, 1, 1, 2]),
        "tid": one([0, 1, 2]),
        "tid_usr": one([0, 0, 1]),
        "ktime": one(_KTIMES),
        "start_ns": one(_TIMES),
        "length": one(_LENGTHS),
        "src": (one([1, 2]), one([0, 1, 2])),
        "dst": (one([1, 2]), one([0, 1, 2])),
        "app_trace": one(_TRACES),
        "app_parent": one([0, one(_IDS)]),
        "app_flag": one([0] * 8 + [1, -1]),
        "trace": one(_TRACES),
        "parent_id": one([0, 0, one(_IDS)]),
        "span_id": one([0, one(_IDS), one(_IDS), one(_IDS)]),
        "sender": one([1, 1, 2]),
        "faults": one([0] * 19 + [4]),
        "request_id": one([0] * 5 + [1, 2]),
        "stream_id": one([0] * 8 + [1, 3]),
    }


def ordinary(random: Random) -> dict[str, Any]:
    """What one ordinary span says."""
    one = random.choice
    return {
        "kind": Kind.ORDINARY,
        "trace": one(_TRACES[3:]),
        "parent_id": one([0, one(_IDS)]),
        "span_id": one(_IDS),
        "start_ns": one(_TIMES),
        "length": one(_LENGTHS),
        "sender": 1,
    }


def rows(most: int = 12) -> st.SearchStrategy[list[Row]]:
    """Rows of columns; some are copies of others, also by way of another sender, and some have another's span id."""
    return st.builds(
        lambda seed, fewer: random_rows(Random(seed), most - fewer), st.integers(0, 2**64 - 1), st.integers(0, most)
    )


def random_rows(random: Random, n: int) -> list[Row]:
    """n such rows."""
    said: list[dict[str, Any]] = []
    for _ in range(n):
        if said and random.random() < 0.1:
            said.append(random.choice(said) | {"sender": random.choice([1, 2])})
        else:
            said.append(ordinary(random) if random.random() < 0.06 else espan(random))
    return [row_of(one) for one in said]


def row_of(one: dict[str, Any]) -> Row:
    """The columns of one span; its digest and, if it has no id, its derived id say what its bytes would say."""
    row = {name: int(one.get(name, 0)) for name in SpanColumns.dtypes()}
    for pair, first, second in (
        ("net", "req_seq", "resp_seq"),
        ("src", "src_ip", "src_port"),
        ("dst", "dst_ip", "dst_port"),
        ("app_trace", "app_trace_hi", "app_trace_lo"),
        ("trace", "trace_hi", "trace_lo"),
    ):
        row[first], row[second] = one.get(pair, (0, 0))
    length = one.get("length", -1)
    row["end_ns"] = row["start_ns"] + length if row["start_ns"] and length >= 0 else 0
    if row["app_trace_lo"]:
        row["app_encode"] = Encoding.HEX if row["app_trace_hi"] else Encoding.DEC
    said = repr(sorted((key, value) for key, value in one.items() if key != "sender"))
    row["digest"] = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little")
    row["sent_span_id"] = row["span_id"]
    row["span_id"] = row["span_id"] or row["digest"] >> 1 or 1
    return row


def columns_of(given: list[Row]) -> SpanColumns:
    """The rows as a table."""
    dtypes = SpanColumns.dtypes()
    return SpanColumns(**{name: np.array([row[name] for row in given], dtype) for name, dtype in dtypes.items()})


link_options = st.builds(
    LinkOptions,
    use_app_trace_id=st.sampled_from([True, True, False]),
    sampling_rate=st.sampled_from([0.0, 0.5, 1.0]),
    sampling_flags=st.sampled_from(["honour", "ignore"]),
    datadog_reject=st.sampled_from(["honour", "undecided"]),
    app_trace_scope=st.sampled_from(["downstream", "downstream", "trace"]),
)
