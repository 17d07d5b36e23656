"""How a backend is reached: TLS files and request headers, checked before anything connects."""

import re
from collections.abc import Mapping

from bridge import __version__
from bridge.errors import ConfigError
from bridge.security import ClientTls, FileWatch, Identity, Reloaded

USER_AGENT = f"espan-bridge/{__version__}"
HEADER_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
HEADER_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")
"""Text that travels as its UTF-8 bytes, for servers known to read them so."""


def watched(exporter: str, tls: ClientTls | None, watch: FileWatch | None) -> Reloaded[Identity]:
    """What an exporter's TLS files hold, read when the exporter starts and, with a watch, again when they change.

    exporter: its name in [exporters.NAME], which has no dot in it, or the path of another table of the settings.
    """
    tls = tls or ClientTls()
    made = Reloaded(exporter if "." in exporter else f"exporters.{exporter}", "certificates", tls.files, tls.load)
    return watch.add(made) if watch else made


def checked_headers(
    exporter: str, headers: Mapping[str, str], *, allowed: re.Pattern[str] = HEADER_VALUE
) -> dict[str, str]:
    """The headers with lower-case names. Raises ConfigError, without their values, for what HTTP does not allow."""
    for key, value in headers.items():
        if not HEADER_NAME.fullmatch(key) or not allowed.fullmatch(value):
            raise ConfigError(f"exporter {exporter}: header {key!r} has a name or a value that HTTP does not allow")
    return {key.lower(): value for key, value in headers.items()}
