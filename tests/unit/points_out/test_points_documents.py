"""docs/datakit-mapping.md says what the tables in bridge/codec/points/mapping.py say."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from bridge.codec.points.mapping import (
    DECIDED_KEYS,
    DERIVED,
    KEYS,
    MESSAGE,
    MOVED,
    NOTES,
    PARTS,
    REPLACED_KEYS,
    SPAN_LINKS,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datakit-mapping.md"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


TABLES = {
    "moved": [f"| `{m.key}` | `{m.attribute}` | {m.where} | {m.form} |" for m in MOVED],
    "parts": [f"| `{key}` | {part} |" for key, part in PARTS.items()],
    "derived": [f"| `{name}` | {origin} |" for name, origin in DERIVED.items()],
    "notes": [f"| `{name}` | {meaning} |" for name, meaning in NOTES.items()],
    "keys": [f"| `{k.key}` | {code(k.attributes)} | {'tag' if k.is_tag else 'field'} |" for k in KEYS],
    "message": [f"| `{key}` | {meaning} |" for key, meaning in MESSAGE.items()],
}


@pytest.mark.parametrize("name", TABLES)
def test_table_is_that_of_the_code(name: str) -> None:
    """After a change of mapping.py: the rows this test prints belong into the page."""
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(TABLES[name]) + "\n\n" in text, "\n".join(TABLES[name])


def test_fields_that_linking_writes_are_told() -> None:
    """Every key that is added or taken off is on the page."""
    text = PAGE.read_text(encoding="utf-8")
    added = text.partition("- added,")[2].partition("\n\nIn a")[0]
    assert set(re.findall(r"^\| `(\w+)`", added, re.MULTILINE)) == {*DECIDED_KEYS, SPAN_LINKS}
    taken_off = text.partition("- taken off:")[2].partition("- added,")[0]
    assert set(re.findall(r"`(.+?)`", taken_off)) == {key.decode() for key in REPLACED_KEYS}
