"""Attributes that have to leave as they came, or as linking wrote them: without them spans are no trace any more."""

from typing import Final

from bridge.spans import convention

CHANGEABLE: Final = frozenset((convention.SRC_IP, convention.DST_IP))
"""Keys that linking reads and that nobody needs once it has: what is compared with them is kept in columns."""

_WRITTEN: Final = (
    convention.EBPF_TRACE_ID,
    convention.EBPF_PARENT_ID,
    convention.ESPAN_LINK_METHOD,
    convention.ESPAN_LINK_CONFIDENCE,
    convention.ESPAN_CLOCK_OFFSET_NS,
    convention.ESPAN_CLOCK_UNCERTAINTY_NS,
    convention.ESPAN_CLOCK_REFERENCE,
)

NEEDED: Final = frozenset(
    {
        *convention.KEY_OF_BIT,
        *_WRITTEN,
        *(key.replace(".", "_") for key in _WRITTEN),
        "trace_id",
        "span_id",
        "parent_id",
        "span_links",
    }
    - CHANGEABLE
)
"""What makes spans a trace: here, at a backend, or in a linker that comes behind the bridge."""

NOT_DROPPED: Final = frozenset({convention.RESOURCE, "span.name"})
"""What a span has to have, but may have in any words: a Dataway refuses a body with a point that has no resource."""
