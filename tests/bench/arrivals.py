"""What arrived at a sink: the ids of spans, how late they were, and what was refused. Counts are exact."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a sink took, and what of it came more than once."""

    requests: int
    refused: int
    """Requests that were told to come again."""
    spans: int
    distinct: int
    copies: int
    last_ns: int
    """When the last span came, ns since the epoch; 0 where none did."""
    late_p50_s: float
    late_p99_s: float
    """From a span's end to its arrival; 0 where ends are not known."""


class Arrivals:
    """Collects ids body by body; they are compared when somebody asks, not before."""

    def __init__(self) -> None:
        self.open = True
        """Whether bodies are taken; a closed backend refuses them."""
        self.spans = self.requests = self.refused = 0
        self.last_ns = 0
        self._ids: list[U64] = []
        self._late_s: list[NDArray[np.float32]] = []

    def refuses(self) -> bool:
        """Count a request; whether it is to be refused."""
        self.requests += 1
        self.refused += not self.open
        return not self.open

    def add(self, ids: U64, end_ns: NDArray[np.int64] | None = None) -> None:
        """Take the spans of one body: their ids, and, where it is known, when they ended, ns since the epoch."""
        self.last_ns = time.time_ns()
        self._ids.append(ids)
        if end_ns is not None:
            self._late_s.append(((self.last_ns - end_ns) / 1e9).astype(np.float32))
        self.spans += ids.size

    def totals(self) -> Totals:
        """Everything until now; as expensive as sorting all ids."""
        ids = np.concatenate(self._ids or [np.zeros(0, np.uint64)])
        late = np.concatenate(self._late_s or [np.zeros(0, np.float32)])
        distinct = int(np.unique(ids).size)
        p50, p99 = np.percentile(late, [50, 99]).tolist() if late.size else (0.0, 0.0)
        return Totals(self.requests, self.refused, ids.size, distinct, ids.size - distinct, self.last_ns, p50, p99)


def answer_commands(arrivals: Arrivals) -> None:
    """Answer each line on standard input with one line of JSON, until there is no more.

    Commands: spans (how many came, and the CPU seconds this process had), totals, close and open the backend.
    """

    def spans() -> object:
        return {"spans": arrivals.spans, "cpu_s": time.process_time()}

    def totals() -> object:
        return asdict(arrivals.totals())

    def close() -> object:
        arrivals.open = False
        return {}

    def reopen() -> object:
        arrivals.open = True
        return {}

    commands: dict[str, Callable[[], object]] = {"spans": spans, "totals": totals, "close": close, "open": reopen}
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)
