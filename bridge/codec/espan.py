"""What the values of an eSpan's attributes mean: the rules of docs/espan.md, in plain Python, for one span at a time.

The kernel follows the same rules in C (_espan.pxd); tests hold the two together.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from typing import Final

import numpy as np

from bridge.codec.digest import digests
from bridge.spans import Direction, Encoding, Kind, convention, text_hash

Value = str | int | bytes
"""An attribute's value; bytes stand for whatever is neither text nor an integer."""

U64: Final = 2**64 - 1
MAX_NS: Final = 2**63 - 1
MAX_CACHED_TEXT: Final = 256
"""Longer texts are not kept in caches: what a sender writes may not decide how much memory they take."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_HEX_32: Final = re.compile(r"[0-9a-fA-F]{32}")
_HEX_16: Final = re.compile(r"[0-9a-fA-F]{16}")
_KINDS: Final = {"entry": Kind.ENTRY, "exit": Kind.EXIT, "unknown": Kind.UNKNOWN}
_DIRECTIONS: Final = {
    "incoming": Direction.INCOMING,
    "outgoing": Direction.OUTGOING,
    "unknown": Direction.UNKNOWN,
}
_ENCODINGS: Final = {"hex": Encoding.HEX, "dec": Encoding.DEC}
_COUNTED: Final = tuple(k for k in convention.IDENTITY if k not in (convention.START, convention.DURATION))
"""Times may come from the span itself, so they are counted apart."""


def integer(value: Value) -> int | None:
    """The bit pattern (0..2**64-1) of an int or of decimal text; None if it is neither."""
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            return None
        value = int(value)
    if isinstance(value, bytes) or not -(2**63) <= value <= U64:
        return None
    return value & U64


def hash_of(text: str) -> int:
    """`text_hash`, without remembering long texts."""
    return text_hash(text) if len(text) <= MAX_CACHED_TEXT else text_hash.__wrapped__(text)


def request_hash(text: str) -> int:
    """What stands for a request id that is no number: XXH64 with seed 0 of its UTF-8; 1 where that is 0."""
    data = text.encode()
    return int(digests(data, np.array([0, len(data)], np.int64))[0]) or 1


def address(text: str) -> int:
    """IPv4, also mapped into IPv6, as a number; any other address as the hash of its text."""
    return _address(text) if len(text) <= MAX_CACHED_TEXT else hash_of(text)


@lru_cache(maxsize=65536)
def _address(text: str) -> int:
    try:
        found = ip_address(text)
    except ValueError:
        return text_hash(text)
    mapped = found if isinstance(found, IPv4Address) else found.ipv4_mapped
    return text_hash(text) if mapped is None else int(mapped)


def read_espan(values: Mapping[str, Value], own_start: int, own_end: int) -> dict[str, int]:
    """Columns of an eSpan by name, without its ids, besides `duration_ns` and `keys_present` for `derive_span_ids`.

    values: attributes that have a value; empty text is none. own_start, own_end: the span's own times (ns), 0 if it has
    none.
    """
    read = _Reader(values)
    row = {
        "kind": read.word(convention.EBPF_SPAN_TYPE, _KINDS) or Kind.UNKNOWN,
        "direction": read.word(convention.DIRECTION, _DIRECTIONS),
        "req_seq": read.integer(convention.REQ_SEQ),
        "resp_seq": read.integer(convention.RESP_SEQ),
        "thread_trace_id": read.integer(convention.THREAD_TRACE_ID),
        "pid": read.name(convention.PID),
        "tid": read.integer(convention.TID),
        "tid_usr": read.integer(convention.TID_USR),
        "ktime": read.time(convention.KTIME, 1),
        "src_ip": read.address(convention.SRC_IP),
        "src_port": read.port(convention.SRC_PORT),
        "dst_ip": read.address(convention.DST_IP),
        "dst_port": read.port(convention.DST_PORT),
        "app_flag": read.sign(convention.APP_SPAN_SAMPLED),
        "request_id": read.request(convention.REQUEST_ID),
        "stream_id": read.stream(convention.STREAM_ID),
        **_header_ids(read),
    }
    row |= _times(read, own_start, own_end)
    row["faults"] = read.faults
    known = sum(key in read.values and not read.faults & convention.FAULT[key] for key in _COUNTED)
    row["keys_present"] = known + (row["start_ns"] != 0) + row.pop("duration_known")
    return row


def _times(read: "_Reader", own_start: int, own_end: int) -> dict[str, int]:
    start_attribute = read.time(convention.START, 1000)
    duration_attribute = read.time(convention.DURATION, 1000)
    has_duration = read.has_time(convention.DURATION, 1000)
    start = own_time(own_start) or start_attribute
    end = own_time(own_end)
    if not end and start and has_duration and start + duration_attribute <= MAX_NS:
        end = start + duration_attribute
    both = start != 0 and end != 0
    return {
        "start_ns": start,
        "end_ns": end,
        "duration_ns": (end - start) & U64 if both else duration_attribute,
        "duration_known": both or has_duration,
    }


def own_time(time_ns: int) -> int:
    """A span's own time, 0 where it is beyond what a column holds."""
    return time_ns if time_ns <= MAX_NS else 0


