"""The bridge's own metrics and traces: where they are sent, and that nothing else makes it send any."""

import time
from pathlib import Path

import aiohttp
import anyio
import pytest

from tests.support.bridge_process import Bridge, Setup, started
from tests.support.senders import simulated, span_ids
from tests.support.telemetry_sink import TelemetrySink, attributes_of, value_of

TRACES = 40
WAIT_S = 30.0
OTLP = """
[telemetry.otlp]
endpoint = "http://127.0.0.1:{port}"
protocol = "{protocol}"
interval = "300ms"
headers = {{authorization = "Bearer own-0123456789"}}
resource = {{"deployment.environment.name" = "test"}}
[telemetry.traces]
sampling_rate = 1.0
"""
NAMED = {"OTEL_SERVICE_NAME": "bridge-7", "OTEL_RESOURCE_ATTRIBUTES": "team=obs%20eng,deployment.environment.name=x"}


async def metrics_page(bridge: Bridge) -> dict[str, float]:
    """/metrics, by name with labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{bridge.address('web')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


async def send(bridge: Bridge, session: aiohttp.ClientSession) -> int:
    """Simulated traces over HTTP; how many spans were acknowledged."""
    requests, _ = simulated(0, TRACES, time.time_ns())
    url, headers = f"http://{bridge.address('otlp_http')}/v1/traces", {"Content-Type": "application/x-protobuf"}
    for request in requests:
        async with session.post(url, data=request.SerializeToString(), headers=headers) as answer:
            assert answer.status == 200
    return sum(len(span_ids(request)) for request in requests)


async def shown(bridge: Bridge, name: str, value: float) -> None:
    """Return once /metrics shows this value."""
    with anyio.fail_after(WAIT_S):
        while True:
            if (await metrics_page(bridge)).get(name) == value:
                return
            await anyio.sleep(0.1)


def assert_traces(sink: TelemetrySink, spans: int) -> None:
    """A request, a tick and a delivery each have their stages, and a delivery links to its tick."""
    found = sink.spans()
    stages: dict[str, set[tuple[str, ...]]] = {}
    for root in (span for span in found if not span.parent_span_id):
        children = [span for span in found if span.parent_span_id == root.span_id]
        assert all(child.trace_id == root.trace_id for child in children)
        assert all(root.start_time_unix_nano <= child.start_time_unix_nano for child in children)
        assert all(child.end_time_unix_nano <= root.end_time_unix_nano for child in children)
        stages.setdefault(root.name, set()).add(tuple(child.name for child in children))
    assert stages == {
        "request": {("receive", "wait", "decode", "commit")},
        "tick": {("link", "commit")},
        "delivery": {("encode", "wait", "deliver")},
    }
    roots = {name: [s for s in found if s.name == name] for name in stages}
    assert sum(int(attributes_of(span)["spans"]) for span in roots["request"]) == spans
    ticks = {(span.trace_id, span.span_id) for span in roots["tick"]}
    assert {(link.trace_id, link.span_id) for span in roots["delivery"] for link in span.links} <= ticks
    assert all(span.links for span in roots["delivery"])


@pytest.mark.parametrize(("protocol", "workers"), [("grpc", 2), ("http", 1)])
async def test_metrics_and_traces_go_where_its_own_table_says(tmp_path: Path, protocol: str, workers: int) -> None:
    """The same metrics as /metrics, traces of what was done, both named as they should be; none of it comes back in."""
    async with TelemetrySink().running() as sink, aiohttp.ClientSession() as session:
        port = sink.grpc_port if protocol == "grpc" else sink.http_port
        output = tmp_path / "out.jsonl"
        setup = Setup(tmp_path, workers=workers).export_to_file(output)
        setup.exporters += OTLP.format(port=port, protocol=protocol)
        async with started(setup.write(), variables=NAMED) as bridge:
            await bridge.ready()
            spans = await send(bridge, session)
            await shown(bridge, 'listener_open_connections{listener="otlp_http"}', 1.0)
            await shown(bridge, 'exporter_sent_spans_total{exporter="lines"}', spans)
            page = await metrics_page(bridge)
            await sink.until(lambda: any(span.name == "delivery" for span in sink.spans()))
            assert await bridge.stop() == 0
        last = sink.latest()
        assert value_of(last["receiver_accepted_spans"], receiver="otlp_http") == spans
        assert value_of(last["exporter_sent_spans"], exporter="lines") == spans
        assert value_of(last["process_uptime"]) is not None
        assert last["store_commit_duration"].histogram.data_points[0].count > 0
        plain = {name.partition("{")[0] for name in page}
        unknown = [name for name in last if not any(each.startswith(name) for each in plain)]
        assert unknown == [], "pushed, and not on /metrics"
        for resource in sink.resources():
            named = attributes_of(resource)
            assert named["service.name"] == "bridge-7"
            assert named["team"] == "obs eng"
            assert named["deployment.environment.name"] == "test", "what the file says comes first"
            assert named["service.version"]
            assert named["service.instance.id"]
        assert {headers["authorization"] for headers in sink.headers} == {"Bearer own-0123456789"}
        assert_traces(sink, spans)
        assert "bridge-7" not in output.read_text(), "its own traces went through its exporters"
        assert "own-0123456789" not in str(bridge.log) + bridge.text


async def test_no_variable_of_the_environment_makes_it_send_its_own_telemetry(tmp_path: Path) -> None:
    """Nor empties /metrics: they are about the traces it hands on, or about other programs."""
    async with TelemetrySink().running() as sink, aiohttp.ClientSession() as session:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.grpc_port}",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{sink.http_port}/v1/metrics",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRICS_EXEMPLAR_FILTER": "nonsense",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_RESOURCE_ATTRIBUTES": "not a pair",
        }
        setup = Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")
        async with started(setup.write(), variables=variables) as bridge:
            await bridge.ready()
            spans = await send(bridge, session)
            await shown(bridge, 'exporter_sent_spans_total{exporter="lines"}', spans)
            await shown(bridge, 'receiver_accepted_spans_total{receiver="otlp_http"}', spans)
            assert await bridge.stop() == 0
        assert sink.requests == 0
        assert complaints(bridge) == []


def complaints(bridge: Bridge) -> list[str]:
    """What it complained about."""
    return [event["message"] for event in bridge.log if event["level"] != "info"]


async def test_a_backend_of_its_own_telemetry_that_is_away_holds_up_nothing(tmp_path: Path) -> None:
    """It is told once, counted, and spans go their way; a stop is as fast as ever."""
    async with aiohttp.ClientSession() as session:
        setup = Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")
        setup.exporters += OTLP.format(port=9, protocol="http")
        async with started(setup.write()) as bridge:
            await bridge.ready()
            spans = await send(bridge, session)
            await shown(bridge, 'exporter_sent_spans_total{exporter="lines"}', spans)
            page = await metrics_page(bridge)
            assert await bridge.stop() == 0
        assert page['telemetry_export_requests_total{result="failed",signal="metrics"}'] > 0
        assert page['telemetry_dropped_spans_total{reason="not_sent"}'] > 0
        assert complaints(bridge) == ["the bridge's own telemetry cannot be sent"]
