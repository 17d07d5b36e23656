"""What a backend's answer says, and how much of it may be shown."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp

BAD_REQUEST, CONTENT_TOO_LARGE = 400, 413
MAX_ANSWER_BYTES = 1 << 20
MAX_TEXT = 300
MAX_RETRY_AFTER_S = 1e9
"""No number is read as more: one of 400 digits is infinite."""
SETTINGS: Mapping[int, str] = {
    401: "check the token, or user and password",
    402: "the account has to be looked after",
    403: "check the token, and what it may do",
    404: "check the path of the endpoint",
    405: "check the path of the endpoint",
    407: "the proxy wants a user and a password",
    421: "check the host of the endpoint",
}
"""Statuses that say nothing against the spans: whoever runs the bridge or the backend can set them right."""
SECRET_CHARS = 6
"""Header values shorter than this are no secrets; masking them would only garble texts."""


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """A backend's text as it may be logged: one line, bounded, with our own secrets masked where it echoes them."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT]).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def secrets_of(values: Iterable[str]) -> tuple[str, ...]:
    """What must not be shown of header values: each whole, and what follows its scheme; the longest first."""
    found = set(values) | {part for value in values for part in value.split()[1:]}
    return tuple(sorted((s for s in found if len(s) >= SECRET_CHARS), key=len, reverse=True))


def retry_after_s(value: str, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None where it is neither."""
    if (seconds := value.strip()).isdecimal():
        return min(float(seconds), MAX_RETRY_AFTER_S)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        # a date without a zone is no HTTP date, and cannot be subtracted; and there are years of twenty digits
        return None


def settings_refusal(status: int, location: str) -> str:
    """What to do about a status that is about settings, and not about the body; "" for any other status.

    location: the header of that name. Of it only the host is shown.
    """
    if 300 <= status < 400:
        host = shown(_host_of(location))
        return f"it sends us to {host}; redirects are not followed: set the endpoint to where the backend is"
    return SETTINGS.get(status, "")


def _host_of(location: str) -> str:
    """Scheme and host of an address, as far as it has them and can be read."""
    try:
        target = urlsplit(location)
        return f"{target.scheme or '...'}://{target.netloc.rpartition('@')[2] or '...'}"
    except ValueError:
        return "an address that cannot be read"


def url_secrets(url: str) -> tuple[str, ...]:
    """What must not be shown of a URL: its user, its password, its query with what stands in it; the longest first.

    Each as it stands and decoded, and the header a client makes of user and password.
    """
    parts = urlsplit(url)
    found = {part for part in (parts.password, parts.username, parts.query) if part}
    found |= {value for _, value in parse_qsl(parts.query) if len(value) >= SECRET_CHARS}
    found |= {unquote(part) for part in found}
    if parts.username or parts.password:
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        found.add(b64encode(user.encode()).decode())
    return tuple(sorted(found, key=len, reverse=True))


async def first_bytes(content: aiohttp.StreamReader) -> bytes:
    """The body of an answer, as far as anyone would read it."""
    answer = bytearray()
    while len(answer) < MAX_ANSWER_BYTES and (chunk := await content.read(MAX_ANSWER_BYTES - len(answer))):
        answer += chunk
    return bytes(answer)
