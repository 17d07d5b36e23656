"""The map of services."""

from bridge.web.services import service_map
from bridge.web.traces import RecentTraces
from tests.support.kept_traces import keep
from tests.unit.web.test_web_traces import MIB, request, span


def a_map(share: float = 1.0, since_s: float = 0.0) -> dict[str, object]:
    traces = RecentTraces(10, MIB)
    for number in range(1, 5):
        calls = [span(2, number, 1, end_ms=10 * number, failed=number == 4)]
        keep(traces, [request(("shop", [span(1, number, end_ms=100)]), ("bank", calls))], 100.0 + number)
    return service_map(traces, since_s=since_s, now_s=111.0, share_since=lambda _: share)


def test_requests_calls_errors_and_durations() -> None:
    """Four requests in ten seconds, of which one failed in the bank."""
    made = a_map()
    shop = {"name": "shop", "per_s": 0.4, "errors": 0.0, "p50_ms": 100.0, "p95_ms": 100.0}
    bank = {"per_s": 0.4, "errors": 0.25, "p50_ms": 25.0, "p95_ms": 38.5}
    assert made["services"] == [{"name": "bank", **bank}, shop]
    assert made["calls"] == [{"from": "shop", "to": "bank", **bank}]


def test_rates_are_scaled_by_the_share_that_was_seen() -> None:
    """A tenth was seen: ten times as many there were."""
    services = a_map(share=0.1)["services"]
    assert isinstance(services, list)
    assert services[0]["per_s"] == 4.0


def test_old_traces_do_not_count() -> None:
    """Nothing since then: no services."""
    assert a_map(since_s=105.0)["services"] == []
