"""Several requests decoded as one."""

from dataclasses import dataclass

from bridge.codec.rows import faulty_keys
from bridge.spans import SpanBatch


@dataclass(frozen=True, slots=True)
class Together:
    """The spans of several requests, in their order: every one of them was taken."""

    batch: SpanBatch

    @property
    def faulty(self) -> dict[str, int]:
        """How many eSpans of the batch have a key that is missing though required or unreadable, by key."""
        return faulty_keys(self.batch.columns.faults)

    def part(self, first: int, end: int) -> "Together":
        """The spans from first up to end alone."""
        return Together(self.batch.part(first, end))
