"""Makes the parts from settings. Nothing here opens a socket or a file."""

from collections.abc import Mapping

from pydantic import SecretStr

from bridge.component import Exporter, SpanConsumer
from bridge.config import (
    ConsoleExporterSettings,
    DatawayExporterSettings,
    DatawayTlsSettings,
    ExporterSettings,
    FileExporterSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
    Settings,
    TlsSettings,
)
from bridge.exporters import ClientTls, ConsoleExporter, Delivery, FileExporter, RetryPolicy
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.store import SqliteStore
from bridge.telemetry import Instruments

MAX_DRAIN_S = 5.0
DRAIN_SHARE = 0.25
"""Share of `shutdown_grace` that each receiver, one after the other, may take to answer its senders; linking and
delivering what arrived last have the rest."""


def build_store(settings: Settings, instruments: Instruments) -> SqliteStore:
    """The store in `db_path`."""
    return SqliteStore(
        settings.ebpftrace.db_path,
        synchronous=settings.store.synchronous,
        queue_bytes=settings.store.queue_bytes,
        payload_cache_bytes=settings.store.payload_cache_bytes,
        lock_wait_s=settings.store.lock_wait_s,
        ingest_processes=settings.workers if settings.workers > 1 else 0,
        instruments=instruments,
    )


def build_assembler(settings: Settings) -> Assembler:
    """The linker's state, empty."""
    return Assembler(link_options(settings), window_options(settings))


def link_options(settings: Settings) -> LinkOptions:
    """How spans are linked and sampled."""
    return LinkOptions(
        use_app_trace_id=settings.ebpftrace.use_app_trace_id,
        sampling_rate=settings.ebpftrace.sampling_rate,
        clock_slack_ns=settings.linker.clock_slack_ns,
        sampling_flags=settings.linker.sampling_flags,
        datadog_reject=settings.linker.datadog_reject,
        app_trace_scope=settings.linker.app_trace_scope,
        timing=settings.linker.timing,
        min_confidence=settings.linker.min_confidence,
        timing_budget=settings.linker.timing_budget,
    )


def window_options(settings: Settings) -> WindowOptions:
    """When traces leave."""
    return WindowOptions(
        window_ns=settings.window_ns,
        late_window_ns=settings.late_window_ns,
        max_trace_age_ns=settings.linker.max_trace_age_ns,
        max_trace_spans=settings.linker.max_trace_spans,
        max_retained_spans=settings.linker.max_retained_spans,
    )


def drain_time_s(settings: Settings) -> float:
    """How long each receiver may take to answer its senders when it stops."""
    return min(MAX_DRAIN_S, DRAIN_SHARE * settings.shutdown_grace_s)


def build_receivers(
    settings: Settings, consumer: SpanConsumer, instruments: Instruments, *, share_ports: bool = False
) -> list[GrpcReceiver | HttpReceiver | DatakitReceiver]:
    """The receivers that are enabled; they hand what they read to the consumer.

    share_ports: other processes listen on the same ones.
    """
    grpc, http, datakit = settings.receivers.otlp_grpc, settings.receivers.otlp_http, settings.receivers.datakit
    drain_s = drain_time_s(settings)
    receivers: list[GrpcReceiver | HttpReceiver | DatakitReceiver] = []
    if grpc.enabled:
        receivers.append(
            GrpcReceiver(
                consumer,
                instruments=instruments,
                host=grpc.host,
                port=grpc.port,
                max_request_bytes=grpc.max_request_bytes,
                max_in_flight_bytes=grpc.max_in_flight_bytes,
                drain_s=drain_s,
                share_port=share_ports,
            )
        )
    if http.enabled:
        receivers.append(
            HttpReceiver(
                consumer,
                instruments=instruments,
                host=http.host,
                port=http.port,
                max_request_bytes=http.max_request_bytes,
                max_in_flight_bytes=http.max_in_flight_bytes,
                drain_s=drain_s,
                share_port=share_ports,
                body_timeout_s=http.read_timeout_s,
            )
        )
    if datakit.enabled:
        receivers.append(
            DatakitReceiver(
                consumer,
                instruments=instruments,
                host=datakit.host,
                port=datakit.port,
                max_request_bytes=datakit.max_request_bytes,
                max_in_flight_bytes=datakit.max_in_flight_bytes,
                drain_s=drain_s,
                share_port=share_ports,
                body_timeout_s=datakit.read_timeout_s,
                hold_s=datakit.hold_s,
                max_held_requests=datakit.max_held_requests,
                forward_to=datakit.forward_to.get_secret_value() if datakit.forward_to else None,
            )
        )
    return receivers


def build_deliveries(settings: Settings, store: SqliteStore, instruments: Instruments) -> list[Delivery]:
    """One delivery for each exporter, in the order of the settings."""
    return [
        Delivery(
            build_exporter(name, exporter),
            store,
            instruments,
            retry=RetryPolicy(exporter.retry.initial_s, exporter.retry.multiplier, exporter.retry.max_s),
            in_flight=exporter.in_flight,
        )
        for name, exporter in settings.exporters.items()
    ]


def build_exporter(name: str, settings: ExporterSettings) -> Exporter:
    """One exporter. Raises ConfigError for what its settings alone do not show, such as a header HTTP forbids."""
    match settings:
        case OtlpGrpcExporterSettings():
            return OtlpGrpcExporter(
                name,
                settings.url,
                headers=_plain(settings.headers),
                compression=settings.compression,
                timeout_s=settings.timeout_s,
                insecure=settings.tls.insecure,
                tls=_client_tls(settings.tls),
                max_spans=settings.max_batch_spans,
                max_bytes=settings.max_batch_bytes,
            )
        case OtlpHttpExporterSettings():
            return OtlpHttpExporter(
                name,
                settings.url,
                base=settings.base,
                headers=_plain(settings.headers),
                compression=settings.compression,
                timeout_s=settings.timeout_s,
                tls=_client_tls(settings.tls),
                max_spans=settings.max_batch_spans,
                max_bytes=settings.max_batch_bytes,
            )
        case DatawayExporterSettings():
            return DatawayExporter(
                name,
                settings.address,
                form=settings.format,
                compression=settings.compression,
                timeout_s=settings.timeout_s,
                max_bytes=settings.max_batch_bytes,
                global_tags=settings.global_tags,
                sinker=settings.sinker,
                proxy=settings.proxy.get_secret_value() if settings.proxy else None,
                tls=_client_tls(settings.tls),
                verify=not settings.tls.insecure_skip_verify,
            )
        case FileExporterSettings():
            return FileExporter(name, settings.path, max_bytes=settings.rotate_bytes, max_backups=settings.backups)
        case ConsoleExporterSettings():
            return ConsoleExporter(name, width=settings.width)


def _plain(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}


def _client_tls(settings: TlsSettings | DatawayTlsSettings) -> ClientTls:
    return ClientTls(settings.ca_file, settings.cert_file, settings.key_file)
