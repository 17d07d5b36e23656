"""Backends: whether each is there, speaks what its exporter speaks, and takes a request without spans."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import anyio

from bridge.cli.surroundings.naming import name_of
from bridge.cli.surroundings.probe import Address, what_is_wrong_at
from bridge.config.checks import host_and_port, targets
from bridge.config.exporters import (
    NETWORK_EXPORTERS,
    ClientTlsSettings,
    DatawayExporterSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
)
from bridge.config.fields import masked_url
from bridge.config.problems import Path, Problem
from bridge.config.settings import Settings
from bridge.config.tls_checks import client_tls
from bridge.errors import ConfigError, PermanentError, RetryableError

DEADLINE_S = 10.0
"""For all backends together: they are asked at once."""
REQUEST_S = 4.0
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACES = "v1/traces"
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables by which gRPC's core goes through a proxy."""


def unreachable(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    """A problem for each backend that does not take traces at present."""
    answers: SimpleQueue[tuple[Path, str]] = SimpleQueue()
    asked = dict(targets(settings))

    def ask(path: Path, url: str) -> None:
        try:
            answers.put((path, _wrong_with(settings, path, url)))
        except Exception as exc:  # noqa: BLE001 -- the root of a thread: told as what was found
            answers.put((path, f"could not be looked at: {type(exc).__name__}"))

    for target in asked.items():
        # not waited for beyond the deadline: a resolver may take longer than anybody has
        threading.Thread(target=ask, args=target, daemon=True).start()
    for path, text in _until(answers, len(asked)):
        url = asked.pop(path)
        if text:
            yield _problem(path, url, text, origins)
    for path, url in asked.items():
        text = f"no answer within {DEADLINE_S:g} s, not even of the resolver; see to the network of this machine"
        yield _problem(path, url, text, origins)


def _until(answers: SimpleQueue[tuple[Path, str]], count: int) -> Iterator[tuple[Path, str]]:
    give_up_s = time.monotonic() + DEADLINE_S
    for _ in range(count):
        try:
            yield answers.get(timeout=max(0.0, give_up_s - time.monotonic()))
        except Empty:
            return


def _problem(path: Path, url: str, text: str, origins: Mapping[str, str]) -> Problem:
    return Problem(name_of(path, origins), f' = "{masked_url(url)}": {text}', (path,))


def _wrong_with(settings: Settings, path: Path, url: str) -> str:
    address = _address(settings, path, url)
    text = what_is_wrong_at(address) if address else ""
    if text or path[0] != "exporters":
        return text
    exporter = settings.exporters[path[1]]
    if not isinstance(exporter, OtlpGrpcExporterSettings | OtlpHttpExporterSettings):
        return ""
    return anyio.run(_refusal_of, path[1], exporter)


def _address(settings: Settings, path: Path, url: str) -> Address | None:
    """What a connection goes to; None where that is a matter of gRPC's core."""
    host, port = host_and_port(url)
    if path[0] == "receivers":
        secure = urlsplit(url).scheme == "https"
        return _speaking(host, port, settings.receivers.datakit.forward_tls, grpc=False, secure=secure)
    if path[0] == "telemetry":
        own = settings.telemetry.otlp
        return _speaking(host, port, own.tls, grpc=own.protocol == "grpc", secure=own.uses_tls)
    exporter = settings.exporters[path[1]]
    if isinstance(exporter, DatawayExporterSettings) and exporter.proxy:
        return Address(*host_and_port(exporter.proxy.get_secret_value()), "http")
    if not isinstance(exporter, NETWORK_EXPORTERS):
        return None
    grpc = isinstance(exporter, OtlpGrpcExporterSettings)
    return _speaking(host, port, exporter.tls, grpc=grpc, secure=exporter.uses_tls)


def _speaking(host: str, port: int, tls: ClientTlsSettings, *, grpc: bool, secure: bool) -> Address | None:
    if grpc and any(os.environ.get(name) for name in PROXIES):
        return None
    context = (lambda: client_tls(tls).load().context) if secure else None
    return Address(host, port, "grpc" if grpc else "http", context)


async def _refusal_of(name: str, settings: OtlpGrpcExporterSettings | OtlpHttpExporterSettings) -> str:
    """What a backend says to a request without spans, with the exporter's own headers; "" where it takes it.

    One that refuses such a request for its content speaks the protocol, and is not asked for more.
    """
    from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
    from bridge.pipeline.build import build_exporter

    try:
        exporter = build_exporter(name, settings.model_copy(update={"timeout_s": REQUEST_S}))
    except ConfigError as exc:
        return str(exc)
    assert isinstance(exporter, OtlpGrpcExporter | OtlpHttpExporter)  # noqa: S101 -- by its settings
    async with exporter.running():
        try:
            if isinstance(exporter, OtlpGrpcExporter):
                await exporter.call(EXPORT, b"")
            else:
                await exporter.post(TRACES, b"", as_json=False)
        except RetryableError as exc:
            return str(exc)
        except PermanentError:
            return ""
    return ""
