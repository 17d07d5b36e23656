"""Tokens that senders show: kept as digests, compared in a time that says nothing about them."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from bridge.errors import ConfigError

MIN_CHARS = 16
TOKEN = f"at least {MIN_CHARS} visible ASCII characters without spaces, as `openssl rand -hex 32` makes them"


def check_token(token: str) -> str:
    """The token. Raises ValueError, without it, where it is none."""
    if len(token) < MIN_CHARS or not all("\x21" <= char <= "\x7e" for char in token):
        raise ValueError(f"a token is {TOKEN}")
    return token


class Tokens:
    """A set of tokens, any of which will do. Tokens show in no repr: only their digests are kept."""

    __slots__ = ("_digests",)

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(_digest(token) for token in tokens)

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, presented: str) -> bool:
        """Whether this is one of them. Takes as long whichever it is, and however much of it is right."""
        digest, found = _digest(presented), False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; empty lines and those that begin with # do not count.

    Raises ConfigError where it cannot be read, holds none, or a line is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise ConfigError(f"tokens: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"tokens: {path} is no text in UTF-8") from None  # the original would show the text
    tokens = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            try:
                tokens.append(check_token(line))
            except ValueError as exc:
                raise ConfigError(f"tokens: {path}, line {number}: {exc}") from None
    if not tokens:
        raise ConfigError(f"tokens: there is none in {path}, so that nobody could be let in")
    return tokens


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogateescape")).digest()
