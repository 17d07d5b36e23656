"""Kinds of values that settings are made of: how each is read, shown, described, and what is secret about it."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, Secret, SecretStr, WithJsonSchema

from bridge.config.units import (
    DURATION,
    SIZE,
    Unreadable,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

MAX_BYTES = (1 << 31) - 1
"""gRPC and protobuf count bytes of a message in 31 bits."""

MIN_QUOTA_BYTES = 64 << 20
"""Below, what the store keeps beside spans that wait would be most of it."""

MASK = "***"
HOST = 'a host name or an IP address without port or scheme, such as "localhost", "0.0.0.0" or "::"'
HEADER_VALUE = "text of visible ASCII characters and spaces"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a value may be, as errors and documentation say it."""

    text: str
    hide: bool = False
    """Whether what it is instead is not shown: next to where secrets belong, it may be one."""


URL_SCHEMA = {"type": "string", "format": "uri", "minLength": 1}


class SecretUrl(Secret[str]):
    """A URL, shown without user, password and query; `get_secret_value()` has all of it."""

    def _display(self) -> str:
        return masked_url(self.get_secret_value())


class SecretText(Secret[str]):
    """Text of which nothing is shown."""

    def _display(self) -> str:
        return MASK


def masked_url(text: str) -> str:
    """The text without what may be secret if it is a URL: what stands before an @, and behind a question mark."""
    head, query, _ = text.replace("#", "?").partition("?")
    scheme, slashes, rest = head.rpartition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{MASK if user else ''}{at}{host}{query}{MASK if query else ''}"


def port_of(url: SplitResult) -> int | None:
    """The port a URL names. Raises ValueError for what is none."""
    try:
        port = url.port
    except ValueError:
        raise ValueError("the port is no number up to 65535") from None  # the original would show the text
    if port == 0:
        raise ValueError("nobody listens on port 0")
    return port


def http_url(value: SecretUrl) -> SecretUrl:
    """The value. Raises ValueError for what is no address of HTTP."""
    text = value.get_secret_value()
    if "://" not in text:
        raise ValueError("the scheme is missing")
    url = urlsplit(text)
    if url.scheme not in ("http", "https"):
        raise ValueError(f'the scheme "{url.scheme}" is not known')
    port_of(url)
    if not url.hostname:
        raise ValueError("the host is missing")
    return value


def _duration_ns(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Unreadable(str(value), "has no unit", DURATION, f"{value}s")
    if not isinstance(value, str):
        raise Unreadable(str(value), "is no text", DURATION)
    return parse_duration(value)


def _duration_s(value: object) -> float:
    return _duration_ns(value) / 1e9


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else value


def _show_seconds(seconds: float) -> str:
    return format_duration(round(seconds * 1e9))


def _host(value: str) -> str:
    if _HOST.fullmatch(value):
        return value
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        host, colon, port = value.rpartition(":")
        near = host.strip("[]") if colon and port.isdecimal() else value.strip("[]")
        raise Unreadable(value, "is no host", HOST, near if near != value else "") from None


def _header(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]*", value):
        raise ValueError("has characters that HTTP does not allow")
    return value


_HEADER_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")


def _header_names(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    faulty = sorted(name for name in headers if not _HEADER_NAME.fullmatch(name))
    if faulty:
        # the rest may be a value that went astray
        sound = re.match(r"[0-9A-Za-z_-]*", faulty[0])
        raise ValueError(f"HTTP allows no header name like the one that begins with {sound[0] if sound else ''!r}")
    return headers


_DURATION_SCHEMA = {"type": "string", "pattern": r"^([0-9]+\.?[0-9]*(ns|us|µs|ms|s|m|h))+$|^0$"}
_SIZE_SCHEMA: dict[str, Any] = {
    "oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9.]+ ?[KMGTkmgt]?[Ii]?[Bb]$"}]
}

Nanoseconds: TypeAlias = Annotated[
    int,
    BeforeValidator(_duration_ns),
    Field(gt=0),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
    Allowed(f"{DURATION}, longer than 0"),
]
NanosecondsOrZero: TypeAlias = Annotated[
    int,
    BeforeValidator(_duration_ns),
    Field(ge=0),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
    Allowed(f"{DURATION}, or 0s"),
]
Seconds: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration_s),
    Field(gt=0),
    PlainSerializer(_show_seconds, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
    Allowed(f"{DURATION}, longer than 0"),
]
SecondsOrZero: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration_s),
    Field(ge=0),
    PlainSerializer(_show_seconds, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
    Allowed(f"{DURATION}, or 0s"),
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=1, le=MAX_BYTES),
    PlainSerializer(format_size),
    WithJsonSchema(_SIZE_SCHEMA),
    Allowed(f"{SIZE}, more than 0 and less than 2GiB"),
]
LargeSize: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=1),
    PlainSerializer(format_size),
    WithJsonSchema(_SIZE_SCHEMA),
    Allowed(f"{SIZE}, more than 0"),
]
LargeSizeOrZero: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=0),
    PlainSerializer(format_size),
    WithJsonSchema({"oneOf": [{"type": "integer", "minimum": 0}, *_SIZE_SCHEMA["oneOf"][1:]]}),
    Allowed(f"{SIZE}, or 0"),
]
Quota: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=MIN_QUOTA_BYTES),
    PlainSerializer(format_size),
    WithJsonSchema(_SIZE_SCHEMA),
    Allowed(f"{SIZE}, at least {format_size(MIN_QUOTA_BYTES)}"),
]
Count: TypeAlias = Annotated[int, Field(ge=1), Allowed("a whole number of at least 1")]
CountOrZero: TypeAlias = Annotated[int, Field(ge=0), Allowed("a whole number of at least 0")]
Processes: TypeAlias = Annotated[int, Field(ge=1, le=64), Allowed("a whole number from 1 to 64")]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Allowed("a number from 0.0 to 1.0")]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535), Allowed("a port from 1 to 65535, or 0 for any free one")]
Host: TypeAlias = Annotated[
    str,
    AfterValidator(_host),
    Allowed(HOST),
]
HostNames: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(lambda value: value if value == "*" else _host(value))], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Allowed('a list of host names without port or scheme, such as ["bridge.example"], or ["*"] for any'),
]
FilePath: TypeAlias = Annotated[
    Path,
    BeforeValidator(_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1}),
    Allowed("a path; a relative one starts at the working directory"),
]
HeaderValue: TypeAlias = Annotated[SecretStr, BeforeValidator(lambda v: _header(v) if isinstance(v, str) else v)]
Headers: TypeAlias = Annotated[
    Mapping[str, HeaderValue],
    AfterValidator(_header_names),
    Allowed('a table of text, such as {authorization = "Bearer ..."}'),
]


def _tag_names(tags: Mapping[str, str]) -> Mapping[str, str]:
    if "" in tags:
        raise ValueError("a tag has no name")
    return tags


HttpUrl: TypeAlias = Annotated[
    SecretUrl,
    AfterValidator(http_url),
    WithJsonSchema(URL_SCHEMA),
]
Tags: TypeAlias = Annotated[
    Mapping[str, str],
    AfterValidator(_tag_names),
    Allowed('a table of text, such as {env = "prod"}'),
]
