"""docs/profiles.md says what profiles can say."""

import re
from pathlib import Path

from bridge.spans.profiles import (
    HEADERS,
    MAX_ATTRIBUTES,
    MAX_NAME_BYTES,
    MAX_PROFILES,
    MAX_RULES,
    MAX_VALUES,
)

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")


def test_every_header_is_told() -> None:
    """In the order in which formats are tried."""
    table = PAGE.partition("## Headers")[2].partition("\n\nThey fill")[0]
    first = [line.partition(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert re.findall(r"`([^`]+)`", " ".join(first)) == list(HEADERS)


def test_every_profile_is_told() -> None:
    """Those in conf/profiles."""
    table = PAGE.partition("| profile | for |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(
        path.stem for path in (ROOT / "conf" / "profiles").glob("*.toml")
    )


def test_limits_are_those_of_the_code() -> None:
    """The kernel has room for so many."""
    limits = f"{MAX_ATTRIBUTES} attributes of at most {MAX_NAME_BYTES} bytes each, {MAX_RULES} alternatives, "
    assert f"{limits}{MAX_VALUES} values, {MAX_PROFILES} profiles" in PAGE
