"""What is wrong, or odd, about TLS and tokens: files that cannot be used, and listeners that anybody can speak to."""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from bridge.config.catalogue import dotted
from bridge.config.exporters import (
    NETWORK_EXPORTERS,
    ClientTlsSettings,
    DatawayExporterSettings,
    DatawayTlsSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
    TlsSettings,
)
from bridge.config.problems import Path, Problem, named
from bridge.config.security import ListenerSettings
from bridge.config.settings import Settings
from bridge.config.telemetry import TelemetryOtlpSettings
from bridge.errors import ConfigError
from bridge.security import ClientTls, ServerTls, read_tokens

NetworkClient: TypeAlias = (
    OtlpGrpcExporterSettings | OtlpHttpExporterSettings | DatawayExporterSettings | TelemetryOtlpSettings
)


def check_tls(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    """Files that cannot be used, and TLS that is set where there is none."""
    yield from _of_exporters(settings, variables)
    datakit = settings.receivers.datakit
    if datakit.enabled and datakit.forward_to is not None:
        secure = datakit.forward_to.get_secret_value().startswith("https://")
        here = ("receivers", "datakit", "forward_tls")
        yield from _of_client(datakit.forward_tls, here, variables, secure, (here, (*here[:2], "forward_to")))
    for path, listener in _listeners(settings):
        tls = server_tls(listener)
        try:
            if tls is not None:
                tls.load()
        except ConfigError as exc:
            yield Problem(dotted((*path, "tls")), f": {exc}", ((*path, "tls"),))
        try:
            if listener.tokens_file is not None:
                read_tokens(listener.tokens_file)
        except ConfigError as exc:
            yield Problem(dotted((*path, "tokens_file")), f": {exc}", ((*path, "tokens_file"),))


def server_tls(listener: ListenerSettings) -> ServerTls | None:
    """Its TLS, None where it has none."""
    tls = listener.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    return ServerTls(tls.cert_file, tls.key_file, tls.client_ca_file, tls.min_version)


def client_tls(settings: ClientTlsSettings) -> ClientTls:
    """TLS of what connects."""
    verify = not (isinstance(settings, DatawayTlsSettings) and settings.insecure_skip_verify)
    return ClientTls(settings.ca_file, settings.cert_file, settings.key_file, settings.min_version, verify)


def open_listeners(settings: Settings) -> Iterator[str]:
    """A warning for each listener that others than this machine reach without TLS, or without showing who they are."""
    for path, listener in _listeners(settings):
        if _is_local(listener.host):
            continue
        tls, name = server_tls(listener), dotted(path)
        known = listener.tokens or listener.tokens_file or listener.tls.client_ca_file
        lacks, wants = [], []
        if tls is None:
            lacks.append("without TLS, so that anybody in between can read along")
            wants.append(f"{name}.tls.cert_file and {name}.tls.key_file")
        if not known:
            lacks.append("without tokens or client certificates, so that anybody who reaches it may use it")
            wants.append(f"{name}.tokens_file or {name}.tls.client_ca_file")
        if lacks:
            yield (
                f"{name} listens beyond this machine ({name}.host = {listener.host}) {' and '.join(lacks)}; "
                f'set {", and ".join(wants)}, or {name}.host = "localhost"'
            )


def _listeners(settings: Settings) -> Iterator[tuple[Path, ListenerSettings]]:
    for name, listener in settings.receivers.listeners.items():
        if listener.enabled:
            yield ("receivers", name), listener
    if settings.web.enabled:
        yield ("web",), settings.web


def _is_local(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _clients(settings: Settings) -> Iterator[tuple[Path, NetworkClient, bool]]:
    """What sends over the network, and whether over gRPC."""
    for name, exporter in settings.exporters.items():
        if isinstance(exporter, NETWORK_EXPORTERS):
            yield ("exporters", name), exporter, isinstance(exporter, OtlpGrpcExporterSettings)
    otlp = settings.telemetry.otlp
    if otlp.endpoint is not None:
        yield ("telemetry", "otlp"), otlp, otlp.protocol == "grpc"


def _of_exporters(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    for table, exporter, grpc in _clients(settings):
        path = (*table, "tls")
        about = (path, (*table, "endpoint"))
        if isinstance(exporter.tls, TlsSettings) and exporter.tls.insecure and (exporter.uses_tls or not grpc):
            yield Problem(
                dotted((*path, "insecure")),
                " = true: insecure means no TLS at all and is only for otlp_grpc endpoints without a scheme; where "
                "there is one, write http:// for no TLS. Unverified certificates are not supported: name their "
                "authority in ca_file",
                about,
            )
        if grpc and exporter.tls.min_version != "1.2":
            text = ' = "1.3": gRPC speaks 1.2 and 1.3, and offers no choice; leave it out, or use type = "otlp_http"'
            yield Problem(dotted((*path, "min_version")), text, about)
        yield from _of_client(exporter.tls, path, variables, exporter.uses_tls, about)


def _of_client(
    tls: ClientTlsSettings, path: Path, variables: Mapping[Path, str], uses_tls: bool, about: tuple[Path, ...]
) -> Iterator[Problem]:
    found = list(_files(tls, path, variables, uses_tls=uses_tls))
    yield from (Problem(where, text, about) for where, text in found)
    if uses_tls and not found:
        try:
            client_tls(tls).load()
        except ConfigError as exc:
            yield Problem(dotted(path), f": {exc}", about)


def _files(
    tls: ClientTlsSettings, path: Path, variables: Mapping[Path, str], *, uses_tls: bool
) -> Iterator[tuple[str, str]]:
    for key, file in tls.files.items():
        if not uses_tls:
            text = "no TLS with this endpoint, so that the file would not be used; write https://, or remove it"
        elif not (file.is_file() and os.access(file, os.R_OK)):
            text = "there is no such file, or it cannot be read"
        else:
            continue
        yield named((*path, key), variables), f' = "{file}": {text}'
