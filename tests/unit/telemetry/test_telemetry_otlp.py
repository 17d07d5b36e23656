"""The bridge's own telemetry as OTLP: against the SDK's own encoders."""

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge.telemetry import Instruments
from bridge.telemetry.levels import Level, Levels
from bridge.telemetry.metrics import running_metrics
from bridge.telemetry.otlp import metrics_request, traces_request
from bridge.telemetry.own_traces import SERVER, OwnSpan


def test_metrics_are_encoded_as_the_sdk_would() -> None:
    """Sums, gauges and histograms, with attributes, times, units and descriptions."""
    with running_metrics("1", for_push=True) as metrics:
        instruments = Instruments(metrics.meter)
        instruments.accepted_spans.add(5, {"receiver": "otlp_grpc"})
        instruments.sent_spans.add(2.5, {"exporter": "a"})
        for value in (0.001, 0.3, 99.0):
            instruments.tick_duration.record(value)
        instruments.watch_undelivered_ticks(lambda: {"a": 3, "b": 0})
        instruments.watch_process(cpu_s=lambda: 1.25, uptime_s=lambda: 2.0, version="1")
        data = metrics.data()
    assert data is not None
    encoded, count = metrics_request(data, {"service.name": "bridge"})
    request = ExportMetricsServiceRequest.FromString(encoded)
    (ours,) = (scope.metrics for group in request.resource_metrics for scope in group.scope_metrics)
    (theirs,) = (s.metrics for group in encode_metrics(data).resource_metrics for s in group.scope_metrics)
    assert {m.name for m in ours} >= {"receiver_accepted_spans", "exporter_queue_size", "linker_tick_duration"}
    assert list(ours) == list(theirs)
    assert count == len(ours)
    (attribute,) = request.resource_metrics[0].resource.attributes
    assert (attribute.key, attribute.value.string_value) == ("service.name", "bridge")


def test_nothing_collected_makes_no_metrics() -> None:
    """As where nothing is to be pushed."""
    with running_metrics("1") as metrics:
        assert metrics.data() is None
    assert metrics_request(None, {})[1] == 0


def test_spans_are_encoded_with_ids_times_links_and_status() -> None:
    """Field by field."""
    span = OwnSpan(
        b"t" * 16, b"s" * 8, b"p" * 8, "request", SERVER, 5, 9, (("spans", 3),), ((b"u" * 16, b"v" * 8),), "X"
    )
    request = ExportTraceServiceRequest.FromString(traces_request([span], {}))
    (made,) = request.resource_spans[0].scope_spans[0].spans
    wanted = Span(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"p" * 8,
        name="request",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=5,
        end_time_unix_nano=9,
        links=[Span.Link(trace_id=b"u" * 16, span_id=b"v" * 8)],
        status=Status(code=Status.STATUS_CODE_ERROR, message="X"),
    )
    wanted.attributes.add(key="spans").value.int_value = 3
    assert made == wanted


def test_levels_of_all_processes_are_added_up_and_what_nobody_tells_is_not_there() -> None:
    """gRPC does not say how many connections there are; a process that ended has none."""
    levels = Levels()
    levels.watch("otlp_http", lambda: Level(1, 10))
    levels.watch("otlp_http", lambda: Level(connections=4))
    levels.told(1, {"otlp_http": Level(2, 20, 5), "otlp_grpc": Level(3, 30)})
    assert levels.all() == {"otlp_http": Level(3, 30, 9), "otlp_grpc": Level(3, 30, None)}
    levels.told(1, {})
    assert levels.all() == levels.own() == {"otlp_http": Level(1, 10, 4)}
