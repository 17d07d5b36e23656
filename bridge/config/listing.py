"""Effective settings as TOML, each with where it came from; secrets masked."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.config.catalogue import dotted
from bridge.config.fields import MASK
from bridge.config.loader import FROM_DEFAULT, Loaded
from bridge.config.settings import LATE_WINDOWS
from bridge.config.units import format_duration

ARRAYS = frozenset({("inputs", "ebpftrace")})
COLUMN = 46


def listing(loaded: Loaded) -> str:
    """All settings as TOML that could be loaded again, but for the masked secrets."""
    raw = loaded.settings.model_dump(mode="json", by_alias=True)
    raw["inputs"]["ebpftrace"] = raw["inputs"]["ebpftrace"][0]
    for name, exporter in loaded.settings.exporters.items():
        for header in getattr(exporter, "headers", ()):
            raw["exporters"][name]["headers"][header] = MASK
    return "\n".join(_table(raw, (), loaded)).strip() + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...], loaded: Loaded) -> Iterator[str]:
    values = {key: value or None if isinstance(value, dict) else value for key, value in table.items()}
    values = {key: value for key, value in values.items() if not isinstance(value, dict)}
    if values and path:
        yield ""
        yield f"[[{dotted(path)}]]" if path in ARRAYS else f"[{dotted(path)}]"
    for key, value in values.items():
        yield _line((*path, key), value, loaded)
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _table(value, (*path, key), loaded)


def _line(path: tuple[str, ...], value: Any, loaded: Loaded) -> str:
    origin = _origin(path, loaded.origins)
    if path == ("linker", "late_window") and value is None:
        value, origin = format_duration(loaded.settings.late_window_ns), f"{FROM_DEFAULT}: {LATE_WINDOWS} windows"
    if value is None:
        return f"# {dotted(path[-1:])} is not set"
    return f"{dotted(path[-1:])} = {json.dumps(value, ensure_ascii=False)}".ljust(COLUMN) + f"  # {origin}"


def _origin(path: tuple[str, ...], origins: Mapping[str, str]) -> str:
    """Where the value came from; a header's may be known only for all headers together."""
    for length in range(len(path), 0, -1):
        if origin := origins.get(dotted(path[:length])):
            return origin
    return FROM_DEFAULT
