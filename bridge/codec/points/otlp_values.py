"""Values of OTLP attributes in Python, as text and as JSON."""

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Scalar = str | int | float | bool | bytes | None
Attributes = dict[str, Any]
"""By name: a `Scalar`, or a list or dict of them, of lists and of dicts."""


def by_key(pairs: Iterable[KeyValue]) -> Attributes:
    """Of a key given twice the last counts."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    form = value.WhichOneof("value")
    if form == "array_value":
        return [_value(item) for item in value.array_value.values]
    if form == "kvlist_value":
        return by_key(value.kvlist_value.values)
    return getattr(value, form) if form else None


def scalar(value: Any) -> Scalar:
    """As a field holds it; lists and maps are JSON."""
    if isinstance(value, (list, dict)):
        return to_json(value)
    own: Scalar = value
    return own


def there(held: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {key: value for key, value in held.items() if value or value is False}


def to_json(value: Any) -> str:
    """As short as can be. Bytes are base64, and numbers that are not finite are text, since JSON has none."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=as_text)
    except ValueError:
        return to_json(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_text(value: Scalar) -> str:
    """Bytes as base64."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
