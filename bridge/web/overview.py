"""The state of the bridge as the API gives it: made of its metrics, as anybody could who reads /metrics."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from bridge.web.advice import RECENT_S, problems
from bridge.web.history import History, Samples, Snapshot, total
from bridge.web.traces import KeptTrace, RecentTraces

RATE_S = 10.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while the bridge runs."""

    version: str
    started_s: float
    """Seconds since the epoch."""
    window_s: float
    sampling_rate: float
    workers: int
    listeners: Callable[[], Mapping[str, str]]
    """Address of each listener by name, once it listens."""
    trace_url: str = ""
    """Address of a trace in a backend's own page, with {trace_id} in it; "" for none."""


class Overview:
    """Answers for /api/status and /api/links."""

    def __init__(
        self,
        about: About,
        history: History,
        samples: Callable[[], Samples],
        *,
        not_ready: Callable[[], str],
        last_errors: Callable[[], Mapping[str, str]],
    ) -> None:
        """last_errors: by exporter, "" for one that gets through."""
        self.about = about
        self._history, self._samples = history, samples
        self._not_ready, self._last_errors = not_ready, last_errors

    def status(self, traces: RecentTraces) -> dict[str, Any]:
        """What goes in and out, what waits, how full everything is, and what is wrong; the lag as kept traces say."""
        now, samples = self._history.now(), self._samples()
        before = self._history.before(now, RATE_S)
        errors, not_ready = self._last_errors(), self._not_ready()
        found = problems(
            samples, self._history.before(now, RECENT_S), now.time_s, not_ready=not_ready, last_errors=errors
        )
        return {
            "time_s": now.time_s,
            "version": self.about.version,
            "uptime_s": now.time_s - self.about.started_s,
            "ready": not not_ready,
            "window_s": self.about.window_s,
            "sampling_rate": self.about.sampling_rate,
            "workers": self.about.workers,
            "kept_traces": len(traces),
            "problems": [problem.to_json() for problem in found],
            "receivers": [_receiver(name, now, before, self.about.listeners()) for name in _labels(now, "receiver")],
            "exporters": [_exporter(name, now, before, samples, error) for name, error in errors.items()],
            "linker": {
                "waiting_spans": total(samples, "linker_waiting_spans"),
                "retained_spans": total(samples, "linker_retained_spans"),
                "left_per_s": _rate(now, before, "linker_left_spans_total"),
                "lag_s": _lag_s(traces, now.time_s - RECENT_S),
            },
            "store": {name: total(samples, f"store_{name}_bytes") for name in ("used", "free", "limit")},
            "memory": {
                "rss_bytes": total(samples, "process_memory_rss_bytes"),
                "limit_bytes": total(samples, "process_memory_limit_bytes"),
                "pushing_back": bool(total(samples, "process_memory_pushing_back")),
            },
            "lines": {
                "in": self._history.line("receiver_accepted_spans_total"),
                "out": self._history.line("exporter_sent_spans_total"),
            },
        }

    def links(self, traces: RecentTraces) -> dict[str, Any]:
        """How well spans were linked over the last hour; confidence and clocks as kept traces know them."""
        now = self._history.now()
        past = self._history.before(now, HOUR_S)
        methods = _by_label(now, past, "linker_edges_total", "method")
        edges = sum(methods.values())
        return {
            "since_s": past.time_s,
            "kept_traces": len(traces),
            "edges": methods,
            "unlinked_share": methods.get("none", 0.0) / edges if edges else None,
            "oddities": _by_label(now, past, "linker_oddities_total", "kind"),
            "outcomes": _by_label(now, past, "linker_left_spans_total", "outcome"),
            "confidence": _confidence(traces),
            "clocks": _clocks(traces),
        }


def _labels(snapshot: Snapshot, label: str) -> list[str]:
    keys = snapshot.counters.get("receiver_accepted_spans_total", {})
    return sorted({dict(key).get(label, "") for key in keys})


def _rate(now: Snapshot, before: Snapshot, name: str, **labels: str) -> float:
    seconds = now.time_s - before.time_s
    return max(0.0, now.value(name, **labels) - before.value(name, **labels)) / seconds if seconds > 0 else 0.0


def _receiver(name: str, now: Snapshot, before: Snapshot, addresses: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "address": addresses.get(name, ""),
        "spans_per_s": _rate(now, before, "receiver_accepted_spans_total", receiver=name),
        "bytes_per_s": _rate(now, before, "receiver_received_bytes_total", receiver=name),
        "spans": now.value("receiver_accepted_spans_total", receiver=name),
        "refused_requests": now.value("receiver_refused_requests_total", receiver=name),
        "refused_per_s": _rate(now, before, "receiver_refused_requests_total", receiver=name),
        "refused_by_reason": _refused(name, now),
    }


def _refused(name: str, now: Snapshot) -> dict[str, float]:
    refused = now.counters.get("receiver_refused_requests_total", {})
    by_reason: dict[str, float] = defaultdict(float)
    for key, count in refused.items():
        if count and ("receiver", name) in key:
            by_reason[dict(key).get("reason", "")] += count
    return dict(sorted(by_reason.items()))


def _lag_s(traces: Iterable[KeptTrace], since_s: float) -> float | None:
    """From the end of a trace's last span until it left: the median of those since then, None without any."""
    lags = [trace.left_s - trace.end_ns / 1e9 for trace in traces if trace.left_s >= since_s and trace.end_ns]
    return median(lags) if lags else None


def _exporter(name: str, now: Snapshot, before: Snapshot, samples: Samples, error: str) -> dict[str, Any]:
    return {
        "name": name,
        "last_error": error,
        "spans_per_s": _rate(now, before, "exporter_sent_spans_total", exporter=name),
        "spans": now.value("exporter_sent_spans_total", exporter=name),
        "lost_spans": now.value("exporter_send_failed_spans_total", exporter=name),
        "retries": now.value("exporter_retries_total", exporter=name),
        "queue_ticks": total(samples, "exporter_queue_size", exporter=name),
        "oldest_undelivered_s": total(samples, "exporter_oldest_undelivered_age_seconds", exporter=name),
    }


def _by_label(now: Snapshot, past: Snapshot, name: str, label: str) -> dict[str, float]:
    values = {dict(key).get(label, "") for key in now.counters.get(name, {})}
    grown = {value: now.value(name, **{label: value}) - past.value(name, **{label: value}) for value in sorted(values)}
    return {value: count for value, count in grown.items() if count > 0}


def _confidence(traces: Iterable[KeptTrace]) -> dict[str, int]:
    """Edges of kept traces by how sure they are, in tenths: "0.9" are those from 0.9 to below 1."""
    counts: dict[str, int] = defaultdict(int)
    for trace in traces:
        for span in trace.spans:
            if span.confidence is not None:
                counts[f"{int(span.confidence * 10 + 1e-9) / 10:.1f}"] += 1
    return dict(sorted(counts.items()))


def _clocks(traces: Iterable[KeptTrace]) -> list[dict[str, Any]]:
    """How far each host's clock is ahead, as the youngest trace says."""
    offsets = {s.host: s.clock_offset_ns for trace in traces for s in trace.spans if s.clock_offset_ns is not None}
    return [{"host": host, "offset_ms": offset / 1e6} for host, offset in sorted(offsets.items())]
