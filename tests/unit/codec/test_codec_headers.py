"""Trace context in request headers: what each format says, and what counts of several. Garbage says nothing."""

from base64 import b64encode

import pytest

from bridge.codec.headers import NOTHING, HeaderIds, datadog_upper, read_headers, sw8, traceparent, uber_trace_id
from bridge.spans import Encoding

T, P = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
W3C = HeaderIds(int(T, 16), int(P, 16), 1, Encoding.HEX)


def sent(headers: dict[str, str]) -> tuple[str, str, int, Encoding]:
    """Trace id and parent in hex, flag, how it is written."""
    found = read_headers(headers)
    return f"{found.trace_id:032x}", f"{found.parent:016x}", found.flag, found.encode


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"00-{T}-{P}-01", W3C),
        (f" 00-{T}-{P}-03 ", W3C),  # the random flag beside
        (f"00-{T}-{P}-00", HeaderIds(W3C.trace_id, W3C.parent, 0, Encoding.HEX)),  # not set: nobody refused
        (f"cc-{T}-{P}-01-what-will-be", W3C),
        (f"00-{T}-{P}-01-more", NOTHING),
        (f"ff-{T}-{P}-01", NOTHING),
        (f"00-{T.upper()}-{P}-01", NOTHING),
        (f"00-{'0' * 32}-{P}-01", NOTHING),
        (f"00-{T}-{'0' * 16}-01", NOTHING),
        (f"00-{T}-{P}", NOTHING),
        ("", NOTHING),
    ],
)
def test_traceparent(text: str, want: HeaderIds) -> None:
    """W3C Trace Context: version 00 is exact, ff is none, others may be longer; ids are lower case and not 0."""
    assert traceparent(text) == want


@pytest.mark.parametrize(
    ("headers", "want"),
    [
        ({"x-datadog-trace-id": "5", "x-datadog-parent-id": "7"}, (5, 7, 0)),
        ({"x-datadog-trace-id": "5", "x-datadog-parent-id": "7", "x-datadog-sampling-priority": "2"}, (5, 7, 1)),
        ({"x-datadog-trace-id": "5", "x-datadog-parent-id": "7", "x-datadog-sampling-priority": "0"}, (5, 7, -1)),
        ({"x-datadog-trace-id": "5", "x-datadog-sampling-priority": "-1"}, (5, 0, -1)),
        ({"x-datadog-trace-id": "5", "x-datadog-sampling-priority": "keep"}, (5, 0, 0)),
        ({"x-datadog-trace-id": "5", "x-datadog-tags": "_dd.p.dm=-1,_dd.p.tid=640cfd8d00000000"}, None),
        ({"x-datadog-trace-id": "5", "_dd.p.tid": "640cfd8d00000000"}, None),
        ({"x-datadog-trace-id": "5", "x-datadog-tags": "_dd.p.tid=640c,_dd.p.tid"}, (5, 0, 0)),
        ({"x-datadog-trace-id": str(2**64)}, (0, 0, 0)),
        ({"x-datadog-trace-id": "0x5"}, (0, 0, 0)),
    ],
)
def test_datadog(headers: dict[str, str], want: tuple[int, int, int] | None) -> None:
    """Decimal ids; the upper half from _dd.p.tid; a priority above 0 keeps, another rejects, none decides nothing."""
    found = read_headers(headers)
    assert (found.trace_id, found.parent, found.flag) == (want or (0x640CFD8D00000000 << 64 | 5, 0, 0))
    assert found.encode == (Encoding.DEC if found.trace_id else Encoding.ABSENT)


def test_datadog_upper_half_of_an_agents_own_ids() -> None:
    """The first that is 16 hex digits."""
    assert datadog_upper({"_dd.p.tid": "no", "x-datadog-tags": "a=b, _dd.p.tid=00000000000000ff"}) == 255


@pytest.mark.parametrize(
    ("headers", "want"),
    [
        ({"b3": f"{T}-{P}-1"}, (T, P, 1)),
        ({"b3": f"{T}-{P}-d-05e3ac9a4f6e3b90"}, (T, P, 1)),
        ({"b3": f"{T}-{P}-0"}, (T, P, -1)),
        ({"b3": f"{T[16:]}-{P}"}, (T[16:].zfill(32), P, 0)),
        ({"b3": "0"}, ("0" * 32, "0" * 16, -1)),
        ({"b3": "d"}, ("0" * 32, "0" * 16, 1)),
        ({"b3": f"{T}-{P}-2"}, ("0" * 32, "0" * 16, 0)),
        ({"b3": f"{T[:31]}-{P}-1"}, ("0" * 32, "0" * 16, 0)),
        ({"x-b3-traceid": T, "x-b3-spanid": P, "x-b3-sampled": "1"}, (T, P, 1)),
        ({"x-b3-traceid": T, "x-b3-spanid": P, "x-b3-sampled": "false"}, (T, P, -1)),
        ({"x-b3-traceid": T, "x-b3-spanid": P, "x-b3-sampled": "0", "x-b3-flags": "1"}, (T, P, 1)),
        ({"x-b3-traceid": T, "x-b3-spanid": "short"}, (T, "0" * 16, 0)),
        ({"x-b3-traceid": "short", "x-b3-sampled": "0"}, ("0" * 32, "0" * 16, -1)),
    ],
)
def test_b3(headers: dict[str, str], want: tuple[str, str, int]) -> None:
    """One header or several; 16 or 32 digits; a flag alone; debug keeps, and 0 refuses."""
    assert sent(headers)[:3] == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"{T}:{P}:0:1", W3C),
        (f"{T}%3A{P}%3A0%3A1", W3C),
        ("a:b:c:0", HeaderIds(10, 11, 0, Encoding.HEX)),
        ("a:b::3", HeaderIds(10, 11, 1, Encoding.HEX)),
        ("0:b:c:1", NOTHING),
        ("a:b:1", NOTHING),
        (f"{T}0:{P}:0:1", NOTHING),
    ],
)
def test_uber_trace_id(text: str, want: HeaderIds) -> None:
    """Jaeger: hex without leading zeros, percent-encoded or not."""
    assert uber_trace_id(text) == want


