"""Input profiles: which attributes of other agents stand for keys of the eSpan convention; see docs/profiles.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge.spans import convention
from bridge.spans.columns import Direction

_BIT: Final = {key: bit for bit, key in enumerate(convention.KEY_OF_BIT)}

MAX_PROFILES: Final = 8
MAX_ATTRIBUTES: Final = 64
"""So many different attributes all profiles together may name; the kernel has room for them."""
MAX_RULES: Final = 128
MAX_VALUES: Final = 256
MAX_NAME_BYTES: Final = 63
"""Of an attribute's name."""

HEADERS: Final = (
    "traceparent",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "_dd.p.tid",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
    "sw8",
    "x-request-id",
)
"""Request headers that are understood; `_dd.p.tid` is the part of x-datadog-tags that agents report by itself."""
RESOURCE_KEYS: Final = ("host.name", "service.name")
"""What a profile may find under another name in a resource."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """An attribute that a key may be taken from: the span's, or where that has none, its resource's."""

    attribute: str
    side: Direction = Direction.ABSENT
    """INCOMING or OUTGOING: of spans of this direction only."""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Where a key comes from if a span has it not under its own name. Earlier alternatives win."""

    key: str
    alternatives: tuple[Alternative, ...]
    values: Mapping[str, str | int] = field(default_factory=dict)
    """What the values of the alternatives mean; one that is not here is none. Empty: they are taken as they are."""
    default: str | int | None = None
    """What the key is without any of them, in a span that is an eSpan by this profile."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of agent calls the keys of an eSpan."""

    name: str
    keys: tuple[KeyRule, ...] = ()
    resource: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attributes of the resource by the `RESOURCE_KEYS` they stand for, where it has none."""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attributes of the span by the `HEADERS` they hold."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One alternative of one key."""

    key: int
    """Its bit."""
    attribute: int
    """Position in `Rules.attributes`."""
    side: Direction
    values: tuple[tuple[str, str | int], ...]
    profile: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What several profiles come to, in the order in which it is tried."""

    attributes: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    defaults: tuple[tuple[int, int, str | int], ...] = ()
    """(key, profile, value)."""
    headers: tuple[tuple[str, str], ...] = ()
    """(header, attribute that may hold it)."""
    resource: tuple[tuple[str, ...], ...] = tuple((key,) for key in RESOURCE_KEYS)
    """For each of `RESOURCE_KEYS` the attributes of a resource that stand for it, itself first."""

    def header_mask(self) -> int:
        """Bit set of the attributes that hold headers."""
        held = {attribute for _, attribute in self.headers}
        return sum(1 << i for i, name in enumerate(self.attributes) if name in held)


def rules_of(profiles: Sequence[Profile]) -> Rules:
    """The rules of these profiles; of several the earlier come first, but directions, which others go by, before all.

    Raises ValueError for more than there is room for.
    """
    if len(profiles) > MAX_PROFILES:
        raise ValueError(f"{len(profiles)} profiles, more than {MAX_PROFILES}")
    attributes: dict[str, int] = {}
    rules = [
        Rule(
            _BIT[key.key],
            attributes.setdefault(one.attribute, len(attributes)),
            one.side,
            tuple(key.values.items()),
            number,
        )
        for number, profile in enumerate(profiles)
        for key in profile.keys
        for one in key.alternatives
    ]
    rules.sort(key=lambda rule: rule.key != _BIT[convention.DIRECTION])
    defaults = tuple(
        (_BIT[key.key], number, key.default)
        for number, profile in enumerate(profiles)
        for key in profile.keys
        if key.default is not None
    )
    headers = tuple(
        (header, name) for header in HEADERS for profile in profiles for name in profile.headers.get(header, ())
    )
    for _, name in headers:
        attributes.setdefault(name, len(attributes))
    resource = tuple((key, *(n for p in profiles for n in p.resource.get(key, ()))) for key in RESOURCE_KEYS)
    values = sum(len(rule.values) for rule in rules)
    for what, found, most in (
        ("attributes", len(attributes), MAX_ATTRIBUTES),
        ("alternatives", len(rules), MAX_RULES),
        ("defaults", len(defaults), MAX_RULES),
        ("values", values, MAX_VALUES),
    ):
        if found > most:
            raise ValueError(f"{found} {what} in all profiles together, more than {most}")
    return Rules(tuple(attributes), tuple(rules), defaults, headers, resource)
