"""Bytes to spans and back: OTLP as protobuf and as JSON. Pure: no I/O, no clock, no logging.

Guarantees: a span's own bytes are never changed by reading them; bytes that cannot be read raise InvalidData, which
says what is wrong and where; equal input gives equal output, with a compiled kernel or without. What the attributes of
an eSpan mean is written down in docs/espan.md, how ids and digests are computed in docs/span-ids.md.

Decided against: an object per span, and reading attributes that linking does not need.
"""

from bridge.codec.otlp_scan import kernel_in_use

__all__ = ["kernel_in_use"]
