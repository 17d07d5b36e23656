"""Trace ids of eBPF traces, as the linker that this one replaces makes them."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

U64Array = NDArray[np.uint64]


def trace_ids_plain(first: U64Array, second: U64Array) -> tuple[U64Array, U64Array]:
    """Upper and lower half of the MD5 digest (RFC 1321) of each pair, both numbers little-endian.

    The digest is read as two little-endian numbers: the first eight bytes are the lower half, the last eight the upper.
    Of a root with a net id the pair is (req_seq, resp_seq), of any other (span id, start in ns).
    """
    pairs = np.stack([first, second], axis=1).astype("<u8").tobytes()
    digests = [hashlib.md5(pairs[i : i + 16], usedforsecurity=False).digest() for i in range(0, len(pairs), 16)]
    halves = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 1].copy(), halves[:, 0].copy()


if TYPE_CHECKING:
    trace_ids = trace_ids_plain
else:
    try:
        from bridge.linker._md5 import trace_ids
    except ImportError:  # no C compiler was there when the bridge was installed
        trace_ids = trace_ids_plain
