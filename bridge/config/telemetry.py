"""Settings of what the bridge says about itself."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator

from bridge.config.exporters import TlsSettings, grpc_endpoint
from bridge.config.fields import (
    URL_SCHEMA,
    Allowed,
    Headers,
    Seconds,
    SecondsOrZero,
    SecretUrl,
    Share,
    Tags,
    http_url,
)
from bridge.config.table import Table


class TelemetryOtlpSettings(Table):
    """Where the bridge's own metrics and traces are sent; nowhere unless there is an endpoint."""

    endpoint: (
        Annotated[
            SecretUrl,
            WithJsonSchema(URL_SCHEMA),
            Allowed(
                "http://HOST:PORT or https://HOST:PORT; with http a path may follow, with grpc the scheme be left out"
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Address of an OTLP backend; with http, v1/metrics and v1/traces are appended. Without it nothing "
        "is sent: OTEL_EXPORTER_OTLP_* and OTEL_METRICS_EXPORTER are about other telemetry than the bridge's own.",
    )
    protocol: Literal["grpc", "http"] = Field(default="grpc", description="OTLP over gRPC, or over HTTP in protobuf.")
    headers: Headers = Field(
        default={},
        description="Sent with every request, for instance a token. Values are never shown or logged.",
    )
    interval_s: Seconds = Field(
        default=60.0, alias="interval", description="How often metrics are sent; traces are sent within seconds."
    )
    timeout_s: Seconds = Field(default=10.0, alias="timeout", description="How long one request may take.")
    resource: Tags = Field(
        default={},
        description="Resource attributes beside service.name (espan-bridge unless it is here), service.version and "
        "service.instance.id. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES fill what is left out.",
    )
    tls: TlsSettings = Field(default=TlsSettings(), description="TLS files.")

    @model_validator(mode="after")
    def _endpoint_of_protocol(self) -> "TelemetryOtlpSettings":
        if self.endpoint is not None:
            try:
                (grpc_endpoint if self.protocol == "grpc" else http_url)(self.endpoint)
            except ValueError as exc:
                raise ValueError(f'endpoint cannot be used with protocol = "{self.protocol}": {exc}') from None
        return self

    @property
    def url(self) -> str:
        """The endpoint in full, secrets included; "" where there is none."""
        return self.endpoint.get_secret_value() if self.endpoint else ""

    @property
    def uses_tls(self) -> bool:
        """What scheme and `tls.insecure` come to."""
        return self.url.startswith("https://") if "://" in self.url else not self.tls.insecure


class TelemetryTracesSettings(Table):
    """Traces of the bridge's own work: requests, ticks, deliveries."""

    sampling_rate: Share = Field(
        default=0.0,
        description="Share of requests and ticks that are traced, deliveries with their tick; 0.0: none. They go to "
        "telemetry.otlp, never to the exporters.",
    )


class TelemetrySettings(Table):
    """What the bridge says about itself. Logs go to standard error, metrics to /metrics of [web]."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="One line an event, for people or programs."
    )
    certificate_warning_s: SecondsOrZero = Field(
        default=14 * 86400.0,
        alias="certificate_warning",
        description="How long before one of the bridge's own certificates expires that is logged, daily; 0s: never.",
    )
    otlp: TelemetryOtlpSettings = Field(
        default=TelemetryOtlpSettings(), description="Where the bridge's own metrics and traces are sent."
    )
    traces: TelemetryTracesSettings = Field(
        default=TelemetryTracesSettings(), description="Traces of the bridge's own work."
    )
