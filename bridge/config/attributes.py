"""Settings of the attribute rules: what of the spans' attributes is taken off before anything is stored."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from bridge.config.fields import Allowed, FilePath, SecretText
from bridge.config.table import Table

MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 64
"""Shorter ones are guessed, longer ones BLAKE2b does not take."""
NAME = 'names of attributes, such as ["enduser.id", "http.request.header.*"]; a star stands for any end, and only there'


def _checked_name(name: str) -> str:
    if not name or name == "*" or "*" in name[:-1]:
        raise ValueError("no name of an attribute, or a star that is not at its end")
    return name


Name: TypeAlias = Annotated[str, AfterValidator(_checked_name)]
Names: TypeAlias = Annotated[
    tuple[Name, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Allowed(f"a list of {NAME}"),
]
Lengths: TypeAlias = Annotated[
    Mapping[Name, Annotated[int, Field(ge=0)]],
    Allowed('a table of names of attributes and bytes, 0 or more, such as {"db.query.text" = 200}'),
]


class AttributesSettings(Table):
    """Rules for attributes of spans, resources, scopes, events and links, and for tags and fields of points: applied
    to everything that comes in, before it is stored."""

    drop: Names = Field(default=(), description="Attributes that are taken off.")
    hash: Names = Field(
        default=(),
        description="Attributes whose value becomes a keyed hash of it (BLAKE2b, 32 hex digits): equal values "
        "stay equal.",
    )
    hash_key: SecretText | None = Field(
        default=None,
        description=f"Key of the hashes, {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes. Without one, whoever can guess a "
        "value can tell whether it was that.",
    )
    hash_key_file: FilePath | None = Field(
        default=None, description="File that holds it, instead of hash_key; a line end behind it is no part of it."
    )
    strip_query: Names = Field(
        default=(), description="Attributes of which the first question mark and what is behind it is cut off."
    )
    truncate: Lengths = Field(
        default={}, description="Attributes that are cut to so many bytes; no character is cut in two."
    )

    @property
    def names(self) -> frozenset[str]:
        """Every name that a rule has."""
        return frozenset((*self.drop, *self.hash, *self.strip_query, *self.truncate))

    @property
    def key_bytes(self) -> bytes:
        """The key of the hashes, empty without one. Raises OSError where its file cannot be read."""
        if self.hash_key_file is not None:
            with self.hash_key_file.open("rb") as file:
                return file.read(4 * MAX_KEY_BYTES).rstrip(b"\r\n")  # a device has no end
        return self.hash_key.get_secret_value().encode() if self.hash_key is not None else b""
