"""What is wrong, in words."""

import pytest

from bridge.web.advice import Problem, problems
from bridge.web.history import History, Samples, Snapshot

NOW_S = 1_000_000.0
CALM: Samples = {
    "exporter_up": {(("exporter", "a"),): 1.0},
    "store_limit_bytes": {(): 100.0},
    "store_used_bytes": {(): 10.0},
    "linker_edges_total": {(("method", "seq"),): 900.0, (("method", "none"),): 100.0},
}


def found(samples: Samples, past: Samples | None = None, not_ready: str = "", error: str = "") -> list[Problem]:
    before = Snapshot(NOW_S - 300, past or {})
    return problems({**CALM, **samples}, before, NOW_S, not_ready=not_ready, last_errors={"a": error})


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    """Silence means that all is well."""
    assert found({}) == []


@pytest.mark.parametrize(
    ("samples", "severity", "word"),
    [
        ({"exporter_send_failed_spans_total": {(("exporter", "a"), ("reason", "http_400")): 5.0}}, "error", "http_400"),
        ({"store_lost_spans_total": {(("reason", "damaged_payload"),): 5.0}}, "error", "damaged_payload"),
        ({"receiver_refused_spans_total": {(("receiver", "datakit"), ("reason", "x")): 5.0}}, "error", "DataKit"),
        ({"receiver_refused_requests_total": {(("receiver", "r"), ("reason", "throttled")): 5.0}}, "warning", "pushed"),
        ({"receiver_refused_requests_total": {(("receiver", "r"), ("reason", "odd")): 5.0}}, "warning", "odd"),
        ({"exporter_oldest_undelivered_age_seconds": {(("exporter", "a"),): 90.0}}, "warning", "90 s behind"),
        ({"process_memory_pushing_back": {(): 1.0}}, "warning", "Memory"),
        ({"store_used_bytes": {(): 95.0}}, "warning", "95%"),
        ({"tls_certificate_expiry_timestamp_seconds": {(("part", "web"),): NOW_S + 86_400}}, "warning", "1 days"),
        ({"tls_certificate_expiry_timestamp_seconds": {(("part", "web"),): NOW_S - 1}}, "error", "has expired"),
        ({"linker_edges_total": {(("method", "none"),): 900.0, (("method", "seq"),): 100.0}}, "warning", "no parent"),
    ],
)
def test_each_state_is_told_with_what_to_do(samples: Samples, severity: str, word: str) -> None:
    """One sentence says what is wrong, another what to do."""
    (problem,) = found(samples)
    assert problem.severity == severity
    assert word in problem.what
    assert problem.do


def test_what_was_lost_long_ago_is_not_told_for_ever() -> None:
    """Counters tell of the last minutes only."""
    lost: Samples = {"exporter_send_failed_spans_total": {(("exporter", "a"), ("reason", "http_400")): 5.0}}
    assert found(lost, past=lost) == []


def test_errors_come_first() -> None:
    """A bridge that is not ready is worse than a store that is nearly full."""
    told = found({"store_used_bytes": {(): 95.0}}, not_ready="the store cannot commit: disk full")
    assert [problem.severity for problem in told] == ["error", "warning"]


def test_a_backend_that_is_away_is_told_with_its_error() -> None:
    """Unless it takes spans again."""
    down: Samples = {"exporter_up": {(("exporter", "a"),): 0.0}}
    (problem,) = found(down, error="localhost:1: UNAVAILABLE")
    assert "localhost:1: UNAVAILABLE" in problem.what
    assert found({}, error="localhost:1: UNAVAILABLE") == []


def test_rates_come_from_the_youngest_snapshot_that_is_old_enough() -> None:
    """Ten seconds are what rates are taken over."""
    clock, counted = [0.0], [0.0]
    history = History(lambda: {"receiver_accepted_spans_total": {(): counted[0]}}, lambda: clock[0])
    for step in range(1, 5):
        clock[0], counted[0] = step * 10.0, step * 100.0
        history.take()
    clock[0], counted[0] = 45.0, 500.0
    before = history.before(history.now(), 10.0)
    assert (before.time_s, before.value("receiver_accepted_spans_total")) == (30.0, 300.0)
    assert history.before(history.now(), 1e9).time_s == 0.0
    assert history.line("receiver_accepted_spans_total") == [(t, 10.0) for t in (10.0, 20.0, 30.0, 40.0)]
