"""Input profiles at work: what spans under other names say becomes what they would say under ours.

`use_profiles` sets, for the whole process, what scans of OTLP go by; without it they know our own names alone, and
nothing here costs anything. The kernel of otlp_scan follows `Rules`, which is what profiles come to; `resolve` is the
same in plain Python.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue

from bridge.codec import otlp_view_pb2 as view
from bridge.codec.espan import Value, integer, request_hash
from bridge.codec.headers import datadog_upper, read_headers
from bridge.spans import Encoding, convention
from bridge.spans.columns import Direction
from bridge.spans.profiles import Profile, Rules, rules_of

try:
    from bridge.codec import _otlp_scan
except ImportError:  # not built
    _otlp_scan = None  # type: ignore[assignment]

_U64: Final = 2**64 - 1
_UNSIGNED: Final = frozenset(("x-datadog-trace-id", "x-datadog-parent-id"))
_HEADER_COLUMNS: Final = ("app_trace_hi", "app_trace_lo", "app_parent", "app_encode", "app_flag")
_SIDES: Final[Mapping[str, Direction]] = {"incoming": Direction.INCOMING, "outgoing": Direction.OUTGOING}


def resolve(
    rules: Rules, own: Mapping[str, Value], span: Mapping[str, Value], resource: Mapping[str, Value]
) -> tuple[dict[str, Value], bool]:
    """Values by our keys: `own`, and what the rules find in the attributes of a span and of its resource.

    Attributes and keys without a value are left out of all of them. Also whether the rules make an eSpan of the span.
    """
    found = dict(own)
    matched: set[int] = set()
    for rule in rules.rules:
        key = convention.KEY_OF_BIT[rule.key]
        if key in found or (rule.side and _side(found) != rule.side):
            continue
        name = rules.attributes[rule.attribute]
        value = span.get(name, resource.get(name))
        if value is not None and rule.values:
            value = dict(rule.values).get(str(value)) if isinstance(value, str | int) else None
        if value is None:
            continue
        found[key] = value
        if key in convention.MARKERS:
            matched.add(rule.profile)
    for bit, profile, default in rules.defaults:
        if profile in matched:
            found.setdefault(convention.KEY_OF_BIT[bit], default)
    return found, bool(matched)


def _side(found: Mapping[str, Value]) -> Direction | None:
    value = found.get(convention.DIRECTION)
    return _SIDES.get(value) if isinstance(value, str) else None


def header_texts(rules: Rules, attributes: Mapping[str, view.Value]) -> dict[str, str]:
    """Request headers by name, each from the first of its attributes that has a text."""
    found: dict[str, str] = {}
    for header, name in rules.headers:
        if header not in found and name in attributes and (text := _header_text(header, attributes[name])):
            found[header] = text
    return found


def _header_text(header: str, value: view.Value) -> str:
    """A text, a number, or the first of a list of them, as OpenTelemetry's conventions have headers."""
    sent: view.Value | AnyValue = value
    if value.WhichOneof("value") == "array_value":
        sent = next(iter(ArrayValue.FromString(value.array_value).values), AnyValue())
    if sent.WhichOneof("value") == "int_value":
        return str(sent.int_value & _U64 if header in _UNSIGNED else sent.int_value)
    return sent.string_value if sent.WhichOneof("value") == "string_value" else ""


def header_columns(row: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, int]:
    """Columns of a row that change by these headers: what its own attributes say counts first."""
    hi, lo, parent, encode, flag = (int(row[name]) for name in _HEADER_COLUMNS)
    said = read_headers(headers)
    if not hi | lo:
        hi, lo, parent, encode = said.trace_id >> 64, said.trace_id & _U64, parent or said.parent, said.encode
    elif encode == Encoding.DEC and not hi:
        hi = datadog_upper(headers)
    columns = dict(zip(_HEADER_COLUMNS, (hi, lo, parent, encode, flag or said.flag), strict=True))
    if (text := headers.get("x-request-id", "").strip()) and not row["request_id"]:
        number = integer(text)
        columns["request_id"] = request_hash(text) if number is None else number
    return columns


_active = Rules()


def rules_in_use() -> Rules:
    """What scans go by."""
    return _active


def use_profiles(profiles: Sequence[Profile]) -> None:
    """Let every later scan in this process go by these profiles, and by no others; none are none.

    To be called before the first scan, or while none is under way. Raises ValueError for more than there is room for.
    """
    global _active
    rules = rules_of(profiles)
    if _otlp_scan is not None:
        _otlp_scan.use_rules(rules)
    _active = rules
