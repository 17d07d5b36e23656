"""Reads TOML files."""

import re
import tomllib
from pathlib import Path
from typing import Any

from bridge.errors import ConfigError

BOM = "\ufeff"


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ConfigError that says where it cannot be read, without showing values."""
    try:
        text = path.read_text(encoding="utf-8").removeprefix(BOM)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: byte {exc.start} is not UTF-8") from exc
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: {exc}{_hint(text, str(exc))}") from exc


def _hint(text: str, error: str) -> str:
    """What the line of a TOML error most likely lacks; the value itself may be a secret."""
    found = re.search(r"line (\d+)", error)
    lines = text.rstrip().splitlines() or [""]
    line = lines[min(int(found[1]), len(lines)) - 1 if found else -1]
    key, equals, value = (part.strip() for part in line.partition("="))
    if equals and value[:1] in ("'", '"') and value.count(value[0]) % 2:
        return f"\n  in the value of {key}: its closing quote is missing"
    if equals and re.match(r"[^\s\"'\[{]", value):
        return f'\n  in the value of {key}: text stands in quotes, as in {key} = "..."; truth values are true and false'
    return ""
