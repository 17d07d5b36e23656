"""OTLP over gRPC and over HTTP, with every duty the OTLP specification lays on a receiver of traces.

Both listen on ports of their own (4317, 4318). A client that mixes them up is told so as far as that costs nothing:
a gRPC client on the HTTP port ends with UNAVAILABLE and a text naming HTTP/1.x; an HTTP/1.x client on the gRPC port
has its connection closed by gRPC itself, where we have no say.

Decided against: the generated servicer of TraceService (its deserializer answers bad bytes with UNKNOWN and reads
every attribute in Python), gRPC's own limit of concurrent calls (it refuses without RetryInfo, so that senders drop
what they sent), and aiohttp's own decompression (it has no bound).
"""

from bridge.receivers.otlp.grpc import GrpcReceiver
from bridge.receivers.otlp.http import HttpReceiver

__all__ = ["GrpcReceiver", "HttpReceiver"]
