"""The bridge's own metrics and traces as OTLP requests, from what the SDK collected and the tracer kept.

Decided against: the SDK's OTLP exporters. Whatever they are not told they take from OTEL_EXPORTER_OTLP_* variables,
which here say where senders' traces go; and they send from threads of their own, past our TLS, deadlines and errors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)

from bridge.telemetry.own_traces import OwnSpan

SCOPE = "espan-bridge"
_TEMPORALITY = {
    AggregationTemporality.CUMULATIVE: pb.AGGREGATION_TEMPORALITY_CUMULATIVE,
    AggregationTemporality.DELTA: pb.AGGREGATION_TEMPORALITY_DELTA,
}


def metrics_request(data: MetricsData | None, resource: Mapping[str, str]) -> tuple[bytes, int]:
    """A serialized ExportMetricsServiceRequest, and how many metrics are in it. None: nothing was collected."""
    found = [
        _metric(metric)
        for resource_metrics in (data.resource_metrics if data else ())
        for scope in resource_metrics.scope_metrics
        for metric in scope.metrics
    ]
    scoped = pb.ScopeMetrics(scope=InstrumentationScope(name=SCOPE), metrics=found)
    request = ExportMetricsServiceRequest(
        resource_metrics=[pb.ResourceMetrics(resource=_resource(resource), scope_metrics=[scoped])]
    )
    return request.SerializeToString(), len(found)


def traces_request(spans: Iterable[OwnSpan], resource: Mapping[str, str]) -> bytes:
    """A serialized ExportTraceServiceRequest."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add(resource=_resource(resource))
    scoped = of_resource.scope_spans.add(scope=InstrumentationScope(name=SCOPE))
    scoped.spans.extend(map(_span, spans))
    return request.SerializeToString()


def _resource(attributes: Mapping[str, str]) -> Resource:
    return Resource(attributes=_attributes(attributes))


def _attributes(attributes: Mapping[str, Any] | None) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in (attributes or {}).items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=str(value))


def _metric(metric: Metric) -> pb.Metric:
    made = pb.Metric(name=metric.name, description=metric.description or "", unit=metric.unit or "")
    match metric.data:
        case Sum() as total:
            made.sum.data_points.extend(map(_number, total.data_points))
            made.sum.aggregation_temporality = _TEMPORALITY[total.aggregation_temporality]
            made.sum.is_monotonic = total.is_monotonic
        case Gauge() as gauge:
            made.gauge.data_points.extend(map(_number, gauge.data_points))
        case Histogram() as histogram:
            made.histogram.data_points.extend(map(_histogram, histogram.data_points))
            made.histogram.aggregation_temporality = _TEMPORALITY[histogram.aggregation_temporality]
        case other:
            raise TypeError(f"{metric.name}: no instrument of the bridge makes a {type(other).__name__}")
    return made


def _number(point: NumberDataPoint) -> pb.NumberDataPoint:
    made = pb.NumberDataPoint(
        attributes=_attributes(point.attributes),
        start_time_unix_nano=point.start_time_unix_nano or 0,
        time_unix_nano=point.time_unix_nano,
    )
    if isinstance(point.value, int):
        made.as_int = point.value
    else:
        made.as_double = point.value
    return made


def _histogram(point: HistogramDataPoint) -> pb.HistogramDataPoint:
    made = pb.HistogramDataPoint(
        attributes=_attributes(point.attributes),
        start_time_unix_nano=point.start_time_unix_nano or 0,
        time_unix_nano=point.time_unix_nano,
        count=point.count,
        sum=point.sum,
        bucket_counts=point.bucket_counts,
        explicit_bounds=point.explicit_bounds,
    )
    if point.count:
        made.min, made.max = point.min, point.max
    return made


def _span(span: OwnSpan) -> Span:
    made = Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]  # the stubs want a member of the enum, which is a number
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(dict(span.attributes)),
        links=[Span.Link(trace_id=trace_id, span_id=span_id) for trace_id, span_id in span.links],
    )
    if span.error:
        made.status.code, made.status.message = Status.STATUS_CODE_ERROR, span.error
    return made
