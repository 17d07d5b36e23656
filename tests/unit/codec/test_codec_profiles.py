"""Input profiles: what other names come to. Each rule with the kernel and with its plain twin."""

from collections.abc import Iterator, Sequence

import pytest

from bridge.codec.otlp_protobuf import decode_request
from bridge.config import load_profiles
from bridge.spans import Direction, Encoding, Kind, SpanColumns, convention, text_hash
from bridge.spans.profiles import Alternative, KeyRule, Profile
from tests.support.espans import ORDINARY_IDS, REQUIRED, Attributes, Value, any_value, request_of, span_of
from tests.support.profiles import CHAIN, deepflow_request, used

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def none_afterwards() -> Iterator[None]:
    with used():
        yield


def rule(key: str, *names: str, side: Direction = Direction.ABSENT, **more: object) -> KeyRule:
    return KeyRule(key, tuple(Alternative(name, side) for name in names), **more)  # type: ignore[arg-type]


def read(profiles: Sequence[Profile], attributes: Attributes, resource: Attributes = ()) -> SpanColumns:
    """The columns of one span with these attributes."""
    with used(*profiles):
        return decode_request(
            request_of(span_of(attributes, **ORDINARY_IDS), resource=resource), peer="192.0.2.1"
        ).batch.columns


SEQ = Profile("p", (rule("req_seq", "agent.seq", "agent.older.seq"),))


@pytest.mark.parametrize(
    ("attributes", "resource", "want"),
    [
        ({"agent.seq": 5}, {}, 5),
        ({"agent.older.seq": 6}, {}, 6),
        ({"agent.older.seq": 6, "agent.seq": 5}, {}, 5),
        ({}, {"agent.seq": 7}, 7),
        ({"agent.seq": "5"}, {"agent.seq": 7}, 5),
        ({"agent.seq": ""}, {"agent.seq": 7}, 7),
        ({"agent.seq": None, "agent.older.seq": 6}, {}, 6),
        ({"agent.older.seq": 6}, {"agent.seq": 7}, 7),
        ({"req_seq": 4, "agent.seq": 5}, {"agent.seq": 7}, 4),
        ({"req_seq": "", "agent.seq": 5}, {}, 5),
    ],
)
def test_the_first_that_has_a_value_counts(attributes: dict[str, Value], resource: Attributes, want: int) -> None:
    """The key's own name, then alternatives in order, each of the span before that of the resource."""
    assert read([SEQ], attributes, resource).req_seq.tolist() == [want]


def test_a_value_that_cannot_be_read_is_a_fault() -> None:
    """As it is under the key's own name; no later alternative hides it."""
    columns = read([SEQ], {**REQUIRED, "req_seq": "", "agent.seq": "x", "agent.older.seq": 6})
    assert columns.faults.tolist() == [convention.FAULT["req_seq"]]


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"agent.seq": 5}, Kind.UNKNOWN),
        ({"agent.pid": 5}, Kind.ORDINARY),
        ({"agent.seq": ""}, Kind.ORDINARY),
        ({"agent.side": "c"}, Kind.EXIT),
        ({"agent.side": "app"}, Kind.ORDINARY),
        ({"ebpf_span_type": "app", "agent.side": "c"}, Kind.UNKNOWN),
        ({"http.request.header.traceparent": TRACEPARENT}, Kind.ORDINARY),
    ],
)
def test_a_marker_makes_an_espan(attributes: dict[str, Value], kind: Kind) -> None:
    """Under whatever name, if it has a value that means something; other keys, defaults and headers do not."""
    profile = Profile(
        "p",
        (*SEQ.keys, rule("pid", "agent.pid"), rule("ebpf_span_type", "agent.side", values={"c": "exit"})),
        headers={"traceparent": ("http.request.header.traceparent",)},
    )
    filled = Profile("q", (rule("resp_seq", "agent.other", default=0),))
    assert read([profile, filled], attributes).kind.tolist() == [kind]


def test_an_ordinary_span_stays_as_it_is() -> None:
    """Its ids, its bytes, and nothing else: also where its resource has attributes that a profile names."""
    profile = Profile("p", (rule("pid", "agent.pid"), rule("src_ip", "agent.ip")))
    sent = span_of({"agent.ip": "10.0.0.1"}, **ORDINARY_IDS)
    with used(profile):
        batch = decode_request(request_of(sent, resource={"agent.pid": 3}), peer="192.0.2.1").batch
    assert batch.payload.span(0) == sent.SerializeToString()
    assert (batch.columns.kind.tolist(), batch.columns.src_ip.tolist(), batch.columns.pid.tolist()) == ([0], [0], [0])


SIDES = Profile(
    "p",
    (
        KeyRule("pid", (Alternative("pid_0", Direction.OUTGOING), Alternative("pid_1", Direction.INCOMING))),
        rule("direction", "side", values={"c": "outgoing", "s": "incoming", "1": "incoming"}),
    ),
)


@pytest.mark.parametrize(
    ("side", "pid"),
    [({"side": "c"}, 10), ({"side": "s"}, 11), ({"side": 1}, 11), ({"side": "x"}, 0), ({"direction": "outgoing"}, 10)],
)
def test_an_alternative_may_be_of_one_side(side: dict[str, Value], pid: int) -> None:
    """Known by the direction, whether that comes from a profile or not, and wherever it stands in the file."""
    assert read([SIDES], {"req_seq": 1, **side}, {"pid_0": 10, "pid_1": 11}).pid.tolist() == [pid]


