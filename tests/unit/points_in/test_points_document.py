"""docs/points.md says what the code does."""

import re
from pathlib import Path

from bridge.codec.points import limits, rejections

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "points.md").read_text(encoding="utf-8")
CODES = (
    rejections.NO_POINTS,
    rejections.INVALID_PROTOBUF,
    rejections.INVALID_JSON,
    rejections.INVALID_LINE,
)


def test_every_reason_is_in_the_table() -> None:
    """And nothing else is."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [*rejections.REASONS, rejections.INVALID_VALUE]


def test_limits_are_those_of_the_code() -> None:
    """Row by row, and the number of points."""
    told = dict(re.findall(r"^\| `(\w+)` \| more than (\d+)", PAGE, re.MULTILINE))
    assert {reason: int(limit) for reason, limit in told.items()} == {
        rejections.MEASUREMENT_TOO_LONG: limits.MAX_MEASUREMENT_BYTES,
        rejections.KEY_TOO_LONG: limits.MAX_KEY_BYTES,
        rejections.TAG_VALUE_TOO_LONG: limits.MAX_TAG_VALUE_BYTES,
        rejections.FIELD_VALUE_TOO_LONG: limits.MAX_FIELD_VALUE_BYTES,
        rejections.TOO_MANY_TAGS: limits.MAX_TAGS,
        rejections.TOO_MANY_FIELDS: limits.MAX_FIELDS,
    }
    assert f"at most {limits.MAX_POINTS} points" in PAGE


def test_every_error_code_is_told() -> None:
    """As the answer has it."""
    assert set(re.findall(r"`(datakit\.\w+)`", PAGE)) == set(CODES)
