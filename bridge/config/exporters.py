"""Settings of the exporters: one table each, told apart by its `type`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from bridge.config.fields import (
    URL_SCHEMA,
    Allowed,
    Count,
    FilePath,
    Headers,
    HttpUrl,
    LargeSize,
    Seconds,
    SecretUrl,
    Size,
    Tags,
    port_of,
)
from bridge.config.table import Table

TYPES = ("otlp_grpc", "otlp_http", "dataway", "file", "console")


def grpc_endpoint(value: SecretUrl) -> SecretUrl:
    """The value. Raises ValueError for what is no address of gRPC."""
    text = value.get_secret_value()
    url = urlsplit(text if "://" in text else f"https://{text}")
    if url.scheme not in ("http", "https"):
        raise ValueError(f'the scheme "{url.scheme}" is not known')
    if not url.hostname:
        raise ValueError("the host is missing")
    if port_of(url) is None:
        raise ValueError("the port is missing; OTLP/gRPC is served on 4317 as a rule")
    if url.path.strip("/") or url.query:
        raise ValueError('gRPC knows no paths: remove what stands behind the port, or use type = "otlp_http"')
    return value


GrpcEndpoint: TypeAlias = Annotated[
    SecretUrl,
    AfterValidator(grpc_endpoint),
    WithJsonSchema(URL_SCHEMA),
    Allowed("http://HOST:PORT, https://HOST:PORT (TLS), or HOST:PORT alone (TLS unless tls.insecure)"),
]
HttpEndpoint: TypeAlias = Annotated[HttpUrl, Allowed("http://HOST:PORT or https://HOST:PORT, with a path or without")]
DatawayUrl: TypeAlias = Annotated[HttpUrl, Allowed("https://HOST?token=TOKEN")]
ProxyUrl: TypeAlias = Annotated[HttpUrl, Allowed("http://HOST:PORT, with USER:PASSWORD@ or without")]


class RetrySettings(Table):
    """How long to wait between attempts."""

    initial_s: Seconds = Field(default=0.5, alias="initial", description="Wait after the first failed attempt.")
    multiplier: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False), Allowed("a number from 1 to 100")] = Field(
        default=1.5, description="Factor by which each further wait is longer."
    )
    max_s: Seconds = Field(
        default=2.0,
        alias="max",
        description="Longest wait, unless the backend names a longer one or initial is longer. Attempts, one at a "
        "time, never end; once the backend is back traces arrive after this at the latest.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "RetrySettings":
        if self.initial_s > self.max_s:
            if "max_s" not in self.model_fields_set:
                return self.model_copy(update={"max_s": self.initial_s})
            raise ValueError("initial is longer than max; raise max or lower initial")
        return self


class ClientTlsSettings(Table):
    """PEM files of a client."""

    ca_file: FilePath | None = Field(
        default=None, description="Authorities to trust (PEM). Without it the system's are trusted."
    )
    cert_file: FilePath | None = Field(
        default=None, description="Certificate of this client (PEM), where the backend asks for one; needs key_file."
    )
    key_file: FilePath | None = Field(default=None, description="Its private key (PEM), without a passphrase.")
    min_version: Literal["1.2", "1.3"] = Field(
        default="1.2", description="Oldest version of TLS that is spoken; with gRPC it is not to be chosen."
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            there, missing = ("key_file", "cert_file") if self.cert_file is None else ("cert_file", "key_file")
            raise ValueError(f"{there} is set without {missing}; a certificate and its key go together")
        return self

    @property
    def files(self) -> Mapping[str, Any]:
        """The files that are set, by key."""
        return {k: v for k in ("ca_file", "cert_file", "key_file") if (v := getattr(self, k)) is not None}


class TlsSettings(ClientTlsSettings):
    """PEM files of a client."""

    insecure: bool = Field(
        default=False,
        description="No TLS for an endpoint without a scheme. Where there is a scheme, http:// or https:// decides.",
    )


class DatawayTlsSettings(ClientTlsSettings):
    """PEM files of a client."""

    insecure_skip_verify: bool = Field(
        default=False, description="Take whatever certificate the Dataway shows: anyone in between can read along."
    )


class _OtlpSettings(Table):
    type: str  # declared here for its place: first, then the endpoint
    endpoint: SecretUrl | None
    headers: Headers = Field(
        default={},
        description="Sent with every request, for instance a token. Values are never shown or logged.",
    )
    compression: Literal["none", "gzip"] = Field(default="none", description="Compression of requests.")
    timeout_s: Seconds = Field(default=10.0, alias="timeout", description="How long one attempt may take.")
    tls: TlsSettings = Field(default=TlsSettings(), description="TLS files.")
    max_batch_spans: Count = Field(default=8192, description="Most spans in one request.")
    max_batch_bytes: Size = Field(
        default=4_000_000,
        description="Largest request before compression. gRPC servers take 4 MiB unless told otherwise.",
    )
    in_flight: Annotated[int, Field(ge=1, le=1000), Allowed("a whole number from 1 to 1000")] = Field(
        default=4, description="Requests under way at once."
    )
    retry: RetrySettings = Field(default=RetrySettings(), description="Waits between attempts.")


class OtlpGrpcExporterSettings(_OtlpSettings):
    """Sends traces over OTLP/gRPC."""

    type: Literal["otlp_grpc"] = Field(description="OTLP over gRPC.")
    endpoint: GrpcEndpoint = Field(description="Address of the backend. http:// sends in the clear, https:// uses TLS.")

    @property
    def url(self) -> str:
        """The endpoint in full, secrets included."""
        return self.endpoint.get_secret_value()

    @property
    def uses_tls(self) -> bool:
        """What scheme and `insecure` come to."""
        return self.url.startswith("https://") if "://" in self.url else not self.tls.insecure


class OtlpHttpExporterSettings(_OtlpSettings):
    """Sends traces over OTLP/HTTP, in protobuf."""

    type: Literal["otlp_http"] = Field(description="OTLP over HTTP, in protobuf.")
    endpoint: HttpEndpoint | None = Field(
        default=None, description="Address of the backend; v1/traces is appended to it."
    )
    traces_endpoint: HttpEndpoint | None = Field(
        default=None, description="Instead of endpoint: the full URL traces are posted to, used as it is."
    )

    @model_validator(mode="after")
    def _one_endpoint(self) -> "OtlpHttpExporterSettings":
        if (self.endpoint is None) == (self.traces_endpoint is None):
            both = "both are set" if self.endpoint else "endpoint is missing"
            raise ValueError(f"{both}; set endpoint (v1/traces is appended) or traces_endpoint (used as it is)")
        return self

    @property
    def base(self) -> bool:
        """Whether v1/traces is to be appended to `url`."""
        return self.traces_endpoint is None

    @property
    def url(self) -> str:
        """The endpoint that is set, in full, secrets included."""
        endpoint = self.endpoint or self.traces_endpoint
        assert endpoint is not None  # noqa: S101 -- `_one_endpoint` saw to it
        return endpoint.get_secret_value()

    @property
    def uses_tls(self) -> bool:
        """What the scheme says."""
        return self.url.startswith("https://")


class DatawayExporterSettings(Table):
    """Sends traces to a Dataway, Guance's gateway, as DataKit does."""

    type: Literal["dataway"] = Field(description="Points to a Dataway.")
    url: DatawayUrl = Field(description="Address of the Dataway with the workspace's token; a path in it is ignored.")
    format: Literal["protobuf", "line_protocol"] = Field(
        default="protobuf", description="protobuf is what DataKit calls v2, line_protocol its v1."
    )
    compression: Literal["none", "gzip"] = Field(default="gzip", description="Compression of requests.")
    timeout_s: Seconds = Field(default=30.0, alias="timeout", description="How long one attempt may take.")
    max_batch_bytes: Size = Field(
        default=1 << 20,
        description="Largest request before compression; a span that is larger by itself goes alone.",
    )
    global_tags: Tags = Field(default={}, description="Tags for every point that does not have the key already.")
    sinker: bool = Field(
        default=False, description="Whether the Dataway's sinker is in use: global_tags then travel as a header, too."
    )
    proxy: ProxyUrl | None = Field(default=None, description="HTTP proxy to go through.")
    tls: DatawayTlsSettings = Field(default=DatawayTlsSettings(), description="TLS files.")
    in_flight: Annotated[int, Field(ge=1, le=1000), Allowed("a whole number from 1 to 1000")] = Field(
        default=4, description="Requests under way at once."
    )
    retry: RetrySettings = Field(default=RetrySettings(), description="Waits between attempts.")

    @property
    def address(self) -> str:
        """The URL in full, token included."""
        return self.url.get_secret_value()

    @property
    def uses_tls(self) -> bool:
        """What the scheme says."""
        return self.address.startswith("https://")