def test_defaults_are_for_spans_of_that_profile() -> None:
    """A key that is required and left out of other spans stays a fault there."""
    filled = Profile("p", (rule("resp_seq", "agent.resp", default=0), rule("req_seq", "agent.seq")))
    own = {"ebpf_span_type": "entry", "direction": "incoming"}
    assert read([filled], {**own, "agent.seq": 5}).faults.tolist() == [0]
    assert read([filled], {**own, "req_seq": 5}).faults.tolist() == [convention.FAULT["resp_seq"]]


def test_texts_of_a_resource_are_read() -> None:
    """Names and addresses too, for which the kernel leaves the text to Python."""
    profile = Profile("p", (rule("pid", "instance"), rule("src_ip", "ip")))
    columns = read([profile], REQUIRED, {"instance": "pod-7", "ip": "::ffff:10.0.0.9"})
    assert columns.pid.tolist() == [text_hash("pod-7")]
    assert columns.src_ip.tolist() == [0x0A000009]


def test_a_host_may_have_another_name() -> None:
    """Its own comes first; without either it is the peer."""
    profile = Profile("p", resource={"host.name": ("agent.node",)})
    senders = [
        read([profile], REQUIRED, resource).sender.tolist()[0]
        for resource in ({"agent.node": "n"}, {"host.name": "h", "agent.node": "n"}, {})
    ]
    assert senders == [text_hash("n"), text_hash("h"), text_hash("192.0.2.1")]


HEADERS = load_profiles(["headers"])


@pytest.mark.parametrize("form", ["text", "list"])
def test_headers_become_ids(form: str) -> None:
    """As texts, and as the lists of texts that OpenTelemetry's conventions ask for."""
    value: Value = TRACEPARENT
    if form == "list":
        value = any_value(None)
        value.array_value.values.add(string_value=TRACEPARENT)
    columns = read(HEADERS, {**REQUIRED, "http.request.header.traceparent": value})
    assert (columns.app_trace_hi[0], columns.app_trace_lo[0]) == (0x0AF7651916CD43DD, 0x8448EB211C80319C)
    assert (columns.app_parent[0], columns.app_flag[0]) == (0xB7AD6B7169203331, 1)
    assert columns.app_encode[0] == Encoding.HEX


def test_an_agents_own_ids_come_before_headers() -> None:
    """Headers fill in what it left out: here the sampling flag, and the upper half of a DataDog trace id."""
    own = {**REQUIRED, "app_trace_id_l": 5, "app_parent_id_l": 6, "app_trace_encode": "dec"}
    columns = read(HEADERS, {**own, "traceparent": TRACEPARENT, "_dd.p.tid": "00000000000000ff"})
    found = (columns.app_trace_hi[0], columns.app_trace_lo[0], columns.app_parent[0], columns.app_flag[0])
    assert found == (255, 5, 6, 1)


def test_headers_that_cannot_be_read_are_no_fault() -> None:
    """A client sent them, not the agent."""
    columns = read(HEADERS, {**REQUIRED, "traceparent": "garbage", "x-request-id": 12, "b3": b"x"})
    assert (columns.faults[0], columns.app_trace_lo[0], columns.request_id[0]) == (0, 0, 12)


@pytest.mark.parametrize("older", [False, True])
def test_spans_of_deepflow_are_espans(older: bool) -> None:
    """Side, numbers, addresses, processes and threads, under the names of either version."""
    with used(*load_profiles(["deepflow"])):
        request = deepflow_request(*CHAIN, older=older)
        decoded = decode_request(request.SerializeToString(), peer="192.0.2.1")
    columns = decoded.batch.columns
    assert decoded.faulty == {}
    assert columns.kind.tolist() == [Kind.EXIT, Kind.ENTRY] * 2
    assert columns.direction.tolist() == [Direction.OUTGOING, Direction.INCOMING] * 2
    assert columns.req_seq.tolist() == [101, 101, 103, 103]
    assert columns.thread_trace_id.tolist() == [0, 7001, 7001, 7002]
    assert columns.pid.tolist() == [1001, 1002, 1002, 1003]
    assert columns.src_ip.tolist() == columns.dst_ip.tolist()[1::-1] + columns.dst_ip.tolist()[:1:-1]
    assert columns.src_port.tolist() == [40000, 80, 41000, 81]
    assert columns.sender.tolist() == [text_hash(f"node-10.0.0.{i}") for i in (1, 2, 2, 3)]


@pytest.mark.parametrize("point", ["Application", "Client Application", "s-app"])
def test_sdk_spans_that_deepflow_passes_on_stay_ordinary(point: str) -> None:
    """They have no TCP numbers and are seen at an application."""
    profiles = load_profiles(["deepflow"])
    columns = read(profiles, {"df.span.type": "session"}, {"df.capture_info.observation_point": point})
    assert columns.kind.tolist() == [Kind.ORDINARY]


def test_deepflow_spans_without_numbers_are_no_fault() -> None:
    """They are left out where they are 0, as for requests over UDP or seen by uprobes."""
    columns = read(load_profiles(["deepflow"]), {}, {"df.capture_info.observation_point": "Server Process"})
    assert (columns.faults.tolist(), columns.req_seq.tolist(), columns.kind.tolist()) == ([0], [0], [Kind.ENTRY])
