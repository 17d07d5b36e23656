"""Any profile, any spans: the kernel reads what its plain twin reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from bridge.codec.otlp_scan import Scan, kernel_in_use, scan_compiled, scan_plain
from bridge.codec.rows import ROW
from bridge.spans import Direction, convention
from bridge.spans.profiles import HEADERS, Alternative, KeyRule, Profile
from tests.support.espans import ORDINARY_IDS, REQUIRED, Value, field, pairs, span_of
from tests.support.profiles import used

NAMES = ("agent.a", "agent.b", "agent.side", "agent.a.name.longer.than.others")
SIDES = (Direction.ABSENT, Direction.ABSENT, Direction.INCOMING, Direction.OUTGOING)
names = st.sampled_from(NAMES)
LIKE_A_NAME = "agent.a.name.nearer.than.others"
"""As long as one of the names, with its first and its last letters."""
words = st.sampled_from(["", "c", "s", "entry", "exit", "incoming", "outgoing", "10.0.0.1", "ä", "7", "-1", "007"])
sent = st.one_of(words, st.integers(-3, 9), st.sampled_from([None, True, 2.5, b"x", 2**63 - 1]))


@st.composite
def key_rules(draw: st.DrawFn, key: str) -> KeyRule:
    sides = st.just(Direction.ABSENT) if key == convention.DIRECTION else st.sampled_from(SIDES)
    alternatives = draw(st.lists(st.builds(Alternative, names, sides), min_size=1, max_size=3))
    meant: st.SearchStrategy[str | int] | None = None
    if key in convention.WORDS:
        meant = st.sampled_from(convention.WORDS[key])
    elif key in convention.NUMBERS:
        meant = st.one_of(st.integers(-2, 9), st.just(2**64 - 1))
    if meant is None:
        return KeyRule(key, tuple(alternatives))
    values = draw(st.one_of(st.just({}), st.dictionaries(words, meant, max_size=4)))
    return KeyRule(key, tuple(alternatives), values, draw(st.one_of(st.none(), meant)))


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    keys = draw(st.lists(st.sampled_from(convention.KEY_OF_BIT), unique=True, max_size=6))
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), st.tuples(names), max_size=3))
    return Profile("p", tuple(draw(key_rules(key)) for key in keys), headers=headers)


attributes = st.lists(
    st.tuples(
        st.one_of(names, names, st.sampled_from([*REQUIRED, "pid", "src_ip", "app_trace_id", LIKE_A_NAME])), sent
    ),
    max_size=7,
)
HEADER_TEXTS = (
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
    "12345678901234567890",
    "1",
    "6f",
)
held = st.one_of(
    st.sampled_from(HEADER_TEXTS),
    st.sampled_from(HEADER_TEXTS).map(lambda t: AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=t)]))),
    st.integers(-1, 2**63 - 1),
)


def outcome(scan: Scan) -> tuple[object, ...]:
    columns = {name: scan.rows[name].tolist() for name in ROW.names or () if name != "texts"}
    return columns, scan.data, scan.lengths.tolist(), scan.contexts, scan.refused, scan.refusals


def request(resources: list[list[tuple[str, Value]]], spans: list[list[tuple[str, Value]]]) -> bytes:
    """Every resource with every span, behind the spans or before them."""
    whole = b""
    made = [span_of(own, **ORDINARY_IDS) for own in spans]
    for i, resource in enumerate(resources):
        around = ResourceSpans()
        around.resource.attributes.extend(pairs(resource))
        head, body = around.SerializeToString(), ResourceSpans(scope_spans=[ScopeSpans(spans=made)]).SerializeToString()
        content = head + body if i % 2 else body + head
        whole += field(1, content)
    assert len(ExportTraceServiceRequest.FromString(whole).resource_spans) == len(resources)
    return whole


@pytest.mark.skipif(not kernel_in_use(), reason="no C compiler was there")
@settings(max_examples=250, deadline=None)
@given(
    st.lists(profiles(), max_size=2),
    st.lists(attributes, min_size=1, max_size=2),
    st.lists(attributes, min_size=1, max_size=3),
    st.lists(st.tuples(names, held), max_size=2),
)
def test_kernel_follows_profiles_as_its_twin(
    some: list[Profile],
    resources: list[list[tuple[str, Value]]],
    spans: list[list[tuple[str, Value]]],
    more: list[tuple[str, Value]],
) -> None:
    """Alternatives on span and resource, values, sides, defaults, headers; keys given twice; two profiles at once."""
    body = request(resources, [*spans, [*spans[0], *more]])
    with used(*some):
        assert outcome(scan_compiled(body)) == outcome(scan_plain(body))
    assert outcome(scan_compiled(body)) == outcome(scan_plain(body))
