"""Settings of the receivers: where senders reach the bridge, and how much they may send."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from bridge.config.exporters import ClientTlsSettings
from bridge.config.fields import (
    Allowed,
    Count,
    Host,
    HttpUrl,
    LargeSize,
    Port,
    Seconds,
    SecondsOrZero,
    Size,
)
from bridge.config.limits import HttpReceiverLimits, ReceiverLimits, RequestTimeout
from bridge.config.security import GrpcTlsSettings, HttpTlsSettings
from bridge.config.table import Table

ProfileNames: TypeAlias = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Allowed('a list of names of profiles or of paths, such as ["deepflow"] or ["./agent.toml"]'),
]
ForwardUrl: TypeAlias = Annotated[HttpUrl, Allowed("http://HOST:PORT or https://HOST:PORT")]


class OtlpGrpcReceiverSettings(ReceiverLimits):
    """OTLP over gRPC."""

    enabled: bool = Field(default=True, description="Whether to listen at all.")
    host: Host = Field(default="localhost", description='Where to listen; "0.0.0.0" or "::" for every network.')
    port: Port = Field(default=4317, description="Port to listen on.")
    max_request_bytes: Size = Field(default=64 << 20, description="Largest request, before and after decompression.")
    max_in_flight_bytes: LargeSize = Field(
        default=256 << 20, description="Requests being handled, all together; beyond it senders are asked to try again."
    )
    request_timeout_s: RequestTimeout = 60.0
    idle_timeout_s: Seconds = Field(
        default=300.0,
        alias="idle_timeout",
        description="How long a connection may stay open without a call; clients connect again by themselves.",
    )
    tls: GrpcTlsSettings = Field(default=GrpcTlsSettings(), description="TLS files.")


class OtlpHttpReceiverSettings(HttpReceiverLimits):
    """OTLP over HTTP: POST /v1/traces, protobuf and JSON."""

    enabled: bool = Field(default=True, description="Whether to listen at all.")
    host: Host = Field(default="localhost", description='Where to listen; "0.0.0.0" or "::" for every network.')
    port: Port = Field(default=4318, description="Port to listen on.")
    max_request_bytes: Size = Field(default=64 << 20, description="Largest request, before and after decompression.")
    max_in_flight_bytes: LargeSize = Field(
        default=256 << 20, description="Requests being handled, all together; beyond it senders are asked to try again."
    )
    read_timeout_s: Seconds = Field(
        default=30.0, alias="read_timeout", description="How long the body of a request may take to arrive."
    )
    request_timeout_s: RequestTimeout = 60.0
    tls: HttpTlsSettings = Field(default=HttpTlsSettings(), description="TLS files.")


class DatakitReceiverSettings(HttpReceiverLimits):
    """DataKit agents: POST /v1/bpftracing, in every form DataKit sends points.

    Off unless asked for, since DataKit itself listens on its port. Asked for by enabled, by this table in a file, by
    ENV_DATAWAY or ENV_HTTP_LISTEN, and by DataKit's own ebpftrace.conf or datakit.conf.
    """

    enabled: bool = Field(
        default=False,
        description="Whether to listen at all. Without it: yes where this table or anything of DataKit's is set.",
    )
    host: Host = Field(default="localhost", description='Where to listen; "0.0.0.0" or "::" for every network.')
    port: Port = Field(default=9529, description="Port to listen on.")
    max_request_bytes: Size = Field(default=64 << 20, description="Largest request, before and after decompression.")
    max_in_flight_bytes: LargeSize = Field(
        default=256 << 20, description="Requests being handled, all together; beyond it further ones are held."
    )
    read_timeout_s: Seconds = Field(
        default=30.0, alias="read_timeout", description="How long the body of a request may take to arrive."
    )
    hold_s: SecondsOrZero = Field(
        default=60.0,
        alias="hold",
        description="How long the answer to a request is held back while it cannot be taken; agents do not send again.",
    )
    max_held_requests: Count = Field(default=1000, description="Requests held at once; beyond it they are refused.")
    forward_to: ForwardUrl | None = Field(
        default=None,
        description="Another linker that gets a copy of each accepted request, to run both side by side.",
    )
    forward_tls: ClientTlsSettings = Field(
        default=ClientTlsSettings(), description="TLS files for a forward_to of https://."
    )
    tls: HttpTlsSettings = Field(default=HttpTlsSettings(), description="TLS files.")


class ReceiversSettings(Table):
    """Where senders reach the bridge."""

    profiles: ProfileNames = Field(
        default=(),
        description="What the OTLP spans of agents other than DataKit's look like: profiles that come with the bridge "
        "(deepflow, headers), or files like theirs; see docs/profiles.md. Of several an earlier one comes first.",
    )
    forward_other_signals: bool = Field(
        default=False,
        description="Whether OTLP metrics and logs are passed on, as they came, to the backend of the first OTLP "
        "exporter, whose answer their sender gets. Else they are refused. JSON is passed on to an otlp_http exporter "
        "only.",
    )
    otlp_grpc: OtlpGrpcReceiverSettings = Field(default=OtlpGrpcReceiverSettings(), description="OTLP over gRPC.")
    otlp_http: OtlpHttpReceiverSettings = Field(default=OtlpHttpReceiverSettings(), description="OTLP over HTTP.")
    datakit: DatakitReceiverSettings = Field(default=DatakitReceiverSettings(), description="DataKit agents.")

    @property
    def listeners(self) -> dict[str, OtlpGrpcReceiverSettings | OtlpHttpReceiverSettings | DatakitReceiverSettings]:
        """The receivers by name, those that are off included."""
        return {"otlp_grpc": self.otlp_grpc, "otlp_http": self.otlp_http, "datakit": self.datakit}
