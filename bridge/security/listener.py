"""Who may speak to a listener, and how: its TLS, and the tokens its senders must show."""

import base64
import binascii
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path

from bridge.errors import PermanentError
from bridge.security.reloading import FileWatch, Reloaded
from bridge.security.tls import CurrentContext, Identity, ServerTls
from bridge.security.tokens import Tokens, read_tokens

AUTHORIZATION = "authorization"


class Unauthenticated(PermanentError):
    """A request shows no token that is known; its text does not show what it had instead."""


class ListenerSecurity:
    """TLS and tokens of one listener; without either it speaks in the clear with everybody."""

    def __init__(
        self,
        part: str = "",
        *,
        tls: ServerTls | None = None,
        tokens: Sequence[str] = (),
        tokens_file: Path | None = None,
        header: str = AUTHORIZATION,
        watch: FileWatch | None = None,
    ) -> None:
        """part: the listener, as the settings call it. Tokens are those given and those of the file, one a line; they
        come in this header, behind "Bearer" if it is "authorization" and alone in any other. `watch` reloads files."""
        watch = watch or FileWatch()
        self.header = header.lower()
        self.tls: Reloaded[Identity] | None = None
        if tls:
            self.tls = watch.add(Reloaded(part, "certificates", tls.files, tls.load))
        self._tokens: Reloaded[Tokens] | None = None
        if tokens or tokens_file:
            files = (tokens_file,) if tokens_file else ()
            self._tokens = watch.add(
                Reloaded(part, "tokens", files, lambda: Tokens([*tokens, *(t for f in files for t in read_tokens(f))]))
            )

    @property
    def asks_for_tokens(self) -> bool:
        """Whether requests must show a token."""
        return self._tokens is not None

    def start(self) -> Identity | None:
        """Read the files; returns what TLS is made of, None where there is none. Raises ConfigError."""
        if self._tokens:
            self._tokens.start()
        return self.tls.start() if self.tls else None

    def context(self) -> ssl.SSLContext | None:
        """For listening with Python's TLS, None where there is none. Raises ConfigError."""
        self.start()
        tls = self.tls
        return CurrentContext.of(lambda: tls.value.context) if tls else None

    def check(self, header: str | None, others: Iterable[str] = ()) -> None:
        """Return where the header's value has a token that is known, or is one of the others. Raises Unauthenticated.

        header: the value as it came, None where there was none; others: tokens that came in other places.
        """
        if self._tokens is None:
            return
        tokens, known = self._tokens.value, False
        for presented in (self._token(header), *others):
            known |= presented in tokens
        if not known:
            scheme = "Bearer TOKEN" if self.header == AUTHORIZATION else "TOKEN"
            raise Unauthenticated(f"no token that is known here; send one in the header {self.header}: {scheme}")

    def _token(self, value: str | None) -> str:
        if value is None or self.header != AUTHORIZATION:
            return (value or "").strip()
        scheme, _, token = value.strip().partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


def basic_password(value: str | None) -> str:
    """The password of an Authorization header of scheme Basic, which is where clients put that of a URL; else ""."""
    scheme, _, encoded = (value or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
