"""Every key there is, read off the models: what errors, the documentation and the tests of conf/bridge.toml go by."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from bridge.config.exporters import (
    TYPES,
    ConsoleExporterSettings,
    DatawayExporterSettings,
    FileExporterSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
)
from bridge.config.fields import Allowed, SecretUrl
from bridge.config.settings import Settings
from bridge.config.table import Table

EXPORTERS: Mapping[str, type[Table]] = {
    "otlp_grpc": OtlpGrpcExporterSettings,
    "otlp_http": OtlpHttpExporterSettings,
    "dataway": DatawayExporterSettings,
    "file": FileExporterSettings,
    "console": ConsoleExporterSettings,
}
TYPE_ALLOWED = ", ".join(f'"{name}"' for name in TYPES)
FIRST = ("type", "endpoint", "traces_endpoint", "url")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: where it stands, what it may be, what it is when it is left out."""

    path: tuple[str, ...]
    """From the top; an exporter's key begins with ("exporters", TYPE)."""
    allowed: str
    description: str
    required: bool
    default: Any
    """As TOML would hold it; None where there is none."""
    secret: bool


def dotted(path: Sequence[str]) -> str:
    """The path as TOML writes it."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else '"' + key.replace('"', '\\"') + '"' for key in path)


def keys_of(table: type[Table]) -> dict[str, FieldInfo]:
    """The fields of a table by the user's keys: first what tells an exporter apart, tables of its own last."""
    found = {field.alias or name: field for name, field in table.model_fields.items()}
    tables = {key for key, field in found.items() if table_of(field) or key == "exporters"}
    places = {key: FIRST.index(key) if key in FIRST else len(FIRST) + (key in tables) for key in found}
    return {key: found[key] for key in sorted(found, key=places.__getitem__)}


def table_of(field: FieldInfo) -> type[Table] | None:
    """The table a field holds, also as the one element of an array of tables."""
    annotation = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Table) else None


def find(path: Sequence[str], exporter_type: object = None) -> type[Table] | FieldInfo | None:
    """The table or the field a path leads to; None for what is not known. For exporters say the type."""
    found: type[Table] | FieldInfo | None = Settings
    if path[:1] == ("exporters",) and len(path) > 1:
        found, path = EXPORTERS.get(exporter_type) if isinstance(exporter_type, str) else None, path[2:]
    for key in path:
        table = table_of(found) if isinstance(found, FieldInfo) else found
        if table is None:
            # below a field that is no table of ours there are only values of an open mapping: headers
            return found
        found = keys_of(table).get(key)
    return found


def allowed(field: FieldInfo) -> str:
    """What the field's value may be, in words."""
    if field.annotation is bool:
        return "true or false"
    stated = _stated(field.annotation, field.metadata)
    if stated:
        return stated
    if get_origin(field.annotation) is Literal:
        *others, last = (f'"{value}"' for value in get_args(field.annotation))
        return f"{', '.join(others)} or {last}" if others else last
    return "text"


def is_secret(field: FieldInfo) -> bool:
    """Whether the value must be masked: headers wholly, URLs in part."""
    return "Secret" in str(field.annotation) or any(isinstance(m, Allowed) and m.hide for m in field.metadata)


def is_url(field: FieldInfo) -> bool:
    """Whether `masked_url` shows as much of the value as may be shown."""
    return SecretUrl.__name__ in str(field.annotation)


def default_of(table: type[Table], key: str) -> Any:
    """What a key is when it is left out, as a file would hold it; None where there is nothing."""
    field = keys_of(table)[key]
    if field.is_required():
        return None
    name = next(n for n, f in table.model_fields.items() if f is field)
    return table.model_construct(**{key: field.get_default()}).model_dump(mode="json", by_alias=True, include={name})[
        key
    ]


def entries() -> Iterator[Entry]:
    """Every key, in the order of the models; those of exporters once for each type."""
    for name, field in keys_of(Settings).items():
        table = table_of(field)
        if name == "exporters":
            for exporter_type, exporter in EXPORTERS.items():
                yield from _entries(exporter, ("exporters", exporter_type))
        elif table is None:
            yield _entry(Settings, (name,), name, field)
        else:
            yield from _entries(table, (name,))


def _entries(table: type[Table], path: tuple[str, ...]) -> Iterator[Entry]:
    for key, field in keys_of(table).items():
        inner = table_of(field)
        if inner is None:
            yield _entry(table, (*path, key), key, field)
        else:
            yield from _entries(inner, (*path, key))


def _entry(table: type[Table], path: tuple[str, ...], key: str, field: FieldInfo) -> Entry:
    default = default_of(table, key)
    return Entry(path, allowed(field), field.description or "", field.is_required(), default, is_secret(field))


def _stated(annotation: Any, metadata: Sequence[Any]) -> str:
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, Allowed):
            return item.text
    return next(filter(None, (_stated(inner, ()) for inner in get_args(annotation))), "")
