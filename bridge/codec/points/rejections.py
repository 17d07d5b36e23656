"""What is said of points that are not taken: each by itself, or the body as a whole."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bridge.errors import InvalidData

NO_POINTS: Final = "datakit.noPoints"
INVALID_PROTOBUF: Final = "datakit.invalidProtobufPoint"
INVALID_JSON: Final = "datakit.invalidJsonPoint"
INVALID_LINE: Final = "datakit.invalidLinePoint"

MAX_TOLD: Final = 3
"""So many rejected points are told apart; the others are only counted."""

UNREADABLE: Final = "unreadable"
NO_MEASUREMENT: Final = "no_measurement"
MEASUREMENT_TOO_LONG: Final = "measurement_too_long"
KEY_TOO_LONG: Final = "key_too_long"
TAG_VALUE_TOO_LONG: Final = "tag_value_too_long"
FIELD_VALUE_TOO_LONG: Final = "field_value_too_long"
NO_FIELDS: Final = "no_fields"
TOO_MANY_TAGS: Final = "too_many_tags"
TOO_MANY_FIELDS: Final = "too_many_fields"
REASONS: Final = (
    UNREADABLE,
    NO_MEASUREMENT,
    MEASUREMENT_TOO_LONG,
    KEY_TOO_LONG,
    TAG_VALUE_TOO_LONG,
    FIELD_VALUE_TOO_LONG,
    NO_FIELDS,
    TOO_MANY_TAGS,
    TOO_MANY_FIELDS,
)
"""Why a point is rejected; of several reasons the first of this order, of the three in the middle the first field's."""
INVALID_VALUE: Final = "invalid_value"
"""Why a point in JSON or line protocol is rejected that has a value which no point can have."""


class InvalidPoints(InvalidData):
    """A body that cannot be read as what it is said to be, or that holds no point that can be taken."""

    def __init__(self, error_code: str, message: str, rejected: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.error_code = error_code
        """One of DataKit's: see NO_POINTS, INVALID_PROTOBUF, INVALID_JSON, INVALID_LINE."""
        self.rejected = dict(rejected or {})
        """How many points it has, by the reason why they are not taken; empty where they cannot be told apart."""


class BadPoint(Exception):
    """One point that cannot be taken; `reason` is one of REASONS, or INVALID_VALUE; the text says what is wrong."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(slots=True)
class Rejections:
    """Points of one body that are not taken: all of them counted, the first few told."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason."""
    told: list[tuple[int, str]] = field(default_factory=list)
    """Number of the point (or line), what is wrong."""

    def add(self, number: int, reason: str, what: str) -> None:
        """Note one, in the order of the body."""
        self.counts[reason] += 1
        if len(self.told) < MAX_TOLD:
            self.told.append((number, what))

    def text(self, path: str) -> str:
        """For people; `path` names a point by its number. Empty if none was rejected."""
        told = [f"{path.format(number)}: {what}" for number, what in sorted(self.told)[:MAX_TOLD]]
        if self.counts.total() > len(told):
            told.append(f"and {self.counts.total() - len(told)} more")
        return "; ".join(told)


@dataclass(frozen=True, slots=True)
class Converted:
    """A body of another form as serialized PBPoints."""

    points: bytes
    numbers: list[int]
    """By the position of a point in `points` its number in the body that was sent."""
    rejections: Rejections


def shown(text: str) -> str:
    """A key or a value as an error names it: quoted, short, whatever was sent."""
    return f'"{text if len(text) <= 64 else text[:60] + "..."}"'.encode("ascii", "backslashreplace").decode()
