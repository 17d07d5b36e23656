"""Combinations that each value alone does not show: what would loop, clash, or fail only once the bridge runs."""

import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from bridge.config.attribute_checks import check_attributes
from bridge.config.catalogue import dotted
from bridge.config.datakit import DATAWAY, destination
from bridge.config.environment import OTEL
from bridge.config.exporters import (
    NETWORK_EXPORTERS,
    DatawayExporterSettings,
    FileExporterSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
)
from bridge.config.fields import masked_url
from bridge.config.problems import NOT_UTF8, Path, Problem, named, shown
from bridge.config.profiles import load_profiles
from bridge.config.settings import Settings
from bridge.config.tls_checks import check_tls
from bridge.config.units import format_duration
from bridge.errors import ConfigError

WINDOW = ("inputs", "ebpftrace", "window")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NOT_IN_GLOBAL_TAGS = re.compile(r"[\x00-\x1f\x7f-\x9f,=]")
"""What neither a key nor a value can hold in KEY=VALUE,KEY=VALUE as a header."""
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- looked for, not bound


@dataclass(frozen=True, slots=True)
class Listener:
    """Something of ours that listens."""

    path: Path
    host: str
    port: int

    def __str__(self) -> str:
        return f"{dotted((*self.path, 'port'))} = {self.port} on {self.host}"