def _header_ids(read: "_Reader") -> dict[str, int]:
    low = read.integer(convention.APP_TRACE_ID_L)
    high = read.integer(convention.APP_TRACE_ID_H)
    parent = read.integer(convention.APP_PARENT_ID_L)
    text_form, text_high, text_low = read.trace_id(convention.APP_TRACE_ID)
    if not high | low:
        high, low = text_high, text_low
    said = read.word(convention.APP_TRACE_ENCODE, _ENCODINGS)
    form = said or text_form or (Encoding.HEX if high else Encoding.DEC)
    text_parent = read.parent_id(convention.APP_PARENT_ID, form == Encoding.HEX)
    return {
        "app_trace_hi": high,
        "app_trace_lo": low,
        "app_parent": parent or text_parent,
        "app_encode": form if high | low else Encoding.ABSENT,
    }


class _Reader:
    """Reads one span's values by key; what cannot be read is 0, with its fault noted."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = {key: value for key, value in values.items() if value != ""}
        self.faults = sum(convention.FAULT[key] for key in convention.REQUIRED if key not in self.values)

    def _fault(self, key: str) -> int:
        self.faults |= convention.FAULT[key]
        return 0

    def integer(self, key: str) -> int:
        if key not in self.values:
            return 0
        number = integer(self.values[key])
        return self._fault(key) if number is None else number

    def sign(self, key: str) -> int:
        number = self.integer(key)
        return 0 if not number else 1 if number <= MAX_NS else -1

    def time(self, key: str, unit_ns: int) -> int:
        """In ns; 0 where it is absent, negative or too large."""
        number = self.integer(key)
        return number * unit_ns if number <= MAX_NS // unit_ns else 0

    def has_time(self, key: str, unit_ns: int) -> bool:
        number = self.integer(key)
        return key in self.values and not self.faults & convention.FAULT[key] and number <= MAX_NS // unit_ns

    def port(self, key: str) -> int:
        number = self.integer(key)
        return number if number <= 0xFFFF else self._fault(key)

    def word(self, key: str, words: Mapping[str, int]) -> int:
        value = self.values.get(key)
        if value is None:
            return 0
        return words[value] if isinstance(value, str) and value in words else self._fault(key)

    def name(self, key: str) -> int:
        value = self.values.get(key, 0)
        number = integer(value)
        if number is None:
            return hash_of(value) if isinstance(value, str) else self._fault(key)
        return number

    def request(self, key: str) -> int:
        """A number, or the hash of a text, which is never 0."""
        value = self.values.get(key, 0)
        number = integer(value)
        if number is None:
            return request_hash(value) if isinstance(value, str) else self._fault(key)
        return number

    def stream(self, key: str) -> int:
        number = self.integer(key)
        return number if number <= 0xFFFFFFFF else self._fault(key)

    def address(self, key: str) -> int:
        value = self.values.get(key)
        if value is None:
            return 0
        return address(value) if isinstance(value, str) else self._fault(key)

    def trace_id(self, key: str) -> tuple[int, int, int]:
        """How it is written, its upper and its lower half."""
        value = self.values.get(key)
        if isinstance(value, str) and _HEX_32.fullmatch(value):
            return Encoding.HEX, int(value[:16], 16), int(value[16:], 16)
        if value is None or (number := integer(value)) is None:
            return 0, 0, self._fault(key) if value is not None else 0
        return Encoding.DEC, 0, number

    def parent_id(self, key: str, hexadecimal: bool) -> int:
        value = self.values.get(key)
        if value is None:
            return 0
        number = integer(value)
        if isinstance(value, str) and _HEX_16.fullmatch(value) and (hexadecimal or number is None):
            return int(value, 16)
        return self._fault(key) if number is None else number
