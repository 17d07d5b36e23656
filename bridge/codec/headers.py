"""Trace context as it stands in request headers: text to ids, one format a function, and what counts of several.

Garbage is no evidence: what does not follow its format says nothing, and is no fault of the agent that reported it.

Sampling flags: a set flag keeps; words of refusal (DataDog's priority 0 and below, B3's `0`) reject; a flag that is
merely not set (W3C, Jaeger, SkyWalking) leaves a trace undecided, since it also means that nobody has decided yet.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote

from bridge.spans import Encoding

_U64: Final = 2**64 - 1
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_B3: Final = re.compile(r"([0-9a-fA-F]{16}|[0-9a-fA-F]{32})-([0-9a-fA-F]{16})(?:-([01dD])(?:-[0-9a-fA-F]{16})?)?")
_B3_TRACE: Final = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")
_HEX_16: Final = re.compile(r"[0-9a-fA-F]{16}")
_UBER: Final = re.compile(r"([0-9a-fA-F]{1,32}):([0-9a-fA-F]{1,16}):[0-9a-fA-F]{0,16}:([0-9a-fA-F]{1,2})")
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_PRIORITY: Final = re.compile(r"-?[0-9]{1,3}")
_UUID: Final = re.compile(r"([0-9a-fA-F]{8})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{12})")
_SW_ID: Final = re.compile(r"([0-9a-fA-F]{32})(?:\.([0-9]{1,10})\.([0-9]{1,20}))?")
_B3_FLAGS: Final = {"1": 1, "true": 1, "0": -1, "false": -1}


@dataclass(frozen=True, slots=True)
class HeaderIds:
    """What request headers say; 0 where they say nothing."""

    trace_id: int = 0
    """128 bits."""
    parent: int = 0
    """Span id of whoever sent the request."""
    flag: int = 0
    """1 keep, -1 reject, 0 undecided."""
    encode: Encoding = Encoding.ABSENT
    """How the ids are written."""


NOTHING: Final = HeaderIds()


def read_headers(headers: Mapping[str, str]) -> HeaderIds:
    """What these headers say, by their lower-case names (`bridge.spans.profiles.HEADERS`).

    Of several formats the first that names a trace counts, in this order: W3C, DataDog, B3, Jaeger, SkyWalking. A
    sampling flag counts without one, too.
    """
    found = [
        traceparent(headers.get("traceparent", "")),
        datadog(headers),
        b3_single(headers.get("b3", "")),
        b3_multi(headers),
        uber_trace_id(headers.get("uber-trace-id", "")),
        sw8(headers.get("sw8", "")),
    ]
    ids = next((each for each in found if each.trace_id), NOTHING)
    flag = ids.flag or next((each.flag for each in found if each.flag and not each.trace_id), 0)
    return replace(ids, flag=flag)


def traceparent(text: str) -> HeaderIds:
    """W3C Trace Context, https://www.w3.org/TR/trace-context/: version-trace_id-parent_id-flags.

    Versions to come may have more behind the flags, version 00 has not, and ff is none.
    """
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return NOTHING
    trace_id, parent = int(match[2], 16), int(match[3], 16)
    if not trace_id or not parent:
        return NOTHING
    return HeaderIds(trace_id, parent, int(match[4], 16) & 1, Encoding.HEX)


def datadog(headers: Mapping[str, str]) -> HeaderIds:
    """x-datadog-*: decimal ids of 64 bits; `_dd.p.tid`, by itself or among the tags, is the trace id's upper half."""
    low, parent = _decimal(headers.get("x-datadog-trace-id", "")), _decimal(headers.get("x-datadog-parent-id", ""))
    priority = headers.get("x-datadog-sampling-priority", "").strip()
    flag = 0
    if _PRIORITY.fullmatch(priority):
        flag = 1 if int(priority) > 0 else -1
    if not low:
        return HeaderIds(flag=flag)
    return HeaderIds(datadog_upper(headers) << 64 | low, parent, flag, Encoding.DEC)


def datadog_upper(headers: Mapping[str, str]) -> int:
    """The upper 64 bits of a DataDog trace id, 0 where nothing says them."""
    tags = (tag.strip().partition("=") for tag in headers.get("x-datadog-tags", "").split(","))
    texts = (headers.get("_dd.p.tid", ""), *(value for key, _, value in tags if key == "_dd.p.tid"))
    return next((int(text, 16) for text in map(str.strip, texts) if _HEX_16.fullmatch(text)), 0)


