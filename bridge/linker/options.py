"""What a user may choose about links and samples."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """See docs/configuration.md, where each of these is a setting of the same name. Raises ValueError for a rate
    outside 0..1 or a negative slack."""

    use_app_trace_id: bool = True
    sampling_rate: float = 0.1
    clock_slack_ns: int = 50_000_000
    sampling_flags: Literal["honour", "ignore"] = "honour"
    datadog_reject: Literal["honour", "undecided"] = "honour"

    def __post_init__(self) -> None:
        if not 0.0 <= self.sampling_rate <= 1.0:
            raise ValueError(f"sampling_rate: {self.sampling_rate} is not between 0.0 and 1.0")
        if self.clock_slack_ns < 0:
            raise ValueError(f"clock_slack_ns: {self.clock_slack_ns} is negative")
