"""How a backend is reached: TLS files and request headers, checked before anything connects."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge import __version__
from bridge.errors import ConfigError

USER_AGENT = f"espan-bridge/{__version__}"
HEADER_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
HEADER_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")
"""Text that travels as its UTF-8 bytes, for servers known to read them so."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files of a client; without `ca_file` the system's certificate authorities are trusted."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Contents of authority, certificate and key. Raises ConfigError naming the file that cannot be read."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("TLS: a client certificate and its key go together; one of them is missing")
        ca, cert, key = (_read(path) for path in (self.ca_file, self.cert_file, self.key_file))
        return ca, cert, key

    def context(self, *, verify: bool = True) -> ssl.SSLContext:
        """The same for Python's TLS; without `verify` any certificate of the server is taken.

        Raises ConfigError where a file cannot be used.
        """
        self.read()
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if not verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self.cert_file and self.key_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(f"TLS: {self} cannot be used: {exc}") from exc
        return context


def checked_headers(
    exporter: str, headers: Mapping[str, str], *, allowed: re.Pattern[str] = HEADER_VALUE
) -> dict[str, str]:
    """The headers with lower-case names. Raises ConfigError, without their values, for what HTTP does not allow."""
    for key, value in headers.items():
        if not HEADER_NAME.fullmatch(key) or not allowed.fullmatch(value):
            raise ConfigError(f"exporter {exporter}: header {key!r} has a name or a value that HTTP does not allow")
    return {key.lower(): value for key, value in headers.items()}


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as exc:
        raise ConfigError(f"TLS: cannot read {path}: {exc.strerror}") from exc
