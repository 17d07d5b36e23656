"""Secrets with names, planted wherever one can be, and looked for in whatever comes out."""

import base64
import secrets
from collections.abc import Iterator
from urllib.parse import quote


class Planted:
    """Makes secrets by place; `found_in` names those that show in a text."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        """The secret of this place: letters and digits, so that it is the same however it is quoted."""
        return self._places.setdefault(place, "tkn" + secrets.token_hex(16))

    def user(self, place: str) -> str:
        """A user with a password, as a URL has them."""
        return f"{self(f'user of {place}')}:{self(f'password of {place}')}"

    def found_in(self, output: bytes | str) -> list[str]:
        """Places whose secret shows, as it is or as a client would write it."""
        data = output.encode(errors="replace") if isinstance(output, str) else output
        return [place for place, secret in self._places.items() if any(form in data for form in _forms(secret))]

    def basic_forms(self, place: str) -> bytes:
        """The header a client makes of `user`."""
        return base64.b64encode(self.user(place).encode())

    @property
    def places(self) -> list[str]:
        """Where one was planted."""
        return list(self._places)


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield quote(secret).encode()
    yield secret.encode().hex().encode()
    # in base64 it looks differently depending on what is before it; its ends mix with what is around
    for before in range(3):
        text = base64.b64encode(b"\0" * before + secret.encode())
        yield text[4 if before else 0 : -4]
