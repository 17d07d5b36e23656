"""Several requests decoded as one."""

from dataclasses import dataclass

from bridge.spans import SpanBatch


@dataclass(frozen=True, slots=True)
class Together:
    """The spans of several requests, in their order: every one of them was taken."""

    batch: SpanBatch
    faulty: dict[str, int]
    """How many eSpans of the batch have a key that is missing though required or unreadable, by key."""