def missing_exporters(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """No exporter at all, with how to add one."""
    if raw.get("exporters") or not isinstance(raw.get("exporters", {}), dict):
        return
    yield Problem(
        "exporters",
        ": none is configured, so that nothing could leave the bridge. Add one to the file, for instance\n"
        '  [exporters.backend]\n  type = "otlp_grpc"\n  endpoint = "http://tempo:4317"\n'
        f"or set {OTEL}ENDPOINT or {DATAWAY} in the environment.",
    )


def check(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    """What is wrong with settings whose values are right one by one; `variables` as in `problems.problems_of`."""
    listening = list(listeners(settings))
    yield from _names(settings)
    yield from _receivers(settings)
    yield from _clashes(listening)
    yield from _own_endpoints(settings, variables, listening)
    yield from _ages(settings, variables)
    yield from check_tls(settings, variables)
    yield from _files(settings)
    yield from _workspaces(settings, variables)
    yield from _global_tags(settings, variables)
    yield from _profiles(settings)
    yield from check_attributes(settings, variables)
    yield from _forwarding(settings)
    yield from _own_traces(settings)


def _names(settings: Settings) -> Iterator[Problem]:
    for name in settings.exporters:
        if not NAME.fullmatch(name):
            yield Problem(
                dotted(("exporters", name)),
                ": the name of an exporter has 1 to 64 letters, digits, dashes or underscores",
            )


def listeners(settings: Settings) -> Iterator[Listener]:
    """Everything that listens at a port of its own choice."""
    tables = (
        (("receivers", "otlp_grpc"), settings.receivers.otlp_grpc),
        (("receivers", "otlp_http"), settings.receivers.otlp_http),
        (("receivers", "datakit"), settings.receivers.datakit),
        (("web",), settings.web),
    )
    for path, table in tables:
        if table.enabled and table.port:
            yield Listener(path, table.host, table.port)


def _receivers(settings: Settings) -> Iterator[Problem]:
    receivers = settings.receivers
    if not (receivers.otlp_grpc.enabled or receivers.otlp_http.enabled or receivers.datakit.enabled):
        yield Problem("receivers", ": none is enabled, so that nothing could reach the bridge; enable one")


def _clashes(listeners: list[Listener]) -> Iterator[Problem]:
    for one, other in combinations(listeners, 2):
        if one.port == other.port and _overlap(one.host, other.host):
            yield Problem(
                dotted((*other.path, "port")),
                f" = {other.port}: {one} has this port already; choose another",
                ((*one.path, "port"), (*one.path, "host"), (*other.path, "port"), (*other.path, "host")),
            )


def _own_endpoints(settings: Settings, variables: Mapping[Path, str], listeners: list[Listener]) -> Iterator[Problem]:
    for path, url in targets(settings):
        host, port = host_and_port(url)
        for listener in listeners:
            if port == listener.port and _reaches(host, listener.host):
                yield Problem(
                    named(path, variables),
                    f' = "{masked_url(url)}": this is the bridge itself, which listens there ({listener}); what it '
                    "sends would come back to it. Give the backend or the listener another port",
                    (path, (*listener.path, "port"), (*listener.path, "host")),
                )


def targets(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Where the bridge sends to."""
    for name, exporter in settings.exporters.items():
        if isinstance(exporter, DatawayExporterSettings):
            yield ("exporters", name, "url"), exporter.address
        elif isinstance(exporter, NETWORK_EXPORTERS):
            yield ("exporters", name, "endpoint" if exporter.endpoint else "traces_endpoint"), exporter.url
    if settings.telemetry.otlp.endpoint is not None:
        yield ("telemetry", "otlp", "endpoint"), settings.telemetry.otlp.url
    if (forward_to := settings.receivers.datakit.forward_to) is not None:
        yield ("receivers", "datakit", "forward_to"), forward_to.get_secret_value()


def host_and_port(url: str) -> tuple[str, int]:
    """What a URL, or a host and port alone, names; the port is that of its scheme where it names none."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _reaches(host: str, listening: str) -> bool:
    """Whether who dials `host` on this machine meets what listens on `listening`; resolves no names."""
    if host == listening.lower():
        return True
    return _is_here(host) and (listening in EVERYWHERE or _is_here(listening))


def _overlap(one: str, other: str) -> bool:
    return one == other or bool({one, other} & EVERYWHERE) or (_is_here(one) and _is_here(other))


def _is_here(host: str) -> bool:
    """Whether this is a name or an address of this machine, as far as that shows without a resolver."""
    if host.rstrip(".") == "localhost" or host in EVERYWHERE:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        own = socket.gethostname().lower()
        return host.lower() in (own, own.partition(".")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _ages(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    age_ns = settings.linker.max_trace_age_ns
    if age_ns < settings.window_ns:
        yield Problem(
            "linker.max_trace_age",
            f' = "{format_duration(age_ns)}": is shorter than {named(WINDOW, variables)} = '
            f'"{format_duration(settings.window_ns)}"; every trace would leave before its window; allowed: the window '
            "or longer",
            (("linker", "max_trace_age"), WINDOW),
        )


def _forwarding(settings: Settings) -> Iterator[Problem]:
    kinds = (OtlpGrpcExporterSettings, OtlpHttpExporterSettings)
    if settings.receivers.forward_other_signals and not any(isinstance(e, kinds) for e in settings.exporters.values()):
        yield Problem(
            "receivers.forward_other_signals",
            ' = true: there is no exporter of type "otlp_grpc" or "otlp_http" to forward to; add one',
            (("receivers", "forward_other_signals"),),
        )


def _own_traces(settings: Settings) -> Iterator[Problem]:
    rate = settings.telemetry.traces.sampling_rate
    if rate and settings.telemetry.otlp.endpoint is None:
        yield Problem(
            "telemetry.traces.sampling_rate",
            f" = {rate}: there is no telemetry.otlp.endpoint to send the bridge's own traces to; set one",
            (("telemetry", "traces", "sampling_rate"), ("telemetry", "otlp", "endpoint")),
        )


def _profiles(settings: Settings) -> Iterator[Problem]:
    try:
        load_profiles(settings.receivers.profiles)
    except ConfigError as exc:
        yield Problem("receivers.profiles", f": {exc}", (("receivers", "profiles"),))


def _files(settings: Settings) -> Iterator[Problem]:
    files = [(n, e.path.resolve()) for n, e in settings.exporters.items() if isinstance(e, FileExporterSettings)]
    for (one, path), (other, same) in combinations(files, 2):
        if path == same:
            yield Problem(
                dotted(("exporters", other, "path")),
                f' = "{same}": exporters.{one} writes this file already; choose another',
                (("exporters", one, "path"), ("exporters", other, "path")),
            )


def _dataways(settings: Settings) -> Iterator[tuple[str, DatawayExporterSettings]]:
    for name, exporter in settings.exporters.items():
        if isinstance(exporter, DatawayExporterSettings):
            yield name, exporter


def _workspaces(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    for (one, first), (other, second) in combinations(_dataways(settings), 2):
        if destination(first.address) == destination(second.address):
            paths = (("exporters", one, "url"), ("exporters", other, "url"))
            yield Problem(
                named(paths[1], variables),
                f' = "{masked_url(second.address)}": {named(paths[0], variables)} has the same host and token, so that '
                "everything would arrive there twice; remove one of them",
                paths,
            )


def _global_tags(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    """Tags that points cannot hold, or the header X-Global-Tags that a Dataway's sinker reads."""
    for name, exporter in _dataways(settings):
        path = ("exporters", name, "global_tags")
        for key, value in exporter.global_tags.items():
            if NOT_UTF8.search(key + value):
                yield Problem(named(path, variables), f": {shown(key)} = {shown(value)}: must be UTF-8", (path,))
            elif exporter.sinker and NOT_IN_GLOBAL_TAGS.search(key + value):
                yield Problem(
                    named(path, variables),
                    f": {shown(key)} = {shown(value)} cannot travel in the header X-Global-Tags, as tags do with "
                    "sinker = true; take commas, equals signs, line breaks and control characters out of it",
                    (path, ("exporters", name, "sinker")),
                )