class _LocalSettings(Table):
    """What needs no network: one body at a time, with the usual waits when it cannot be written."""

    in_flight: ClassVar[int] = 1
    retry: ClassVar[RetrySettings] = RetrySettings()


class FileExporterSettings(_LocalSettings):
    """Appends traces to a file as OTLP/JSON lines, as the Collector's file exporter does."""

    type: Literal["file"] = Field(description="OTLP/JSON lines in a file, one request a line.")
    path: FilePath = Field(description="File to append to; its folder is made where it is missing.")
    rotate_bytes: LargeSize = Field(
        default=100 << 20,
        description="The file is set aside, under its name and the time, before it grows beyond this.",
    )
    backups: Annotated[int, Field(ge=0), Allowed("a whole number; 0 keeps all")] = Field(
        default=0, description="How many files that were set aside are kept; 0 keeps all."
    )


class ConsoleExporterSettings(_LocalSettings):
    """Prints traces as trees to standard output, for people."""

    type: Literal["console"] = Field(description="Trees on standard output.")
    width: Annotated[int, Field(ge=40, le=1000), Allowed("a whole number from 40 to 1000")] = Field(
        default=120, description="Columns a line may have."
    )


ExporterSettings: TypeAlias = Annotated[
    OtlpGrpcExporterSettings
    | OtlpHttpExporterSettings
    | DatawayExporterSettings
    | FileExporterSettings
    | ConsoleExporterSettings,
    Field(discriminator="type"),
]
NETWORK_EXPORTERS = (OtlpGrpcExporterSettings, OtlpHttpExporterSettings, DatawayExporterSettings)
