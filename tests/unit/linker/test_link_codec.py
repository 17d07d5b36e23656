"""Ids as they come over the wire: no form of them is lost between the codec and the linker."""

import pytest

from bridge.codec.otlp_protobuf import decode_request
from bridge.linker import link
from bridge.spans import Decisions, Encoding
from tests.support.espans import Value, espan_of, request_of
from tests.support.link_scenes import KEEP_ALL

HIGH_BIT = 2**63 + 12345


def linked(*spans: dict[str, Value]) -> tuple[list[int], Decisions]:
    """Parent rows and decisions of eSpans with these attributes."""
    request = request_of(*(espan_of(**attributes) for attributes in spans))
    batch = decode_request(request, peer="10.0.0.1").batch
    assert len(batch) == len(spans)
    links = link(batch.columns, KEEP_ALL)
    return links.parent.tolist(), links.decisions


FORMS = {"negative": HIGH_BIT - 2**64, "negative text": str(HIGH_BIT - 2**64), "unsigned text": str(HIGH_BIT)}


@pytest.mark.parametrize("one", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("other", FORMS.values(), ids=FORMS)
def test_ids_are_bit_patterns(one: Value, other: Value) -> None:
    """A 64-bit id is one id as negative int, as negative text and as unsigned text; all of them link."""
    exit_ = {"ebpf_span_type": "exit", "direction": "outgoing"}
    by_thread, _ = linked({"thread_trace_id": one}, {**exit_, "req_seq": 5, "thread_trace_id": other})
    assert by_thread == [-1, 0]
    by_net, _ = linked({"req_seq": one}, {**exit_, "req_seq": other})
    assert by_net == [1, -1]


@pytest.mark.parametrize("numbers", [{"app_trace_id_l": -2, "app_trace_id_h": 2**62, "app_parent_id_l": -3}, {}])
def test_w3c_ids_stay_whole(numbers: dict[str, Value]) -> None:
    """Without `app_trace_encode` the id's text says that it is hex: all 128 bits are exported."""
    ids = {"app_trace_id": "4000000000000000fffffffffffffffe", "app_parent_id": "fffffffffffffffd"}
    _, d = linked({**ids, **numbers})
    assert (int(d.trace_hi[0]), int(d.trace_lo[0])) == (2**62, 2**64 - 2)
    assert (int(d.parent_span_id[0]), int(d.encode[0])) == (2**64 - 3, Encoding.HEX)


def test_datadog_ids_are_64_bits() -> None:
    """Decimal text is DataDog's: 64 bits, with an upper half of 0."""
    _, d = linked({"app_trace_id": "18446744073709551614", "app_parent_id": "18446744073709551613"})
    assert (int(d.trace_hi[0]), int(d.trace_lo[0])) == (0, 2**64 - 2)
    assert (int(d.parent_span_id[0]), int(d.encode[0])) == (2**64 - 3, Encoding.DEC)
