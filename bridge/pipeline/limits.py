"""Limits of the receivers, as the parts that keep them want them."""

import math

from bridge.codec.limits import NO_LIMITS, RequestLimits
from bridge.config import DatakitReceiverSettings, OtlpGrpcReceiverSettings, OtlpHttpReceiverSettings, WebSettings
from bridge.config.limits import HttpReceiverLimits
from bridge.connections import ListenerLimits

ReceiverSettings = OtlpGrpcReceiverSettings | OtlpHttpReceiverSettings | DatakitReceiverSettings


def request_limits(settings: ReceiverSettings) -> RequestLimits:
    """What one request may hold."""
    # gRPC knows no JSON
    json_bytes = settings.max_json_bytes if isinstance(settings, HttpReceiverLimits) else NO_LIMITS.max_json_bytes
    return RequestLimits(
        max_spans=settings.max_request_spans,
        max_span_bytes=settings.max_span_bytes,
        max_json_bytes=json_bytes,
    )


def listener_limits(settings: ReceiverSettings) -> ListenerLimits:
    """What all senders of a receiver together may ask of it."""
    # gRPC's core knows no peers
    per_peer = settings.connections_per_peer if isinstance(settings, HttpReceiverLimits) else settings.max_connections
    # DataKit's requests are held instead, within bounds of their own
    whole_s = math.inf if isinstance(settings, DatakitReceiverSettings) else settings.request_timeout_s
    return ListenerLimits(
        max_connections=settings.max_connections,
        max_connections_per_peer=per_peer,
        max_concurrent_requests=settings.max_concurrent_requests,
        header_timeout_s=settings.header_timeout_s,
        request_timeout_s=whole_s,
        write_timeout_s=settings.write_timeout_s,
    )


def web_limits(settings: WebSettings) -> ListenerLimits:
    """What browsers, probes and scrapers may ask, which may all come by way of one proxy."""
    return ListenerLimits(max_connections=settings.max_connections, max_connections_per_peer=settings.max_connections)


def share_of(settings: ReceiverSettings, processes: int) -> dict[str, object]:
    """What one of several processes has of a receiver's limits that hold for all of them together."""
    names = ["max_in_flight_bytes", "max_connections", "max_concurrent_requests"]
    if isinstance(settings, DatakitReceiverSettings):
        names.append("max_held_requests")
    if isinstance(settings, HttpReceiverLimits) and settings.max_connections_per_peer is not None:
        names.append("max_connections_per_peer")
    return {name: max(1, getattr(settings, name) // processes) for name in names}
