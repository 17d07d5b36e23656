#!/usr/bin/env python3
"""An instrumented service between two that are not: its own spans and everybody's eSpans, sent to a bridge.

    mixed.py [--endpoint http://localhost:4317]

    gateway ──────► checkout ──────► payment
    no SDK          OpenTelemetry    no SDK

checkout's spans come from the OpenTelemetry SDK; since nobody told it of a trace, it begins one, and sends its id to
payment in a traceparent header. Probes see both ends of both requests, and the header of the second. With
`[linker] app_trace_scope = "trace"` all of it leaves as one trace, under the id that checkout made.

Prints that id.
"""

import argparse
import time
from dataclasses import dataclass

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, set_span_in_context

MS = 10**6
GATEWAY, CHECKOUT, PAYMENT = ("gateway", "10.0.0.1"), ("checkout", "10.0.0.2"), ("payment", "10.0.0.3")


@dataclass(frozen=True)
class Sample:
    """Requests to send, and what should come of them: one trace, with these parents ("" at a root)."""

    requests: list[ExportTraceServiceRequest]
    trace_id: str
    parents: dict[str, str]

    @property
    def spans(self) -> int:
        """How many spans there are in all."""
        return len(self.parents)


def checkout_spans(start_ns: int) -> tuple[ReadableSpan, ReadableSpan]:
    """What the SDK makes of one request in checkout: the server's span, and the client's of its call to payment."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "checkout"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("checkout")
    server = tracer.start_span("POST /checkout", kind=SpanKind.SERVER, start_time=start_ns + 2 * MS)
    inside = set_span_in_context(server)
    client = tracer.start_span("POST /pay", context=inside, kind=SpanKind.CLIENT, start_time=start_ns + 3 * MS)
    client.end(start_ns + 11 * MS)
    server.end(start_ns + 12 * MS)
    provider.shutdown()
    made = {span.name: span for span in exporter.get_finished_spans()}
    return made["POST /checkout"], made["POST /pay"]


def espan(
    number: int,
    service: tuple[str, str],
    peer: tuple[str, str],
    side: str,
    times: tuple[int, int],
    name: str,
    *,
    seq: int,
    headers: dict[str, str | int] | None = None,
) -> ExportTraceServiceRequest:
    """One side of one request, as a probe sends it: no trace id, but sequence numbers, a thread and a kernel time."""
    start_ns, end_ns = times
    attributes: dict[str, str | int] = {
        "ebpf_span_type": side,
        "direction": "incoming" if side == "entry" else "outgoing",
        "req_seq": seq,
        "resp_seq": seq + 1_000,
        "pid": 4_000,
        "tid": 4_001,
        "ktime": start_ns % 10**15,
        "src_ip": service[1],
        "dst_ip": peer[1],
        "source_type": "ebpf",
        "resource": name,
    } | (headers or {})
    span = Span(
        span_id=number.to_bytes(8, "big"),
        name=name,
        kind=Span.SPAN_KIND_SERVER if side == "entry" else Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=end_ns,
        attributes=[_attribute(key, value) for key, value in attributes.items()],
    )
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(
        [_attribute("service.name", service[0]), _attribute("host.name", f"host-of-{service[0]}")]
    )
    group.scope_spans.add().spans.append(span)
    return request


def _attribute(key: str, value: str | int) -> KeyValue:
    typed = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    return KeyValue(key=key, value=typed)


def mixed_requests(start_ns: int | None = None) -> Sample:
    """The whole sample, as if it had just happened."""
    start = time.time_ns() if start_ns is None else start_ns
    server, client = checkout_spans(start)
    trace_id, client_id = f"{client.context.trace_id:032x}", f"{client.context.span_id:016x}"
    headers: dict[str, str | int] = {"app_trace_id": trace_id, "app_parent_id": client_id, "app_span_sampled": 1}
    first = start % 2**40 << 8 | 1

    def during(begin_ms: int, end_ms: int) -> tuple[int, int]:
        return start + begin_ms * MS, start + end_ms * MS

    user = ("user", "192.0.2.7")
    espans = [
        espan(first, GATEWAY, user, "entry", during(0, 14), "POST /buy", seq=11),
        espan(first + 1, GATEWAY, CHECKOUT, "exit", during(1, 13), "POST /checkout", seq=22),
        espan(first + 2, CHECKOUT, GATEWAY, "entry", during(2, 12), "POST /checkout", seq=22),
        espan(first + 3, CHECKOUT, PAYMENT, "exit", during(4, 10), "POST /pay", seq=33, headers=headers),
        espan(first + 4, PAYMENT, CHECKOUT, "entry", during(5, 9), "POST /pay", seq=33, headers=headers),
    ]
    ids = [f"{first + k:016x}" for k in range(5)]
    server_id = f"{server.context.span_id:016x}"
    parents = dict(zip(ids, ("", ids[0], ids[1], client_id, ids[3]), strict=True))
    return Sample([encode_spans([server, client]), *espans], trace_id, parents | {server_id: "", client_id: server_id})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://localhost:4317")
    args = parser.parse_args()
    sample = mixed_requests()
    with grpc.insecure_channel(args.endpoint.removeprefix("http://")) as channel:
        for request in sample.requests:
            TraceServiceStub(channel).Export(request, timeout=10)
    print(sample.trace_id)


if __name__ == "__main__":
    main()
