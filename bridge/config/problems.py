"""What is wrong with settings, in words for the one who has to mend them."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bridge.config.catalogue import (
    TYPE_ALLOWED,
    Entry,
    allowed,
    dotted,
    entries,
    find,
    is_secret,
    is_url,
    keys_of,
    table_of,
)
from bridge.config.exporters import TYPES
from bridge.config.fields import HEADER_VALUE, MASK, masked_url
from bridge.config.units import Unreadable

Path = tuple[str, ...]
MAX_SHOWN = 100
UNPRINTABLE = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""What JSON leaves as it is: control characters, and bytes of a variable that are no UTF-8."""
NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
"""What Python makes of such bytes in a variable."""
LIKE = 0.6
"""How like two words are, from 0 to 1, when one is suggested for the other."""
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it stands, as people are told, what it is, and which keys it is about."""

    where: str
    text: str
    about: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}{self.text}"


def report(problems: Iterable[Problem], source: str) -> str:
    """All of them, sorted by place, as the text of a ConfigError."""
    lines = sorted({str(p) for p in problems})
    count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    return f"{source}: {count}\n" + "\n".join("  " + line.replace("\n", "\n    ") for line in lines)


def problems_of(error: ValidationError, raw: Mapping[str, Any], variables: Mapping[Path, str]) -> list[Problem]:
    """The errors of a validation. `variables` says which values come from the environment, by path."""
    return [_Reader(raw, variables, details).problem() for details in error.errors(include_url=False)]


def path_of(location: Sequence[str | int]) -> Path:
    """A pydantic location as people write the path: without list positions and the union's tags."""
    keys = [key for key in location if isinstance(key, str)]
    if keys[:1] == ["exporters"] and len(keys) > 2:
        del keys[2]
    return tuple(keys)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one, the first of equals; "" when none is like it.

    Case and the kind of dash do not matter.
    """
    likeness = {k: difflib.SequenceMatcher(None, _plain(word), _plain(k)).ratio() for k in known}
    best = max(likeness, key=likeness.__getitem__, default="")
    return best if likeness.get(best, 0.0) >= LIKE else ""


def named(path: Path, variables: Mapping[Path, str]) -> str:
    """The path, behind the name of the environment variable its value came from, if it did."""
    variable = variables.get(path)
    return f"{variable} ({dotted(path)})" if variable else dotted(path)


def shown(value: Any, field: FieldInfo | None = None) -> str:
    """The value as TOML has it, shortened and masked; a table or an array is only named."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if field is not None and is_secret(field):
        if not is_url(field) or not isinstance(value, str):
            return MASK
        value = masked_url(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
    text = UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(str(value), ensure_ascii=False))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 2] + '…"'


