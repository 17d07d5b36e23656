"""TLS of either side, made of PEM files. Every error names the file and what is wrong with it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bridge.errors import ConfigError
from bridge.security.certificates import expiry_s

MinVersion: TypeAlias = Literal["1.2", "1.3"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files of one side held when they were read. Secrets show in no repr."""

    context: ssl.SSLContext
    """For Python's TLS."""
    ca: bytes | None = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    expires_s: float | None
    """When the certificate, or one above it in the same file, expires, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of a listener; with `client_ca_file` its clients must show a certificate of that authority."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    min_version: MinVersion = "1.2"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(f for f in (self.cert_file, self.key_file, self.client_ca_file) if f is not None)

    def load(self) -> Identity:
        """Read them. Raises ConfigError naming the file that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self.min_version]
        if self.client_ca_file is not None:
            _trust(context, self.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        _show_certificate(context, self.cert_file, self.key_file)
        return _identity(context, self.client_ca_file, self.cert_file, self.key_file)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files of a client; without `ca_file` the system's certificate authorities are trusted.

    Without `verify` any certificate of the server is taken.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    min_version: MinVersion = "1.2"
    verify: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(f for f in (self.ca_file, self.cert_file, self.key_file) if f is not None)

    def load(self) -> Identity:
        """Read them. Raises ConfigError naming the file that cannot be used."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("TLS: a client certificate and its key go together; one of them is missing")
        context = ssl.create_default_context() if self.ca_file is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = _VERSIONS[self.min_version]
        if self.ca_file is not None:
            _trust(context, self.ca_file)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.cert_file and self.key_file:
            _show_certificate(context, self.cert_file, self.key_file)
        return _identity(context, self.ca_file, self.cert_file, self.key_file)


class CurrentContext(ssl.SSLContext):
    """A listener's context that begins each handshake with the one that is current by then.

    Changing a context that is in use would add to whom it trusts, never take away; a context of its own for each
    reload also ends the sessions that clients could have resumed.
    """

    _current: Callable[[], ssl.SSLContext]

    @classmethod
    def of(cls, current: Callable[[], ssl.SSLContext]) -> "CurrentContext":
        """Made of what says which context is current."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._current = current
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """What the event loop begins a handshake with."""
        return self._current().wrap_bio(*args, **kwargs)


def _identity(context: ssl.SSLContext, ca: Path | None, cert: Path | None, key: Path | None) -> Identity:
    chain = _read(cert)
    try:
        expires_s = expiry_s(chain) if chain is not None else None
    except ValueError as exc:
        raise ConfigError(f"TLS: {cert} cannot be used: {exc}") from exc
    return Identity(context, _read(ca), chain, _read(key), expires_s)


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"TLS: {ca} has no certificates of authorities that can be read: {_reason(exc)}") from exc


def _show_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    _read(cert), _read(key)
    try:
        context.load_cert_chain(cert, key, _no_passphrase)
    except _Encrypted:
        raise ConfigError(f"TLS: {key} is encrypted with a passphrase; use a key without one") from None
    except OSError as exc:
        raise ConfigError(f"TLS: {cert} and {key} cannot be used together: {_reason(exc)}") from exc


class _Encrypted(Exception):
    """Raised where OpenSSL would ask for a passphrase, on the terminal if it were let."""


def _no_passphrase() -> bytes:
    raise _Encrypted


def _reason(exc: OSError) -> str:
    reason = getattr(exc, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else exc.strerror or "their contents are no PEM"


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as exc:
        raise ConfigError(f"TLS: cannot read {path}: {exc.strerror}") from exc
