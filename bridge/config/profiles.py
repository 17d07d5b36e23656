"""Input profiles: TOML files that say what other agents call the keys of an eSpan. docs/profiles.md describes them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bridge.config.catalogue import dotted
from bridge.config.problems import Problem, nearest, report, shown
from bridge.config.toml_file import read_toml
from bridge.errors import ConfigError
from bridge.spans import Direction, convention
from bridge.spans.profiles import (
    HEADERS,
    MAX_NAME_BYTES,
    RESOURCE_KEYS,
    Alternative,
    KeyRule,
    Profile,
    rules_of,
)

SUFFIX: Final = ".toml"
FOLDERS: Final = (
    Path(__file__).resolve().parents[2] / "conf" / "profiles",
    Path(sys.prefix) / "share" / "espan-bridge" / "profiles",
)
"""Where profiles with a name lie: in a source tree, and where an installation puts them."""

_TABLES: Final = ("keys", "resource", "headers")
_SIDES: Final = {"from": Direction.ABSENT, "outgoing": Direction.OUTGOING, "incoming": Direction.INCOMING}
_IN_A_KEY: Final = (*_SIDES, "values", "default")
_NAMES: Final = 'a list of names of attributes, such as ["df.span.x_request_id_0", "df.span.x_request_id"]'


def load_profiles(named: Sequence[str]) -> tuple[Profile, ...]:
    """The profiles with these names, or in these files, in order.

    Raises ConfigError that names every mistake of the first file with any, or says that they are too much together.
    """
    profiles = tuple(read_profile(path_of(name)) for name in named)
    try:
        rules_of(profiles)
    except ValueError as exc:
        raise ConfigError(f"{exc}; leave some out") from exc
    return profiles


def path_of(named: str) -> Path:
    """A path is one; anything without a slash and a suffix names a profile that comes with the bridge.

    Raises ConfigError for a name that none has.
    """
    if "/" in named or named.endswith(SUFFIX):
        return Path(named)
    found = [path for folder in FOLDERS for path in sorted(folder.glob(f"*{SUFFIX}"))]
    for path in found:
        if path.stem == named:
            return path
    known = sorted({path.stem for path in found})
    near = nearest(named, known)
    there = ", ".join(map(shown, known)) or "none was installed"
    hint = f"; did you mean {shown(near)}?" if near else ""
    raise ConfigError(
        f"{shown(named)}: no such profile; allowed: {there}, or the path of a file, such as ./agent.toml{hint}"
    )


def read_profile(path: Path) -> Profile:
    """The profile in a file. Raises ConfigError that names every mistake: where, what it is, what is allowed."""
    raw = read_toml(path)
    reader = _Reader(raw)
    profile = reader.profile(path.stem)
    if reader.problems:
        raise ConfigError(report(reader.problems, f"{path} is no profile"))
    return profile


class _Reader:
    """Reads one file and gathers what is wrong with it."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self.problems: list[Problem] = []

    def profile(self, name: str) -> Profile:
        self._unknown((), self._raw, _TABLES)
        tables = {table: self._table((table,), self._raw.get(table, {})) for table in _TABLES}
        self._unknown(("keys",), tables["keys"], convention.KEY_OF_BIT)
        keys = (
            self._key(key, self._table(("keys", key), tables["keys"][key]))
            for key in convention.KEY_OF_BIT
            if key in tables["keys"]
        )
        return Profile(
            name=name,
            keys=tuple(keys),
            resource=self._lists("resource", tables["resource"], RESOURCE_KEYS),
            headers=self._lists("headers", tables["headers"], HEADERS),
        )

    def _says(self, path: Sequence[str], text: str) -> None:
        self.problems.append(Problem(dotted(path) or "the file", text))

    def _table(self, path: Sequence[str], value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._says(path, f" = {shown(value)}: allowed: a table, written [{dotted(path)}]")
        return {}

    def _unknown(self, path: Sequence[str], table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                near = nearest(key, known)
                hint = f"did you mean {near}?" if near else f"allowed: {', '.join(known)}"
                self._says((*path, key), f": unknown key; {hint}")

    def _lists(self, table: str, raw: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        self._unknown((table,), raw, known)
        return MappingProxyType({key: tuple(self._names((table, key), raw[key])) for key in known if key in raw})

    def _key(self, key: str, raw: Mapping[str, Any]) -> KeyRule:
        path = ("keys", key)
        self._unknown(path, raw, _IN_A_KEY)
        if key == convention.DIRECTION:
            for side in ("outgoing", "incoming"):
                if side in raw:
                    self._says((*path, side), ": goes by the direction, which is yet to be known; use from")
        alternatives = tuple(
            Alternative(name, side)
            for word, side in _SIDES.items()
            if word in raw
            for name in self._names((*path, word), raw[word])
        )
        if not alternatives:
            self._says(path, f": no attribute to take it from; add from = {_NAMES}")
        values = self._table((*path, "values"), raw.get("values", {}))
        if "values" in raw and not values:
            self._says((*path, "values"), ": is empty; leave it out to take values as they are")
        meanings = {sent: self._value((*path, "values", sent), key, meant) for sent, meant in values.items()}
        default = self._value((*path, "default"), key, raw["default"]) if "default" in raw else None
        return KeyRule(key, alternatives, MappingProxyType(meanings), default)

    def _names(self, path: Sequence[str], value: object) -> Iterator[str]:
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            self._says(path, f" = {shown(value)}: allowed: {_NAMES}")
            return
        for name in value:
            if len(name.encode()) > MAX_NAME_BYTES:
                self._says(path, f": {shown(name)} is longer than {MAX_NAME_BYTES} bytes")
            elif name in convention.KEY_OF_BIT:
                self._says(path, f": {shown(name)} is a key of the convention, which means itself; take it out")
            else:
                yield name

    def _value(self, path: Sequence[str], key: str, value: object) -> str | int:
        """A value of this key as a profile may give it."""
        words = convention.WORDS.get(key)
        if words is None and key not in convention.NUMBERS:
            self._says(path, f" = {shown(value)}: {key} is text, which is taken as it is; leave this out")
            return 0
        if words is not None and isinstance(value, str) and value in words:
            return value
        if words is None and type(value) is int and -(2**63) <= value < 2**64:
            return value
        allowed = ", ".join(map(shown, words)) if words else "a whole number of 64 bits"
        self._says(path, f" = {shown(value)}: allowed: {allowed}")
        return 0