class _Reader:
    """Reads one error of pydantic."""

    def __init__(self, raw: Mapping[str, Any], variables: Mapping[Path, str], details: ErrorDetails) -> None:
        self.path = path_of(details["loc"])
        self.kind, self.details, self.raw = details["type"], details, raw
        self.variables = variables
        self.target = find(self.path, self._exporter_type())
        self.value = details["input"]

    def problem(self) -> Problem:
        if self.kind == "extra_forbidden":
            return self._unknown_key()
        if self.kind in ("union_tag_not_found", "union_tag_invalid"):
            return self._exporter_kind()
        if self.kind == "missing":
            return self._says(self._name(), f": missing; allowed: {self._allowed()}")
        if self.path == ("exporters",) or (len(self.path) == 2 and self.path[0] == "exporters" and self._no_table()):
            text = "an exporter is a table with a name of your choice, such as [exporters.backend]"
            value = MASK if isinstance(self.value, str) else shown(self.value)
            return self._says(self._name(), f" = {value}: {text}")
        if isinstance(self.target, FieldInfo) and table_of(self.target) is None:
            return self._value(self.target)
        return self._table()

    def _value(self, field: FieldInfo) -> Problem:
        error = self.details.get("ctx", {}).get("error")
        reason = error.reason if isinstance(error, Unreadable) else str(error) if error else ""
        near = error.nearest if isinstance(error, Unreadable) else self._near(field)
        text = "; ".join(
            part
            for part in (
                reason,
                f"allowed: {self._allowed()}",
                f"did you mean {shown(near)}?" if near != "" else "",
            )
            if part
        )
        return self._says(self._name(), f" = {shown(self.value, field)}: {text}")

    def _near(self, field: FieldInfo) -> Any:
        """What was probably meant by a value of the wrong type; "" where nothing comes to mind."""
        if get_origin(field.annotation) is Literal:
            return nearest(str(self.value), get_args(field.annotation))
        if self.kind == "bool_type":
            word = str(self.value).lower()
            return word in YES if word in YES + NO else ""
        if self.kind in ("int_type", "float_type") and isinstance(self.value, str) and not is_secret(field):
            return _number(self.value)
        return ""

    def _table(self) -> Problem:
        error = self.details.get("ctx", {}).get("error")
        if isinstance(self.target, FieldInfo) and get_origin(self.target.annotation) is tuple:
            count = f"{len(self.value)} tables" if isinstance(self.value, list) else shown(self.value)
            return self._says(self._name(), f" = {count}: allowed: {self._allowed()}")
        if error:
            return self._says(self._name(), f": {error}")
        secret = isinstance(self.target, FieldInfo) and is_secret(self.target)
        value = MASK if secret else shown(self.value)
        return self._says(self._name(), f" = {value}: must be a table, written [{dotted(self.path)}]")

    def _exporter_kind(self) -> Problem:
        where = dotted((*self.path, "type"))
        if self.kind == "union_tag_not_found":
            return Problem(where, f": missing; allowed: {TYPE_ALLOWED}", (self.path,))
        value = self.value.get("type") if isinstance(self.value, dict) else ""
        near = nearest(str(value), TYPES)
        guess = f'; did you mean "{near}"?' if near else ""
        return Problem(where, f" = {shown(value)}: allowed: {TYPE_ALLOWED}{guess}", (self.path,))

    def _unknown_key(self) -> Problem:
        table = find(self.path[:-1], self._exporter_type())
        if isinstance(table, FieldInfo):
            table = table_of(table)
        known = keys_of(table) if table else {}
        elsewhere = [entry for entry in entries() if entry.path[-1] == self.path[-1] and entry.path[1:]]
        near = nearest(self.path[-1], known)
        value = self._unknown_value(known.get(near), harmless=any(not entry.secret for entry in elsewhere))
        guess = self._guess(near, elsewhere)
        return self._says(self._name(), f"{value}: unknown key{guess} (known here: {', '.join(known)})")

    def _guess(self, near: str, elsewhere: Sequence[Entry]) -> str:
        """What was probably meant: a key that looks like it, or the place where this key is known."""
        if self.path[0] == "exporters" and (types := [e.path[1] for e in elsewhere if e.path[0] == "exporters"]):
            return f"; it belongs to type = {' or '.join(shown(t) for t in types)}" if len(self.path) == 3 else ""
        homes = sorted({_home(entry.path) for entry in elsewhere})
        here = [f'"{near}"{" here" if homes else ""}'] if near else []
        guesses = here + ([f'"{self.path[-1]}" in {" or ".join(homes)}'] if homes else [])
        return f"; did you mean {', or '.join(guesses)}?" if guesses else ""

    def _unknown_value(self, meant: FieldInfo | None, *, harmless: bool) -> str:
        """The value, if it cannot be a secret: nobody knows what an unknown key holds."""
        if isinstance(self.value, dict | list):
            return ""
        if isinstance(self.value, str) and meant is None and not harmless:
            return f" = {MASK}"
        return f" = {shown(self.value, meant)}"

    def _says(self, where: str, text: str) -> Problem:
        return Problem(where, text, (self.path,))

    def _name(self) -> str:
        return named(self.path, self.variables)

    def _allowed(self) -> str:
        if not isinstance(self.target, FieldInfo):
            return "a table"
        return (
            HEADER_VALUE if self.path[:1] == ("exporters",) and "headers" in self.path[2:-1] else allowed(self.target)
        )

    def _no_table(self) -> bool:
        return not isinstance(self.value, dict)

    def _exporter_type(self) -> object:
        exporter = self.raw.get("exporters", {}) if self.path[:1] == ("exporters",) and len(self.path) > 1 else {}
        table = exporter.get(self.path[1]) if isinstance(exporter, dict) and len(self.path) > 1 else None
        return table.get("type") if isinstance(table, dict) else None


def _home(path: Path) -> str:
    """How the table a key stands in is written."""
    if path[:1] == ("exporters",):
        return f"[{dotted(('exporters', 'NAME', *path[2:-1]))}]"
    if path[:2] == ("inputs", "ebpftrace"):
        return "[[inputs.ebpftrace]]"
    return f"[{dotted(path[:-1])}]"


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return ""
