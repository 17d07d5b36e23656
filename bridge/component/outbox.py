"""What an operator sees of what exporters have not delivered, and may do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What one exporter has not delivered."""

    exporter: str
    cursor: int
    """Every tick up to this one is delivered."""
    ticks: int
    """Undelivered ones; of some a part may be delivered."""
    spans: int
    bytes: int
    """What these spans take in the store, about; exporters may have them in common."""
    oldest_age_s: float | None
    """How long ago the oldest of the ticks left; None without any."""
    last_error: str
    """What the latest failed attempt was answered, "" where none failed since."""
    next_attempt_s: float | None
    """Until the backend is asked again; None where nothing is waited for."""


class Outboxes(Protocol):
    """The outboxes of a bridge, whether it runs or not. Every method raises StoreUnavailable."""

    async def status(self) -> Sequence[OutboxStatus]:
        """Of each exporter, in the order of their names."""
        ...

    async def retry(self, exporter: str | None) -> Sequence[str]:
        """End present waits of this exporter, or of all; returns whose.

        Raises LookupError for an exporter that is not there.
        """
        ...

    async def drop(self, exporter: str, older_than_s: float | None) -> int:
        """Give up what this exporter has not delivered and that left longer ago than this, or everything.

        Returns how many spans. They are counted as lost. Raises LookupError for an exporter that is not there.
        """
        ...
