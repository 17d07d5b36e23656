"""What one request may hold, as far as only decoding it shows: how many spans, how large one of them, how much around.

Checked where it is cheap: spans are counted before anything is made of them, and no single span can be too large in a
request that is smaller than that itself.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.errors import TooLarge
from bridge.spans import Context

SPAN_TOO_LARGE: Final = "span_too_large"
"""Why a span, or a point, is rejected that is larger than `max_span_bytes`."""

_CONTEXT_GROWTH: Final = 8
_CONTEXT_FLOOR_BYTES: Final = 4 << 20
"""A service's command line may have 100 KB, and a request of its spans dozens of scopes: that much is fine whatever the
request has."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of one request, as settings of a receiver have them."""

    max_spans: int = 2**18
    max_span_bytes: int = 4 << 20
    """Of a span together with its resource and scope, or of a point."""
    max_json_bytes: int = 16 << 20
    """Of a body in JSON: while it is read it takes up to 25 times its size as Python objects."""

    def check_spans(self, spans: int) -> None:
        """Raises TooLarge for more spans than a request may have."""
        if spans > self.max_spans:
            raise TooLarge(f"{spans} spans in one request, more than max_request_spans = {self.max_spans}")

    def check_json(self, size: int) -> None:
        """Raises TooLarge for a larger body than one in JSON may be."""
        if size > self.max_json_bytes:
            raise TooLarge(f"{size} bytes of JSON in one body, more than max_json_bytes = {self.max_json_bytes}")

    def oversized(
        self, lengths: NDArray[np.int64], contexts: tuple[Context, ...], context: NDArray[np.uint32]
    ) -> NDArray[np.bool_] | None:
        """Which spans are too large, shape (n,); None where none is.

        lengths: bytes of each span; context: position of each one's context in `contexts`.
        """
        around = np.array([len(c.resource_spans) + len(c.scope_spans) for c in contexts], np.int64)
        largest = int(lengths.max(initial=0)) + int(around.max(initial=0))
        if largest <= self.max_span_bytes:
            return None
        too_large: NDArray[np.bool_] = lengths + around[context] > self.max_span_bytes
        return too_large if too_large.any() else None

    def rejection(self, spans: int) -> str:
        """What a sender is told of spans that are too large."""
        return f"{spans} larger than max_span_bytes = {self.max_span_bytes}"


NO_LIMITS: Final = RequestLimits(max_spans=2**62, max_span_bytes=2**62, max_json_bytes=2**62)
"""For bytes that are not a sender's, such as those of a file."""


def check_contexts(contexts: tuple[Context, ...], request_bytes: int) -> None:
    """Raises TooLarge where what surrounds the spans is much more than what it came in, of so many bytes.

    A resource is stored, and read, once for each of its scopes: a large one with very many scopes would grow without
    bound.
    """
    size = sum(len(c.resource_spans) + len(c.scope_spans) for c in contexts)
    if size > _CONTEXT_GROWTH * request_bytes + _CONTEXT_FLOOR_BYTES:
        raise TooLarge(
            f"{len(contexts)} scopes with {size} bytes of resources, each counted once for each of its scopes, "
            f"in a request of {request_bytes} bytes: send fewer scopes in one request"
        )


def cut_out(data: bytes, lengths: NDArray[np.int64], kept: NDArray[np.bool_]) -> bytes:
    """Of spans one after another in these bytes those that are kept."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    return b"".join(data[at:end] for at, end in zip(starts[kept].tolist(), ends[kept].tolist(), strict=True))