def _decimal(text: str) -> int:
    """A number of 64 bits, 0 for anything else."""
    text = text.strip()
    number = int(text) if _DECIMAL.fullmatch(text) else 0
    return number if number <= _U64 else 0


def b3_single(text: str) -> HeaderIds:
    """B3, https://github.com/openzipkin/b3-propagation: trace_id-span_id[-sampled[-parent_id]], or the flag alone."""
    text = text.strip()
    if text in ("0", "1", "d"):
        return HeaderIds(flag=-1 if text == "0" else 1)
    match = _B3.fullmatch(text)
    return NOTHING if match is None else _b3(match[1], match[2], {"": 0, "0": -1}.get(match[3] or "", 1))


def b3_multi(headers: Mapping[str, str]) -> HeaderIds:
    """B3 in several headers: X-B3-TraceId, -SpanId, -Sampled, -Flags (1 is debug, which keeps)."""
    flag = _B3_FLAGS.get(headers.get("x-b3-sampled", "").strip().lower(), 0)
    if headers.get("x-b3-flags", "").strip() == "1":
        flag = 1
    trace_id, span_id = headers.get("x-b3-traceid", "").strip(), headers.get("x-b3-spanid", "").strip()
    if not _B3_TRACE.fullmatch(trace_id):
        return HeaderIds(flag=flag)
    return _b3(trace_id, span_id if _HEX_16.fullmatch(span_id) else "0", flag)


def _b3(trace_id: str, span_id: str, flag: int) -> HeaderIds:
    number = int(trace_id, 16)
    return HeaderIds(number, int(span_id, 16), flag, Encoding.HEX) if number else HeaderIds(flag=flag)


def uber_trace_id(text: str) -> HeaderIds:
    """Jaeger, https://www.jaegertracing.io/sdk-migration/#propagation-format: trace_id:span_id:parent_id:flags.

    Ids are hex without leading zeros, the colons may be percent-encoded.
    """
    match = _UBER.fullmatch(unquote(text.strip()) if "%" in text else text.strip())
    if match is None or not int(match[1], 16):
        return NOTHING
    return HeaderIds(int(match[1], 16), int(match[2], 16), int(match[3], 16) & 1, Encoding.HEX)


def sw8(text: str) -> HeaderIds:
    """SkyWalking's sw8, https://skywalking.apache.org/docs/main/latest/en/api/x-process-propagation-headers-v3/.

    Its ids are text. They become numbers as the OpenTelemetry Collector's skywalkingreceiver makes them (DeepFlow
    follows it, too), so that an eSpan meets the spans that came through a Collector. Ids of another form than agents
    make are none.
    """
    parts = text.strip().split("-")
    if len(parts) != 8 or not parts[3].isascii() or not parts[3].isdigit() or len(parts[3]) > 10:
        return NOTHING
    trace, segment = (_base64_text(part) for part in parts[1:3])
    uuid = _UUID.fullmatch(trace)
    trace_id = int("".join(uuid.groups()), 16) if uuid else _skywalking_id(trace, 0)
    segment_id = _skywalking_id(segment, int(parts[3]))
    if not trace_id:
        return NOTHING
    return HeaderIds(trace_id, segment_id >> 64 ^ segment_id & _U64, int(parts[0] == "1"), Encoding.HEX)


def _base64_text(text: str) -> str:
    try:
        return b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""


def _skywalking_id(text: str, span: int) -> int:
    """The 16 bytes of its digits, with the thread and the number behind them mixed in, from their low byte on.

    span: number of the span in its segment, mixed in as well; 0 for a trace id.
    """
    match = _SW_ID.fullmatch(text)
    if match is None:
        return 0
    mixed = (span & 0xFFFFFFFF).to_bytes(4, "little")
    if match[2]:
        thread, number = int(match[2]), int(match[3])
        if thread > 0xFFFFFFFF or number > _U64:
            return 0
        mixed += thread.to_bytes(4, "little") + number.to_bytes(8, "little")
    return int(match[1], 16) ^ int.from_bytes(mixed.ljust(16, b"\0"), "big")
