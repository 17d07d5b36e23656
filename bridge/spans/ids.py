"""Span ids derived from content, and 64-bit hashes of text; docs/span-ids.md describes both."""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

U64Array = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
MIN_KEYS = 3
"""An identity with fewer keys than this says too little; the span's bytes are hashed instead."""


@lru_cache(maxsize=65536)
def text_hash(text: str) -> int:
    """64-bit hash of text: the first 8 bytes, little-endian, of its BLAKE2b digest; 0 only for the empty text."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def mix(values: U64Array) -> U64Array:
    """Scramble 64-bit numbers one to one: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def combine(columns: tuple[U64Array, ...]) -> U64Array:
    """One 64-bit hash per row over several columns, in order: h = mix(h xor column), from h = 0."""
    h = np.zeros(columns[0].size, np.uint64)
    for column in columns:
        h = mix(h ^ column)
    return h


def derive_span_ids(
    identity: tuple[U64Array, ...], keys_present: NDArray[np.uint8], digest: U64Array, sent: U64Array
) -> U64Array:
    """Span id of each row: the sender's where it is not 0, else a hash of what the span is; never 0.

    identity: the columns ebpf_span_type, direction, req_seq, resp_seq, thread_trace_id, pid, tid, tid_usr, ktime,
    start_ns, duration_ns, src_ip, src_port, dst_ip, dst_port as uint64, in this order. keys_present: how many of these
    keys the span carries; with fewer than `MIN_KEYS` its digest is hashed instead. Neither the sender's address nor
    the time of arrival enters, so a span that arrives twice by two ways gets one id.
    """
    by_keys = combine(identity)
    derived = np.where(keys_present >= MIN_KEYS, by_keys, mix(digest))
    derived = np.where(derived == 0, np.uint64(1), derived)
    return np.where(sent != 0, sent, derived)
