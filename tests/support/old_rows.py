"""Rows as store version 1 wrote them: a length in 8 bytes, then zlib's stream over everything together."""

import struct
import zlib

import numpy as np

from bridge.spans import PayloadBlock
from bridge.store.packing import decompress_all, pack_arrays_plain


def deflated(raw: bytes) -> bytes:
    """What version 1 made of these bytes."""
    return struct.pack("<Q", len(raw)) + zlib.compress(raw, 1)


def repacked(row: bytes) -> bytes:
    """Columns or decisions of today as version 1 wrote them."""
    (raw,) = decompress_all(row)
    return deflated(raw)


def old_payload(block: PayloadBlock) -> bytes:
    """A batch's payload as version 1 wrote it: spans behind what surrounds them, in one piece."""
    around = [part for c in block.contexts for part in (c.resource_spans, c.scope_spans)]
    sizes = np.array([len(part) for part in around], np.int64)
    heads = pack_arrays_plain([np.diff(block.offsets), block.context, sizes])
    data = block.data[int(block.offsets[0]) : int(block.offsets[-1])]
    return deflated(b"".join((bytes((block.format,)), heads, *around, data)))
