"""The map of services: who calls whom, how often, how fast and how well, as far as kept traces tell."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bridge.web.traces import KeptTrace, SpanView

Calls = list[SpanView]


def service_map(traces: Iterable[KeptTrace], *, since_s: float, now_s: float, share: float) -> dict[str, Any]:
    """Services, and calls between them, in traces kept since then.

    share: of all spans that left meanwhile, how many are in these traces; rates are what was counted, divided by it.
    A service's requests are its server spans; those it sends itself on one machine count at both ends alike.
    """
    served: dict[str, Calls] = defaultdict(list)
    called: dict[tuple[str, str], Calls] = defaultdict(list)
    first_s = now_s
    count = 0
    for trace in traces:
        if trace.arrived_s < since_s:
            continue
        count += 1
        first_s = min(first_s, trace.arrived_s)
        _add(trace.spans, served, called)
    scale = 1 / (max(now_s - first_s, 1.0) * share) if share > 0 else 0.0
    return {
        "traces": count,
        "share": share,
        "services": [{"name": name, **_figures(spans, scale)} for name, spans in sorted(served.items())],
        "calls": [{"from": a, "to": b, **_figures(spans, scale)} for (a, b), spans in sorted(called.items())],
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


def _figures(spans: Calls, scale: float) -> dict[str, Any]:
    """Requests a second, share of failed ones, and durations (ms)."""
    if not spans:
        return {"per_s": 0.0, "errors": 0.0, "p50_ms": None, "p95_ms": None}
    lengths = np.array([max(0, span.end_ns - span.start_ns) for span in spans]) / 1e6
    p50, p95 = np.quantile(lengths, (0.5, 0.95)).tolist()
    failed = sum(span.error for span in spans)
    return {"per_s": len(spans) * scale, "errors": failed / len(spans), "p50_ms": p50, "p95_ms": p95}
