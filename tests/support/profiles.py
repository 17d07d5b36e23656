"""Profiles in use for a while, and spans as deepflow-server's exporter writes them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.profiles import use_profiles
from bridge.spans.profiles import Profile
from tests.support.espans import Value, pairs

MS = 10**6
START_NS = 1_700_000_000 * 10**9


@contextmanager
def used(*profiles: Profile) -> Iterator[None]:
    """Scans go by these profiles, and by none afterwards."""
    use_profiles(profiles)
    try:
        yield
    finally:
        use_profiles(())


@dataclass(frozen=True)
class Hop:
    """A request from one address to another, as DeepFlow sees it; times in ms."""

    client: tuple[str, int]
    server: tuple[str, int]
    numbers: tuple[int, int]
    times: tuple[int, int]
    read: int
    """syscall_trace_id_request at the server."""
    written: int = 0
    """syscall_trace_id_request at the client; 0 where the request has none before it."""


CLIENT, SERVER = 0, 1
POINTS = ("Client Process", "Server Process")


def deepflow_request(*hops: Hop, older: bool = False) -> ExportTraceServiceRequest:
    """A ResourceSpans for each span, as DeepFlow has it, the client's before the server's of each hop.

    older: with the names that older versions used, numbers and process ids on the span.
    """
    request, number = ExportTraceServiceRequest(), 0
    for hop in hops:
        for side in (CLIENT, SERVER):
            number += 1
            own = number.to_bytes(8, "big")
            around = request.resource_spans.add()
            span = around.scope_spans.add().spans.add(
                trace_id=own + bytes(8),  # made of the span's own id where the request brought none
                span_id=own,
                parent_span_id=b"" if older else own,
                name="GET /",
                kind=(Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)[side],
                start_time_unix_nano=START_NS + (hop.times[0] + side) * MS,
                end_time_unix_nano=START_NS + (hop.times[1] - side) * MS,
            )
            on_resource, on_span = _attributes(hop, side, older)
            around.resource.attributes.extend(pairs(on_resource))
            span.attributes.extend(pairs(on_span))
    return request


def _attributes(hop: Hop, side: int, older: bool) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
    (client_ip, client_port), (server_ip, server_port) = hop.client, hop.server
    own_ip = (client_ip, server_ip)[side]
    pid = {"df.span.process_id" if older else "process.pid": int(own_ip.rpartition(".")[2]) + 1000}
    numbers = dict(zip(("req_tcp_seq", "resp_tcp_seq"), hop.numbers, strict=True))
    syscall = (hop.written, hop.read)[side]
    resource: dict[str, Value] = {
        "service.name": f"service-{own_ip}",
        "df.network.ip_0": client_ip,
        "df.network.ip_1": server_ip,
        "df.transport.client_port": client_port,
        "df.transport.server_port": server_port,
    }
    span: dict[str, Value] = {"df.span.type": "session", "df.span.syscall_thread_0": 7}
    if syscall:
        span["df.span.syscall_trace_id_request"] = syscall
    process = {f"{name}_{side}": value for name, value in pid.items()}
    if older:
        resource |= {"df.capture_info.tap_side": ("c-p", "s-p")[side], "df.capture_info.vtap": f"node-{own_ip}"}
        span |= {**process, **{f"df.span.{name}": value for name, value in numbers.items()}}
    else:
        resource |= {"df.capture_info.observation_point": POINTS[side], "df.capture_info.agent": f"node-{own_ip}"}
        resource |= {**process, **{f"df.transport.{name}": value for name, value in numbers.items()}}
    return resource, span


CHAIN = (
    Hop(("10.0.0.1", 40000), ("10.0.0.2", 80), (101, 102), (0, 50), read=7001),
    Hop(("10.0.0.2", 41000), ("10.0.0.3", 81), (103, 104), (10, 30), read=7002, written=7001),
)
"""One service asks a second, which asks a third."""
