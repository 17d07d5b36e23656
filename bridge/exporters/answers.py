"""What a backend's answer says, and how much of it may be shown."""

from collections.abc import Iterable
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

MAX_ANSWER_BYTES = 64 << 10
MAX_TEXT = 300
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
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        # a date without a zone is no HTTP date, and cannot be subtracted
        return None


def url_secrets(url: str) -> tuple[str, ...]:
    """What must not be shown of a URL: its user, its password, its query."""
    parts = urlsplit(url)
    return tuple(part for part in (parts.password, parts.username, parts.query) if part)


async def first_bytes(content: aiohttp.StreamReader) -> bytes:
    """The body of an answer, as far as anyone would read it."""
    answer = bytearray()
    while len(answer) < MAX_ANSWER_BYTES and (chunk := await content.read(MAX_ANSWER_BYTES - len(answer))):
        answer += chunk
    return bytes(answer)
