"""Attributes that a span is given besides the keys they are made of: `DERIVED` of `bridge.codec.points.mapping`."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from bridge.codec.points.field_reader import (
    MAX_CACHED_BYTES,
    FieldRead,
    Value,
    as_number,
    attribute,
    integer_value,
    text_value,
    value_of,
)
from bridge.codec.points.mapping import SYSTEMS

UNSPECIFIED, SERVER, CLIENT = 0, 2, 3
"""Kinds of spans."""
DERIVED_FROM: Final = ("operation", "http_version", "pid", "tid", "src_ip", "src_port", "dst_ip", "dst_port")
"""Keys that are read for it, besides some that mean something else, too."""
_SIDES: Final[Mapping[int, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    UNSPECIFIED: (("dst", ("network.peer",)),),
    SERVER: (("src", ("server",)), ("dst", ("network.peer", "client"))),
    CLIENT: (("src", ("client",)), ("dst", ("network.peer", "server"))),
}
"""By kind: which side's address becomes which attribute."""
_HTTP_VERSION: Final = re.compile(r"(?:HTTP/)?([0-9](?:\.[0-9])?)")


def derived(fields: Mapping[str, FieldRead], kind: int) -> list[bytes]:
    """The attributes, each as it is written, or several together."""
    of = [fields[key].value if key in fields else None for key in DERIVED_FROM]
    if any(isinstance(value, str) and len(value) > MAX_CACHED_BYTES for value in of):
        found = [_system.__wrapped__(*of[:2]), _thread.__wrapped__(*of[2:4]), _sides.__wrapped__(kind, *of[4:])]
    else:
        found = [_system(*of[:2]), _thread(*of[2:4]), _sides(kind, *of[4:])]
    route = value_of(fields, "http_route", str)
    if route and route.startswith("/"):
        found.append(attribute("url.path", text_value(route)))
    if value_of(fields, "status", str) == "error":
        found.append(attribute("error.type", text_value(_error_type(fields))))
    return found


@lru_cache(maxsize=1 << 10)
def _system(operation: Value, version: Value) -> bytes:
    says = dict(SYSTEMS.get(operation, {})) if isinstance(operation, str) else {}
    if isinstance(version, str) and (match := _HTTP_VERSION.fullmatch(version)):
        says["network.protocol.version"] = match[1]
    return b"".join(attribute(name, text_value(text)) for name, text in says.items())


@lru_cache(maxsize=1 << 14)
def _thread(pid: Value, tid: Value) -> bytes:
    return _positive("process.pid", pid) + _positive("thread.id", tid)


@lru_cache(maxsize=1 << 14)
def _sides(kind: int, src_ip: Value, src_port: Value, dst_ip: Value, dst_port: Value) -> bytes:
    """Who is server, who is client, and who the other one is."""
    found = []
    for side, names in _SIDES[kind]:
        ip, port = (src_ip, src_port) if side == "src" else (dst_ip, dst_port)
        for name in names:
            if isinstance(ip, str) and ip:
                found.append(attribute(f"{name}.address", text_value(ip)))
            found.append(_positive(f"{name}.port", port))
    return b"".join(found)


def _positive(name: str, value: Value) -> bytes:
    number = as_number(value)
    return attribute(name, integer_value(number)) if number is not None and number > 0 else b""


def _error_type(fields: Mapping[str, FieldRead]) -> str:
    http = as_number(fields["http_status_code"].value) if "http_status_code" in fields else None
    if http is not None and http >= 400:
        return str(http)
    for key in ("grpc_status_code", "err_code"):
        value = fields[key].value if key in fields else None
        if value not in (None, "", "0", 0):
            return str(value)
    return "_OTHER"
