"""What is wrong, in words, and what to do about it; docs/operations.md says more about each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.web.history import Labels, Samples, Snapshot, total

RECENT_S = 300.0
LATE_S = 60.0
FULL = 0.9
EXPIRES_S = 14 * 86_400.0
FEW_EDGES = 100
ALONE = 0.5


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `error` where spans are lost or none pass, `warning` where that may come."""

    severity: Literal["error", "warning"]
    what: str
    do: str

    def to_json(self) -> dict[str, str]:
        """As the API gives it."""
        return {"severity": self.severity, "what": self.what, "do": self.do}


def problems(
    now: Samples, past: Snapshot, at_s: float, *, not_ready: str, last_errors: Mapping[str, str]
) -> list[Problem]:
    """Everything that is wrong at present, errors first.

    past: counters some minutes ago, which tell what is new from what was once. last_errors: by exporter.
    """
    found = [
        *_not_ready(not_ready),
        *_lost(now, past),
        *_exporters(now, last_errors),
        *_refused(now, past),
        *_bounds(now),
        *_certificates(now, at_s),
        *_links(now, past),
    ]
    return sorted(found, key=lambda problem: problem.severity != "error")


def _grown(now: Samples, past: Snapshot, name: str) -> dict[Labels, float]:
    """By how much each series of a counter grew since then, those that did not left out."""
    before = past.counters.get(name, {})
    grown = {key: value - before.get(key, 0.0) for key, value in now.get(name, {}).items()}
    return {key: value for key, value in grown.items() if value > 0}


def _not_ready(reason: str) -> Iterator[Problem]:
    if reason:
        yield Problem(
            "error",
            f"The bridge is not ready: {reason}.",
            "While it starts or stops, wait. If the store cannot commit, look at the disk of db_path: space, "
            "permissions, errors. Senders are asked to try again meanwhile.",
        )


def _lost(now: Samples, past: Snapshot) -> Iterator[Problem]:
    for key, spans in _grown(now, past, "exporter_send_failed_spans_total").items():
        labels = dict(key)
        yield Problem(
            "error",
            f"{spans:.0f} spans are lost to exporter {labels.get('exporter')}: {labels.get('reason')}.",
            "The backend will never take them. The log says why; docs/delivery.md lists the answers.",
        )
    for key, spans in _grown(now, past, "store_lost_spans_total").items():
        yield Problem(
            "error",
            f"{spans:.0f} stored spans are lost: {dict(key).get('reason')}.",
            "The store's file is damaged. Check the disk; what was set aside lies in db_path.",
        )
    spans = sum(v for k, v in _grown(now, past, "receiver_refused_spans_total").items() if ("receiver", "datakit") in k)
    if spans:
        yield Problem(
            "error",
            f"{spans:.0f} spans of DataKit agents were refused, and agents do not send again.",
            "See what is full: memory, the store, a backend that is away; or raise receivers.datakit.hold.",
        )


def _exporters(now: Samples, last_errors: Mapping[str, str]) -> Iterator[Problem]:
    up = {dict(key).get("exporter", ""): value for key, value in now.get("exporter_up", {}).items()}
    for exporter, error in last_errors.items():
        if error and up.get(exporter, 0.0) == 0.0:
            yield Problem(
                "error",
                f"Exporter {exporter} does not get through: {error}",
                "Nothing is lost: what waits is kept in the store and tried again. Check the address, the network, the "
                "certificate and the token; `espan-bridge outbox list` shows what waits.",
            )
    for key, age_s in now.get("exporter_oldest_undelivered_age_seconds", {}).items():
        exporter = dict(key).get("exporter", "")
        if age_s > LATE_S and not last_errors.get(exporter):
            yield Problem(
                "warning",
                f"Exporter {exporter} is {age_s:.0f} s behind.",
                "It drains its backlog beside new traces. If the age grows, the backend is too slow: raise in_flight, "
                "or lower sampling_rate.",
            )


def _refused(now: Samples, past: Snapshot) -> Iterator[Problem]:
    reasons: dict[str, float] = {}
    for key, count in _grown(now, past, "receiver_refused_requests_total").items():
        reason = dict(key).get("reason", "")
        reasons[reason] = reasons.get(reason, 0.0) + count
    for reason, count in sorted(reasons.items()):
        text, do = _REFUSALS.get(reason, _OTHER)
        yield Problem("warning", f"{count:.0f} requests were {text.format(reason=reason)} in the last minutes.", do)


_OTHER = ("refused ({reason})", "docs/limits.md says what each reason means; the answer tells the sender.")
_REFUSALS: dict[str, tuple[str, str]] = {
    "throttled": (
        "pushed back",
        "Senders keep the spans and come again; nothing is lost. If it lasts, the bridge is too small for the load: "
        "more workers, a larger memory_limit, a lower sampling rate at the senders.",
    ),
    "memory": (
        "pushed back for want of memory",
        "Senders come again. If it lasts, raise memory_limit, or shorten the window.",
    ),
    "unauthenticated": (
        "refused for want of a token",
        "A sender has no token, or an old one. docs/security.md says how tokens are changed without a gap.",
    ),
    "invalid": ("unreadable", "Something sends what is no OTLP to this port. The answer says what and where."),
    "internal": ("refused because of a defect of the bridge", "The log has a traceback. Please report it."),
}


def _bounds(now: Samples) -> Iterator[Problem]:
    if total(now, "process_memory_pushing_back"):
        yield Problem(
            "warning",
            "Memory is at its bound: senders are pushed back.",
            "Nothing is lost. If it lasts, raise memory_limit, or shorten the window.",
        )
    used, limit = total(now, "store_used_bytes"), total(now, "store_limit_bytes")
    if limit and used > FULL * limit:
        yield Problem(
            "warning",
            f"The store holds {used / limit:.0%} of store.max_bytes.",
            "A backend is away or too slow. At the quota senders are pushed back. `espan-bridge outbox list` shows "
            "whose backlog it is.",
        )


def _certificates(now: Samples, at_s: float) -> Iterator[Problem]:
    for key, expires_s in now.get("tls_certificate_expiry_timestamp_seconds", {}).items():
        left_s, part = expires_s - at_s, dict(key).get("part", "")
        if left_s <= 0:
            yield Problem(
                "error", f"The certificate of {part} has expired.", "Put a new one in its place: it is reloaded."
            )
        elif left_s < EXPIRES_S:
            text = f"The certificate of {part} expires in {left_s / 86_400:.0f} days."
            yield Problem("warning", text, "Put a new one in its place: it is reloaded without a restart.")


def _links(now: Samples, past: Snapshot) -> Iterator[Problem]:
    edges = _grown(now, past, "linker_edges_total")
    count = sum(edges.values())
    alone = sum(value for key, value in edges.items() if ("method", "none") in key)
    if count >= FEW_EDGES and alone > ALONE * count:
        yield Problem(
            "warning",
            f"{alone / count:.0%} of the spans that left in the last minutes have no parent.",
            "Single requests have none, and that is right. Else: is the other side of the calls probed, and do its "
            "spans come within a window? docs/linking.md says what links need.",
        )
