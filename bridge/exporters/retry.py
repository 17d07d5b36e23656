"""How long to wait after a delivery failed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff without end.

    Waits are short: while a backend is away one body at a time asks for it, and traces are to arrive within seconds
    once it is back.
    """

    initial_s: float = 0.5
    multiplier: float = 1.5
    max_s: float = 2.0
    jitter: float = 0.5
    """Each wait is drawn from (1 - jitter, 1] times the backoff, so that many senders do not come in step."""
    max_retry_after_s: float = 3600.0
    """No backend may silence an exporter for longer, whatever its clock says."""
    max_body_s: float = 300.0
    """Longest wait of a body that is not taken while others are."""

    def wait_s(self, failures: int, spread: float) -> float:
        """Seconds between attempts after so many failures in a row; `spread` is uniform in [0, 1)."""
        # past this many steps the backoff is at its maximum anyway, and the power would overflow one day
        steps = min(failures - 1, 100)
        backoff = min(self.initial_s * self.multiplier**steps, self.max_s)
        return backoff * (1 - self.jitter * spread)

    def named_wait_s(self, retry_after_s: float, spread: float) -> float:
        """Seconds to wait where the backend named a time: never less, and up to a tenth more."""
        return min(retry_after_s, self.max_retry_after_s) * (1 + 0.1 * spread)

    def body_wait_s(self, failures: int, spread: float) -> float:
        """Seconds until a body that alone is not taken is tried again: doubled each time, up to `max_body_s`."""
        backoff = min(self.initial_s * 2.0 ** min(failures - 1, 100), max(self.max_body_s, self.initial_s))
        return backoff * (1 - self.jitter * spread)
