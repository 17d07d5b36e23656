"""Settings of what the senders of a listener may ask of it; see docs/limits.md."""

from typing import Annotated, TypeAlias

from pydantic import Field

from bridge.config.fields import Count, LargeSize, Seconds
from bridge.config.security import ListenerSettings

RequestTimeout: TypeAlias = Annotated[
    Seconds,
    Field(
        alias="request_timeout",
        description="How long a request may take from its head to the end of its commit; then the sender is asked to "
        "try again.",
    ),
]


class ReceiverLimits(ListenerSettings):
    """Limits that all receivers have."""

    max_connections: Count = Field(
        default=1000, description="Connections at once; further ones are closed as they come."
    )
    max_concurrent_requests: Count = Field(
        default=1000, description="Requests being handled at once, however small they are."
    )
    max_request_spans: Count = Field(
        default=2**18, description="Spans, or points, in one request; with more it is refused as too large."
    )
    max_span_bytes: LargeSize = Field(
        default=4 << 20,
        description="One span with its resource and scope, or one point; larger ones are rejected, the others of their "
        "request are kept.",
    )
    header_timeout_s: Seconds = Field(
        default=10.0,
        alias="header_timeout",
        description="How long a TLS handshake may take, and the head of a request from its first byte on; over gRPC "
        "the handshakes of TLS and HTTP/2.",
    )
    write_timeout_s: Seconds = Field(
        default=30.0,
        alias="write_timeout",
        description="How long a sender may take to read its answer, before it is cut off.",
    )


class HttpReceiverLimits(ReceiverLimits):
    """Limits of receivers that speak HTTP."""

    max_connections_per_peer: Count | None = Field(
        default=None,
        description="Connections at once from one address; further ones are closed as they come. Unset: half of "
        "max_connections.",
    )
    max_json_bytes: LargeSize = Field(
        default=16 << 20,
        description="Largest request in JSON, after decompression; while it is read it takes up to 25 times its size.",
    )
    idle_timeout_s: Seconds = Field(
        default=120.0,
        alias="idle_timeout",
        description="How long a connection may stay open between requests.",
    )

    @property
    def connections_per_peer(self) -> int:
        """`max_connections_per_peer`, or what it is when it is left out."""
        half = max(1, self.max_connections // 2)
        return half if self.max_connections_per_peer is None else self.max_connections_per_peer
