"""What a user may choose about links and samples."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """See docs/configuration.md, where each of these is a setting of the same name. Raises ValueError for a rate or a
    confidence outside 0..1, a negative slack or budget."""

    use_app_trace_id: bool = True
    sampling_rate: float = 0.1
    clock_slack_ns: int = 50_000_000
    sampling_flags: Literal["honour", "ignore"] = "honour"
    datadog_reject: Literal["honour", "undecided"] = "honour"
    app_trace_scope: Literal["downstream", "trace"] = "downstream"

    timing: bool = False
    """Whether threads are checked and timing may tell, for which rows have to be all that is known of their processes.
    For an Assembler: whether what no key says is looked for among rows that wait."""
    min_confidence: float = 0.5
    timing_budget: int = 10_000_000

    def __post_init__(self) -> None:
        if not 0.0 <= self.sampling_rate <= 1.0:
            raise ValueError(f"sampling_rate: {self.sampling_rate} is not between 0.0 and 1.0")
        if self.clock_slack_ns < 0:
            raise ValueError(f"clock_slack_ns: {self.clock_slack_ns} is negative")
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ValueError(f"min_confidence: {self.min_confidence} is not between 0.0 and 1.0")
        if self.timing_budget < 0:
            raise ValueError(f"timing_budget: {self.timing_budget} is negative")
