"""Who answers at an address: its name, a connection, TLS, and the first bytes that are said."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bridge.exporters.protocols import SPEAKS_GRPC, SPEAKS_HTTP, WITH_TLS, WITHOUT_TLS
from bridge.http2 import HEAD_BYTES, PREFACE, SETTINGS, begins_as_server, frame
from bridge.receivers.addresses import host_port

STEP_S = 3.0
"""For a connection, a handshake, and a first answer, each."""
FIRST_BYTES = 4096
_TLS_RECORD = b"\x15\x03"
"""How an alert of TLS begins."""


@dataclass(frozen=True, slots=True)
class Address:
    """What is dialled, and what is to be spoken there."""

    host: str
    port: int
    protocol: Literal["grpc", "http"]
    tls: Callable[[], ssl.SSLContext] | None = None
    """Makes a context of TLS; None where there is none."""

    def __str__(self) -> str:
        return host_port(self.host, self.port)


def what_is_wrong_at(address: Address) -> str:
    """Why nothing can be delivered there, with the remedy; "" where the right protocol is spoken. Blocks."""
    try:
        connection = socket.create_connection((address.host, address.port), timeout=STEP_S)
    except OSError as exc:
        return _not_reached(address, exc)
    with connection:
        if address.tls is None:
            return _first_words(address, connection)
        try:
            context = address.tls()
            context.set_alpn_protocols(["h2"] if address.protocol == "grpc" else ["http/1.1"])
            with context.wrap_socket(connection, server_hostname=address.host) as secure:
                return _first_words(address, secure)
        except OSError as exc:
            return _no_tls(address, exc)


def _not_reached(address: Address, exc: OSError) -> str:
    match exc:
        case socket.gaierror():
            return f'the name "{address.host}" is not known here ({exc.strerror}); correct it, or see to its DNS entry'
        case ConnectionRefusedError():
            return f"nobody listens at {address} (refused); start the backend, or correct host and port"
        case TimeoutError():
            return (
                f"{address} does not answer within {STEP_S:g} s; see whether the host is right, and whether a firewall "
                "is in between"
            )
    return f"{address} cannot be reached: {exc.strerror or exc}; correct host and port, or see to the network"


def _no_tls(address: Address, exc: OSError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"the certificate that {address} shows is not accepted: {exc.verify_message}; renew it, address it by a "
            "name it has, or name its authority in tls.ca_file"
        )
    if isinstance(exc, ssl.SSLError) and exc.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"):
        return f"{address}: {WITHOUT_TLS}"
    reason = (exc.reason or "").replace("_", " ").lower() if isinstance(exc, ssl.SSLError) else exc.strerror
    return f"{address}: the handshake of TLS failed ({reason or 'hung up'}); see to the files in tls, and its version"


def _first_words(address: Address, connection: socket.socket) -> str:
    connection.settimeout(STEP_S)
    begin = PREFACE + frame(SETTINGS, 0, 0)
    if address.protocol == "http":
        begin = f"OPTIONS / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()
    try:
        said = _answer_to(begin, connection)
    except TimeoutError:
        return f"{address} takes connections and says nothing within {STEP_S:g} s; see whether it works, and what it is"
    return f"{address}: {remedy}" if (remedy := _remedy(address, said)) else ""


def _answer_to(begin: bytes, connection: socket.socket) -> bytes:
    """The first bytes of it; fewer where the other side hangs up, whether it reads before or not."""
    said = b""
    try:
        connection.sendall(begin)
        while len(said) < HEAD_BYTES and (piece := connection.recv(FIRST_BYTES)):
            said += piece
    except (ConnectionError, ssl.SSLEOFError):
        return said
    return said


def _remedy(address: Address, said: bytes) -> str:
    if begins_as_server(said):
        return "" if address.protocol == "grpc" else SPEAKS_GRPC
    if said.startswith(b"HTTP/"):
        if b"HTTP request to an HTTPS server" in said or b"request was sent to HTTPS port" in said:
            return WITH_TLS
        return "" if address.protocol == "http" else SPEAKS_HTTP
    if said.startswith(_TLS_RECORD):
        return WITH_TLS
    if not said:
        tls = "" if address.tls else ", or begin the address with https:// if it wants TLS"
        return f"it hangs up without an answer; see what listens there{tls}"
    wanted = "gRPC" if address.protocol == "grpc" else "HTTP"
    return f"what listens there speaks neither HTTP nor gRPC; correct the port to one of {wanted}"
