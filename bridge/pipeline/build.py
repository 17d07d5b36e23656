"""Makes the parts from settings. Nothing here opens a socket or a file."""

from collections.abc import Callable, Mapping
from functools import partial

from pydantic import SecretStr

from bridge.codec.otlp_json import decode_json
from bridge.codec.otlp_protobuf import decode_request, decode_requests
from bridge.codec.otlp_scan import count_spans
from bridge.codec.points.decode import decode_bodies, decode_points
from bridge.codec.points.scan import count_points
from bridge.component import Exporter, SignalForwarder, SpanConsumer
from bridge.config import (
    ClientTlsSettings,
    ConsoleExporterSettings,
    DatawayExporterSettings,
    ExporterSettings,
    FileExporterSettings,
    ListenerSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
    Settings,
    client_tls,
    server_tls,
)
from bridge.exporters import ConsoleExporter, Delivery, FileExporter, RetryPolicy
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.pipeline.attribute_rules import with_rules
from bridge.pipeline.limits import listener_limits, request_limits
from bridge.receivers.admission import UNBOUNDED, Memory
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.gathering import Joint
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.security import CountReload, FileWatch, Identity, ListenerSecurity, Reloaded, not_counted
from bridge.store import Limits, SqliteStore
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
        limits=store_limits(settings),
        instruments=instruments,
    )


def store_limits(settings: Settings) -> Limits:
    """What the store may take on its disk."""
    return Limits(settings.store.max_bytes, settings.store.min_free_bytes)


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
    settings: Settings,
    consumer: SpanConsumer,
    instruments: Instruments,
    *,
    share_ports: bool = False,
    memory: Memory = UNBOUNDED,
    watch: FileWatch | None = None,
    forwarder: SignalForwarder | None = None,
    unavailable: Callable[[], str] = lambda: "",
) -> list[GrpcReceiver | HttpReceiver | DatakitReceiver]:
    """The receivers that are enabled; they hand what they read, as attribute rules leave it, to the consumer.

    share_ports: other processes listen on the same ones; memory: what all of them together may take; watch: has
    certificates and tokens read again when they change; forwarder: takes other signals, and is running;
    unavailable: why spans cannot be committed, "" when they can.
    """
    grpc, http, datakit = settings.receivers.otlp_grpc, settings.receivers.otlp_http, settings.receivers.datakit
    drain_s = drain_time_s(settings)
    consumer = with_rules(settings.attributes, consumer, instruments)
    receivers: list[GrpcReceiver | HttpReceiver | DatakitReceiver] = []
    if grpc.enabled:
        receivers.append(
            GrpcReceiver(
                consumer,
                instruments=instruments,
                host=grpc.host,
                port=grpc.port,
                security=listener_security("receivers.otlp_grpc", grpc, watch),
                max_request_bytes=grpc.max_request_bytes,
                max_in_flight_bytes=grpc.max_in_flight_bytes,
                limits=listener_limits(grpc),
                idle_timeout_s=grpc.idle_timeout_s,
                decode=partial(decode_request, limits=request_limits(grpc)),
                joint=Joint(count_spans, partial(decode_requests, limits=request_limits(grpc))),
                forwarder=forwarder,
                memory=memory,
                drain_s=drain_s,
                share_port=share_ports,
                unavailable=unavailable,
            )
        )
    if http.enabled:
        receivers.append(
            HttpReceiver(
                consumer,
                instruments=instruments,
                host=http.host,
                port=http.port,
                security=listener_security("receivers.otlp_http", http, watch),
                max_request_bytes=http.max_request_bytes,
                max_in_flight_bytes=http.max_in_flight_bytes,
                limits=listener_limits(http),
                idle_timeout_s=http.idle_timeout_s,
                decode=partial(decode_request, limits=request_limits(http)),
                joint=Joint(count_spans, partial(decode_requests, limits=request_limits(http))),
                decode_json=partial(decode_json, limits=request_limits(http)),
                forwarder=forwarder,
                memory=memory,
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
                security=listener_security("receivers.datakit", datakit, watch),
                max_request_bytes=datakit.max_request_bytes,
                max_in_flight_bytes=datakit.max_in_flight_bytes,
                limits=listener_limits(datakit),
                idle_timeout_s=datakit.idle_timeout_s,
                decode=partial(decode_points, limits=request_limits(datakit)),
                joint=Joint(count_points, partial(decode_bodies, limits=request_limits(datakit))),
                memory=memory,
                drain_s=drain_s,
                share_port=share_ports,
                body_timeout_s=datakit.read_timeout_s,
                hold_s=datakit.hold_s,
                max_held_requests=datakit.max_held_requests,
                forward_to=datakit.forward_to.get_secret_value() if datakit.forward_to else None,
                forward_tls=_watched_client("receivers.datakit.forward_tls", datakit.forward_tls, watch),
            )
        )
    return receivers


def build_deliveries(
    settings: Settings, store: SqliteStore, instruments: Instruments, watch: FileWatch | None = None
) -> list[Delivery]:
    """One delivery for each exporter, in the order of the settings. watch: as for receivers."""
    return [
        Delivery(
            build_exporter(name, exporter, watch),
            store,
            instruments,
            retry=RetryPolicy(exporter.retry.initial_s, exporter.retry.multiplier, exporter.retry.max_s),
            in_flight=exporter.in_flight,
        )
        for name, exporter in settings.exporters.items()
    ]


def build_exporter(name: str, settings: ExporterSettings, watch: FileWatch | None = None) -> Exporter:
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
                tls=client_tls(settings.tls),
                watch=watch,
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
                tls=client_tls(settings.tls),
                watch=watch,
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
                tls=client_tls(settings.tls),
                watch=watch,
            )
        case FileExporterSettings():
            return FileExporter(name, settings.path, max_bytes=settings.rotate_bytes, max_backups=settings.backups)
        case ConsoleExporterSettings():
            return ConsoleExporter(name, width=settings.width)


def build_watch(settings: Settings, count: CountReload = not_counted, *, warn: bool = True) -> FileWatch:
    """What reads certificates and tokens again, counts that, and warns of certificates that expire."""
    return FileWatch(count, warning_s=settings.telemetry.certificate_warning_s if warn else 0.0)


def listener_security(part: str, settings: ListenerSettings, watch: FileWatch | None) -> ListenerSecurity:
    """TLS and tokens of a listener; part: its table of the settings."""
    return ListenerSecurity(
        part,
        tls=server_tls(settings),
        tokens=[token.get_secret_value() for token in settings.tokens],
        tokens_file=settings.tokens_file,
        header=settings.auth_header,
        watch=watch,
    )


def _watched_client(part: str, settings: ClientTlsSettings, watch: FileWatch | None) -> Reloaded[Identity]:
    tls = client_tls(settings)
    made = Reloaded(part, "certificates", tls.files, tls.load)
    return watch.add(made) if watch else made


def watch_receivers(settings: Settings, watch: FileWatch) -> None:
    """Have the files of the receivers watched where other processes listen: for when certificates expire."""
    for name, receiver in settings.receivers.listeners.items():
        if receiver.enabled:
            listener_security(f"receivers.{name}", receiver, watch)


def _plain(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}
