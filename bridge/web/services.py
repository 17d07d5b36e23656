"""The map of services: who calls whom, how often, how fast and how well, as far as kept traces tell."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bridge.web.span_views import SpanView
from bridge.web.traces import KeptTrace

MAX_SERVICES, MAX_CALLS = 500, 2000
"""In an answer, the busiest of each; what is beyond is counted."""
Calls = list[SpanView]
Key = TypeVar("Key", str, tuple[str, str])


def service_map(
    traces: Iterable[KeptTrace], *, since_s: float, now_s: float, share_since: Callable[[float], float]
) -> dict[str, Any]:
    """Services, and calls between them, in traces kept since then.

    share_since: of all spans that left since a time, how many were read; rates are what was counted, divided by it.
    A service's requests are its server spans; those it sends itself on one machine count at both ends alike.
    """
    served: dict[str, Calls] = defaultdict(list)
    called: dict[tuple[str, str], Calls] = defaultdict(list)
    first_s = now_s
    count = 0
    for trace in traces:
        if trace.left_s < since_s:
            continue
        count += 1
        first_s = min(first_s, trace.left_s)
        _add(trace.spans, served, called)
    share = share_since(first_s)
    scale = 1 / (max(now_s - first_s, 1.0) * share) if share > 0 else 0.0
    services, calls = _busiest(served, MAX_SERVICES), _busiest(called, MAX_CALLS)
    return {
        "traces": count,
        "share": share,
        "services": [{"name": name, **_figures(spans, scale)} for name, spans in services],
        "calls": [{"from": a, "to": b, **_figures(spans, scale)} for (a, b), spans in calls],
        "hidden_services": len(served) - len(services),
        "hidden_calls": len(called) - len(calls),
    }


def _add(spans: Sequence[SpanView], served: dict[str, Calls], called: dict[tuple[str, str], Calls]) -> None:
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        own = served[span.service]
        if span.kind == "server":
            own.append(span)
        above = by_id.get(span.parent_id)
        if above is not None and above.service != span.service:
            called[above.service, span.service].append(span)


def _busiest(spans: Mapping[Key, Calls], most: int) -> list[tuple[Key, Calls]]:
    """So many of those with the most spans, by name."""
    return sorted(sorted(spans.items(), key=lambda item: (-len(item[1]), item[0]))[:most])


def _figures(spans: Calls, scale: float) -> dict[str, Any]:
    """Requests a second, share of failed ones, and durations (ms)."""
    if not spans:
        return {"per_s": 0.0, "errors": 0.0, "p50_ms": None, "p95_ms": None}
    lengths = np.array([span.duration_ns for span in spans], np.float64) / 1e6
    p50, p95 = np.quantile(lengths, (0.5, 0.95)).tolist()
    failed = sum(span.error for span in spans)
    return {"per_s": len(spans) * scale, "errors": failed / len(spans), "p50_ms": p50, "p95_ms": p95}
