"""Steps 4 and 5 of docs/linking.md: trace ids, header ids downstream, verdicts."""

import hashlib
import struct

import numpy as np
import pytest

from bridge.linker import LinkOptions
from bridge.linker.trace_ids import trace_ids
from bridge.spans import Encoding, Kind, Method, Outcome
from tests.support.link_scenes import KEEP_ALL, Row, client, net, scene, server

W3C = {"app_trace_hi": 5, "app_trace_lo": 7, "app_encode": Encoding.HEX}
DATADOG = {"app_trace_lo": 7, "app_encode": Encoding.DEC}
NO_HEADERS = LinkOptions(use_app_trace_id=False, sampling_rate=1.0)


def md5(first: int, second: int) -> tuple[int, int]:
    low, high = struct.unpack("<QQ", hashlib.md5(struct.pack("<QQ", first, second), usedforsecurity=False).digest())
    return high, low


def chain(*header_ids: Row) -> list[Row]:
    """Spans one under another: entry, exit, entry, exit, ..., with these header columns."""
    rows = []
    for i, ids in enumerate(header_ids):
        make = client if i % 2 else server
        rows.append(make(thread_trace_id=i // 2 + 1, **net((i + 1) // 2 + 1), **ids))
    return rows


def test_known_answer() -> None:
    """md5 over both numbers, little-endian; an answer of the reference."""
    high, low = trace_ids(np.array([1719704081, 1], np.uint64), np.array([463010788, 2], np.uint64))
    assert f"{high[0]:016x}{low[0]:016x}" == "080ee250a96262913b2b9c6a44f3e93e"
    assert (int(high[1]), int(low[1])) == md5(1, 2)


def test_ebpf_trace_id_is_the_roots() -> None:
    """Every span of a trace has the id made of its root's net id."""
    found = scene(*chain({}, {}, {}, {}))
    assert found.parents == [-1, 0, 1, 2]
    assert set(found.ebpf_traces) == set(found.traces) == {md5(1, 1_000_001)}
    assert found.links.decisions.ebpf_parent_id.tolist() == [0, 1, 2, 3]
    assert found.methods == [Method.NONE, Method.THREAD, Method.SEQ, Method.THREAD]


def test_roots_without_net_id_have_ids_of_their_own() -> None:
    """A root without numbers hashes span id and start, so that unrelated traces never share an id."""
    rows = [server(span_id=number, start_ns=start) for number in (1, 2) for start in (0, 1000)]
    found = scene(*rows)
    assert found.ebpf_traces == [md5(row["span_id"], row["start_ns"]) for row in rows]
    assert len(set(found.traces)) == 4


def test_faulty_span_is_a_trace_of_its_own() -> None:
    """It joins nothing, has no headers and an id of its own, though its numbers can be read."""
    found = scene(server(**net(1), **W3C, faults=1 << 7), client(**net(1)))
    assert found.parents == [-1, -1]
    assert found.traces[0] == found.ebpf_traces[0] == md5(1, 0)


def test_header_ids_flow_downstream_only() -> None:
    """The nearest ancestor with header ids, itself included, gives the exported trace id; the eBPF id stays."""
    found = scene(*chain({}, {}, W3C, {}))
    ebpf = md5(1, 1_000_001)
    assert found.traces == [ebpf, ebpf, (5, 7), (5, 7)]
    assert set(found.ebpf_traces) == {ebpf}
    assert found.links.decisions.encode.tolist() == [0, 0, Encoding.HEX, Encoding.HEX]


def test_header_ids_can_be_switched_off() -> None:
    """Without `use_app_trace_id` nothing of the headers is exported."""
    found = scene(*chain(W3C | {"app_parent": 99}, {}), options=NO_HEADERS)
    assert set(found.traces) == {md5(1, 1_000_001)}
    assert found.exported_parents == [0, 1]


def test_first_span_with_header_ids_is_under_the_named_parent() -> None:
    """Its predecessor is not in that trace, so the headers know better; the eBPF parent stays beside."""
    found = scene(*chain({}, {}, W3C | {"app_parent": 99}))
    assert (found.exported_parents[2], found.methods[2]) == (99, Method.HEADER)
    assert found.links.decisions.ebpf_parent_id[2] == 2


def test_client_and_server_of_one_call_are_no_siblings() -> None:
    """Both saw the same headers. The client is under the named parent, the server under the client."""
    found = scene(*chain({}, W3C | {"app_parent": 99}, W3C | {"app_parent": 99}))
    assert found.exported_parents == [0, 99, 2]
    assert found.methods == [Method.NONE, Method.HEADER, Method.SEQ]


def test_headers_that_name_no_parent_keep_the_found_one() -> None:
    """The trace id is the header's, the parent that of eBPF."""
    found = scene(*chain({}, {}, W3C))
    assert (found.traces[2], found.exported_parents[2], found.methods[2]) == ((5, 7), 2, Method.SEQ)


def test_other_trace_id_downstream_switches() -> None:
    """A span with other header ids than its predecessor's trace leaves it."""
    found = scene(*chain(W3C, {}, {"app_trace_lo": 8, "app_encode": Encoding.DEC, "app_parent": 99}, {}))
    assert found.traces == [(5, 7), (5, 7), (0, 8), (0, 8)]
    assert found.exported_parents[2] == 99
    assert found.links.decisions.encode.tolist() == [1, 1, 2, 2]


def test_no_span_is_its_own_parent() -> None:
    """Headers that name the span itself name nobody."""
    for named in (W3C | {"app_parent": 1}, {"trace_lo": 7, "parent_id": 1}):
        found = scene(server(**net(1), **named))
        assert (found.exported_parents, found.methods) == ([0], [Method.NONE])


def test_own_trace_id_counts_with_a_parent() -> None:
    """An eSpan's own trace id was found in headers if it has a parent span id, else it is a placeholder."""
    assert scene(server(**net(1), trace_lo=7)).traces == [md5(1, 1_000_001)]
    found = scene(server(**net(1), trace_lo=7, parent_id=99))
    assert (found.traces, found.exported_parents, found.methods) == ([(0, 7)], [99], [Method.HEADER])


@pytest.mark.parametrize("naming", [{"app_trace_lo": 7, "app_parent": 1}, {"trace_lo": 7, "parent_id": 1}])
def test_own_trace_id_counts_when_named(naming: Row) -> None:
    """It counts, too, if another eSpan names this trace id and span id as its parent."""
    found = scene(server(**net(1), trace_lo=7), server(**net(2), **naming))
    assert found.traces == [(0, 7), (0, 7)]
    assert found.exported_parents == [0, 1]


@pytest.mark.parametrize("naming", [{"trace_lo": 8, "parent_id": 1}, {"trace_lo": 7, "parent_id": 2}])
def test_placeholder_stays_one_when_others_are_named(naming: Row) -> None:
    """Another trace id or another span id does not name it."""
    assert scene(server(**net(1), trace_lo=7), server(**net(2), **naming)).traces[0] == md5(1, 1_000_001)


def test_derived_id_cannot_be_named() -> None:
    """Nobody can have put an id on the wire that its sender did not know."""
    unnamed = server(**net(1), trace_lo=7, sent_span_id=0)
    assert scene(unnamed, server(**net(2), trace_lo=7, parent_id=1)).traces[0] == md5(1, 1_000_001)


def verdicts(*rows: Row, **options: object) -> list[bool]:
    """Which rows are kept."""
    found = scene(*rows, options=LinkOptions(**options))  # type: ignore[arg-type]  # what LinkOptions takes
    return [outcome == Outcome.EXPORT for outcome in found.outcomes]


def test_rates_zero_and_one_mean_what_they_say() -> None:
    """0.0 keeps no trace and 1.0 every one."""
    rows = [server(**net(i)) for i in range(50)]
    assert not any(verdicts(*rows, sampling_rate=0.0))
    assert all(verdicts(*rows, sampling_rate=1.0))


def test_rate_is_the_references_hash() -> None:
    """(low + high) * 1111111111111111111 mod 2**64 < rate * 2**64, over the exported trace id."""
    rows = [server(**net(i)) for i in range(200)]
    want = [sum(md5(r["req_seq"], r["resp_seq"])) * 1111111111111111111 % 2**64 < 0.25 * 2**64 for r in rows]
    assert verdicts(*rows, sampling_rate=0.25) == want
    assert 20 < sum(want) < 80


def test_any_reject_rejects_else_any_keep_keeps() -> None:
    """Flags anywhere in the trace decide before the rate, rejects before keeps."""
    rows = chain({}, {}, {"app_flag": 1}, {})
    assert verdicts(*rows, sampling_rate=0.0) == [True] * 4
    rejected = chain({}, {"app_flag": -1}, {"app_flag": 1}, {})
    assert verdicts(*rejected, sampling_rate=1.0) == [False] * 4
    assert verdicts(*rejected, sampling_rate=1.0, sampling_flags="ignore") == [True] * 4


def test_datadog_reject_can_be_undecided() -> None:
    """`datadog_reject = "undecided"` looks away from rejects of DataDog requests alone."""
    undecided = {"sampling_rate": 1.0, "datadog_reject": "undecided"}
    assert verdicts(server(**DATADOG, app_flag=-1), sampling_rate=1.0) == [False]
    assert verdicts(server(**DATADOG, app_flag=-1), **undecided) == [True]
    assert verdicts(server(**W3C, app_flag=-1), **undecided) == [False]


def test_traces_of_one_header_id_share_a_verdict() -> None:
    """Unrelated roots that export one header trace id anywhere are kept or not together."""
    one, other = chain({}, {}, W3C), [server(**net(50), **W3C, app_flag=1)]
    assert verdicts(*one, *other, sampling_rate=0.0) == [True] * 4
    assert verdicts(*one, *other, sampling_rate=0.0, use_app_trace_id=False) == [False] * 3 + [True]


def test_root_with_header_ids_speaks_first() -> None:
    """Of roots that share a verdict the hash of that with header ids counts."""
    low = next(low for low in range(1, 99) if low * 1111111111111111111 % 2**64 >= 2**63)
    headers = {"app_trace_lo": low, "app_encode": Encoding.DEC}
    number = next(i for i in range(2, 99) if sum(md5(i, i + 1_000_000)) * 1111111111111111111 % 2**64 < 2**63)
    upstream = [client(**net(number), thread_trace_id=0, start_ns=1), server(**net(number), **headers)]
    root = server(**net(1), **headers, start_ns=1000)
    assert verdicts(*upstream, sampling_rate=0.5) == [True, True]
    assert verdicts(*upstream, root, sampling_rate=0.5) == [False] * 3


def test_copies_fold() -> None:
    """Equal id and bytes: one is exported, the others share its ids; the same id with other bytes keeps both."""
    row = server(**net(1), span_id=4, digest=4)
    found = scene(row, {**row, "sender": 3}, {**row, "digest": 5}, client(**net(1), span_id=6))
    assert found.outcomes == [Outcome.EXPORT, Outcome.FOLDED, Outcome.EXPORT, Outcome.EXPORT]
    assert found.traces[0] == found.traces[1]
    assert found.count("id_conflicts") == 1


def test_ordinary_spans_pass() -> None:
    """A span without eSpan keys leaves with its own ids, unsampled and untouched."""
    row = {"kind": Kind.ORDINARY, "trace_hi": 3, "trace_lo": 4, "parent_id": 8}
    found = scene(row, options=LinkOptions(sampling_rate=0.0))
    assert (found.outcomes, found.traces, found.exported_parents) == ([Outcome.PASS], [(3, 4)], [8])


def test_method_and_confidence_only_where_there_is_a_parent() -> None:
    """Roots have neither; every edge has both."""
    d = scene(*chain({}, {}, W3C | {"app_parent": 99}, {}), options=KEEP_ALL).links.decisions
    assert d.method.tolist() == [Method.NONE, Method.THREAD, Method.HEADER, Method.THREAD]
    assert (d.confidence > 0).tolist() == [False, True, True, True]
