"""Errors that show that a backend speaks something else at this port, and what to set instead."""

import re

SPEAKS_HTTP = 'this looks like HTTP: use type = "otlp_http", or the port of gRPC (4317 as a rule)'
SPEAKS_GRPC = 'this looks like gRPC: use type = "otlp_grpc", or the port of HTTP (4318 as a rule)'
WITHOUT_TLS = "no TLS is spoken at this port: begin the address with http://, or name a port that speaks it"
WITH_TLS = "this port speaks TLS: begin the address with https://"

# Texts of gRPC's core: an answer in HTTP/1.x, and one in HTTP/2 by somebody who knows no gRPC. Another bridge says it
# itself (bridge.connections).
_HTTP_1 = ("http1.x server", "takes HTTP/1.1 and no gRPC")
_HTTP_2 = re.compile(r"Received http2 header with status: (\d{3})\b")
_NO_GRPC = frozenset({400, 404, 405, 415})
"""Statuses of an HTTP server that is asked for gRPC."""
# The first frame of HTTP/2 where aiohttp looks for a status line; and OpenSSL's name for what is no TLS.
_NO_STATUS_LINE = "Expected HTTP/"
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
_TLS_WANTED = re.compile(r"HTTP request (was sent )?to (an )?HTTPS (server|port)", re.IGNORECASE)
"""What Go's servers and nginx say."""


def grpc_remedy(details: str) -> str:
    """What to do about an error of gRPC that says so; "" for any other."""
    if any(words in details for words in _HTTP_1) or http2_status(details) in _NO_GRPC:
        return SPEAKS_HTTP
    return WITHOUT_TLS if any(word in details for word in _NO_TLS) else ""


def http2_status(details: str) -> int | None:
    """The status that a proxy answered in gRPC's place, by an error of gRPC; None where it was no proxy."""
    found = _HTTP_2.search(details)
    return int(found[1]) if found else None


def http_remedy(text: str) -> str:
    """The same of an error of the HTTP client, or of the text of an answer with status 400."""
    if _NO_STATUS_LINE in text:
        return SPEAKS_GRPC
    if _TLS_WANTED.search(text):
        return WITH_TLS
    return WITHOUT_TLS if any(word in text for word in _NO_TLS) else ""
