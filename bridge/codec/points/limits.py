"""What a point may have, as Dataway takes it, and how many points a body may have."""

from typing import Final

from bridge.errors import TooLarge

MAX_MEASUREMENT_BYTES: Final = 1024
MAX_KEY_BYTES: Final = 256
MAX_TAG_VALUE_BYTES: Final = 1024
MAX_FIELD_VALUE_BYTES: Final = 32 * 2**20
MAX_TAGS: Final = 256
MAX_FIELDS: Final = 1024

MAX_BODY_BYTES: Final = 2**31 - 1
"""What protobuf reads at most."""
MAX_POINTS: Final = 2**18
"""So many points a body may have unless told otherwise: a thousand times what agents send."""


def too_many(max_points: int) -> TooLarge:
    """The error for a body with more points."""
    return TooLarge(f"more than max_request_spans = {max_points} points in one body")