def skywalking(trace: str, segment: str, span: str = "3", sampled: str = "1") -> str:
    texts = (b64encode(part.encode()).decode() for part in (trace, segment))
    return "-".join([sampled, *texts, span, *(b64encode(part).decode() for part in (b"svc", b"inst", b"/x", b"h:1"))])


SW_TRACE, SW_SEGMENT = f"{T}.12.16563474296430001", f"{T}.12.16563474296430002"


def test_sw8_ids_are_those_of_a_collector() -> None:
    """The values that its skywalkingreceiver gives: thread and number are mixed into the digits, and the span's number
    into its segment's, whose halves are then one."""
    found = sw8(skywalking(SW_TRACE, SW_SEGMENT))
    number = (16563474296430001).to_bytes(8, "little")
    whole = bytes(a ^ b for a, b in zip(bytes.fromhex(T), bytes(4) + b"\x0c\0\0\0" + number, strict=True))
    assert found.trace_id == int.from_bytes(whole, "big")
    mixed = b"\x03\0\0\0\x0c\0\0\0" + (16563474296430002).to_bytes(8, "little")
    segment = bytes(a ^ b for a, b in zip(bytes.fromhex(T), mixed, strict=True))
    assert found.parent == int.from_bytes(segment[:8], "big") ^ int.from_bytes(segment[8:], "big")
    assert (found.flag, found.encode) == (1, Encoding.HEX)


def test_sw8_ids_of_other_agents() -> None:
    """A UUID is one; 32 digits by themselves are, too; of a segment that is neither there is no parent."""
    uuid = f"{T[:8]}-{T[8:12]}-{T[12:16]}-{T[16:20]}-{T[20:]}"
    assert sw8(skywalking(uuid, "odd", sampled="0")) == HeaderIds(int(T, 16), 0, 0, Encoding.HEX)
    assert sw8(skywalking(T, T, span="0")).trace_id == int(T, 16)


@pytest.mark.parametrize(
    "text",
    [
        skywalking("an id of our own", SW_SEGMENT),
        skywalking(f"{T}.99999999999.1", SW_SEGMENT),
        skywalking(f"{T}.4294967296.1", SW_SEGMENT),
        skywalking(SW_TRACE, SW_SEGMENT, span="x"),
        skywalking(SW_TRACE, SW_SEGMENT).rpartition("-")[0],
        skywalking(SW_TRACE, SW_SEGMENT).replace("=", "*").replace("M", "*", 1),
        "1-ä-ö-3-a-b-c-d",
        "",
    ],
)
def test_sw8_that_is_none(text: str) -> None:
    """Ids that agents do not make, parts that are missing, no base64."""
    assert sw8(text) == NOTHING


def test_the_first_format_that_names_a_trace_counts() -> None:
    """W3C before DataDog before B3 before Jaeger before SkyWalking, each with its own flag."""
    headers = {
        "traceparent": f"00-{T}-{P}-00",
        "x-datadog-trace-id": "5",
        "x-datadog-parent-id": "6",
        "x-datadog-sampling-priority": "-1",
        "b3": f"{T[::-1]}-{P}-0",
        "uber-trace-id": "a:b:0:1",
        "sw8": skywalking(SW_TRACE, SW_SEGMENT),
    }
    order = ("traceparent", "x-datadog-trace-id", "b3", "uber-trace-id", "sw8")
    traces = []
    for header in order:
        traces.append(sent(headers)[0].lstrip("0")[:8])
        del headers[header]
    wanted = [T, "5", T[::-1], "a", f"{sw8(skywalking(SW_TRACE, SW_SEGMENT)).trace_id:x}"]
    assert traces == [text.lstrip("0")[:8] for text in wanted]
    assert (
        sent({"traceparent": f"00-{T}-{P}-00", "x-datadog-trace-id": "5", "x-datadog-sampling-priority": "-1"})[2] == 0
    )
    assert sent({"traceparent": f"00-{T}-{P}-00", "b3": "0"})[2] == -1
