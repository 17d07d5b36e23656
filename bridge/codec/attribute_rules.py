"""Rules for attributes, by name: drop, hash, cut what is behind a question mark, cut to a length. docs/attributes.md.

A rule is applied to the bytes of spans after they were read for linking and before they are stored: spans, their
events, links, resource and scope in OTLP; tags and fields of points. Whatever no rule names stays byte for byte.

`AttributeEditor` does the work: compiled where that could be built, and `PlainAttributeEditor`, its twin in plain
Python, elsewhere; slower, but with the same output.

Decided against: applying rules to what leaves (docs/decisions/0007-attribute-rules.md).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.codec.attribute_fields import FIELDS, Content, Message
from bridge.codec.points import mapping
from bridge.codec.wire import field, fields
from bridge.errors import InvalidData
from bridge.spans import Context, PayloadBlock, PayloadFormat
from bridge.spans.needed import NEEDED

I64Array = NDArray[np.int64]

SPAN_NAME: Final = "span.name"
STATUS_MESSAGE: Final = "status.message"
DIGEST_BYTES: Final = 16
MAX_KEY_BYTES: Final = 64
"""So long a key BLAKE2b takes."""
MAX_DEPTH: Final = 200
"""How deep values may nest; protobuf itself reads half as many."""

_KEY: Final = 0x0A
"""Of a KeyValue and of a Field: tag of the name."""
_TEXT: Final = {Message.VALUE: 0x0A, Message.FIELD: 0x5A}
_INT64: Final = 2**63


class Action(IntFlag):
    """What a rule does; of several, in this order."""

    DROP = 1
    STRIP_QUERY = 2
    HASH = 4
    TRUNCATE = 8


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the attributes of this name, or, where it ends with a star, of names that begin like this."""

    name: str
    actions: Action
    max_bytes: int = 0
    """For TRUNCATE: so many are left at most."""


@dataclass(frozen=True, slots=True)
class Edited:
    """Bytes that were changed."""

    data: bytes
    offsets: I64Array
    """Shape (n + 1,): where each message begins and ends now."""
    counts: Mapping[Action, int]
    """How many attributes each action changed."""


# --- names ------------------------------------------------------------------------------------------------------------

_DERIVED_FROM: Final[Mapping[str, tuple[str, ...]]] = {
    "url.path": ("http_route",),
    "network.peer.address": ("dst_ip",),
    "server.address": ("src_ip", "dst_ip"),
    "client.address": ("src_ip", "dst_ip"),
    SPAN_NAME: ("resource",),
    STATUS_MESSAGE: ("status_msg", "err_msg"),
}
"""Keys of points that these attributes are made of on export, where such a key may be changed at all."""

_SAME: Final = (
    *(frozenset((key.key, *key.attributes)) for key in mapping.KEYS),
    *(frozenset((moved.key, moved.attribute)) for moved in mapping.MOVED),
)


def same_names(name: str) -> frozenset[str]:
    """This name and the others of the same thing: a key of points, its attribute in OTLP, older names of that.

    Of a name with a star: those of all names in the tables of docs/datakit-mapping.md that it fits.
    """
    found = {name}
    for group in _SAME:
        if any(_fits(name, other) for other in group):
            found |= group
    for derived, sources in _DERIVED_FROM.items():
        if _fits(name, derived):
            found.update(sources)
    return frozenset({name} | (found - NEEDED))


def _fits(name: str, other: str) -> bool:
    return other.startswith(name[:-1]) if name.endswith("*") else other == name


def widened(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules, each under all names of what it names; what rules say of a name themselves comes before.

    Where several rules reach a name that way, the one that leaves the least counts.
    """
    own = sorted(rules, key=lambda rule: (bool(rule.actions & Action.DROP), bool(rule.actions & Action.HASH)))
    found: dict[str, Rule] = {}
    for rule in own:
        for name in sorted(same_names(rule.name)):
            if not any(_fits(other.name, name) for other in own):
                found[name] = replace(rule, name=name)
    return (*own, *found.values())


# --- batches ----------------------------------------------------------------------------------------------------------


class AttributeRules:
    """Rules as they are applied to blocks of spans. Safe to use from several threads at once."""

    def __init__(self, rules: Iterable[Rule], *, key: bytes = b"") -> None:
        """key: makes hashes that nobody without it can guess values from; at most MAX_KEY_BYTES."""
        self._editor = AttributeEditor(widened(rules), key)

    def applied(self, block: PayloadBlock) -> tuple[PayloadBlock, Mapping[Action, int]]:
        """The block as the rules leave it, and how many attributes each action changed; itself where none was.

        Raises InvalidData where its bytes are no messages; what was scanned before always is.
        """
        message = Message.POINT if block.format == PayloadFormat.POINT else Message.SPAN
        counts: Counter[Action] = Counter()
        if (edited := self._editor.edit(message, block.data, block.offsets)) is not None:
            counts.update(edited.counts)
            block = replace(block, data=edited.data, offsets=edited.offsets)
        contexts = self._contexts(block.contexts, counts)
        return (block if contexts is block.contexts else replace(block, contexts=contexts)), counts

    def _contexts(self, contexts: tuple[Context, ...], counts: Counter[Action]) -> tuple[Context, ...]:
        resources = self._edited(Message.RESOURCE_SPANS, [context.resource_spans for context in contexts], counts)
        scopes = self._edited(Message.SCOPE_SPANS, [context.scope_spans for context in contexts], counts)
        if resources is None and scopes is None:
            return contexts
        resources = resources or [context.resource_spans for context in contexts]
        scopes = scopes or [context.scope_spans for context in contexts]
        return tuple(map(Context, resources, scopes))

    def _edited(self, message: Message, parts: Sequence[bytes], counts: Counter[Action]) -> list[bytes] | None:
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        edited = self._editor.edit(message, b"".join(parts), offsets)
        if edited is None:
            return None
        counts.update(edited.counts)
        bounds = edited.offsets.tolist()
        return [edited.data[begin:end] for begin, end in pairwise(bounds)]


# --- bytes ------------------------------------------------------------------------------------------------------------


class PlainAttributeEditor:
    """Applies rules to serialized messages. A name that several rules fit goes by the longest, and by its own first."""

    def __init__(self, rules: Iterable[Rule], key: bytes) -> None:
        self._exact = {rule.name.encode(): rule for rule in rules if not rule.name.endswith("*")}
        by_length = sorted((r for r in rules if r.name.endswith("*")), key=lambda rule: -len(rule.name.encode()))
        self._prefixes = [(rule.name[:-1].encode(), rule) for rule in by_length]
        self._key = key

    def edit(self, message: Message, data: bytes, offsets: I64Array) -> Edited | None:
        """Messages of one kind as the rules leave them, message i being data[offsets[i]:offsets[i + 1]]; None where
        no rule changes any.

        Raises InvalidData where they are no messages, ValueError where offsets fall or leave the data.
        """
        bounds = offsets.tolist()
        if not bounds or bounds[0] < 0 or bounds[-1] > len(data) or bounds != sorted(bounds):
            raise ValueError("AttributeEditor: offsets that fall, or that leave the data")
        counts: Counter[Action] = Counter()
        parts = [self._walked(message, data[begin:end], None, counts, MAX_DEPTH)[0] for begin, end in pairwise(bounds)]
        if not counts:
            return None
        return Edited(b"".join(parts), np.cumsum([0, *map(len, parts)], dtype=np.int64), counts)

    def _walked(
        self, message: Message, data: bytes, rule: Rule | None, counts: Counter[Action], depth: int
    ) -> tuple[bytes, Action]:
        """The message, and what was done to it. `rule`: inside an attribute, its own."""
        if depth <= 0:
            raise InvalidData("values nest too deep")
        out, did, known = [], Action(0), FIELDS[message]
        for tag, raw, value in fields(data):
            what = known.get(tag)
            if isinstance(what, Message):
                inner, done = self._walked(what, value, rule, counts, depth - 1)
                out.append(field(tag, inner) if done else raw)
            elif what is not None and what < Content.TEXT:
                kept, done = self._attribute(what, tag, raw, value, counts, depth)
                out.append(kept)
            elif what is not None and rule is not None:
                kept, done = self._scalar(what, tag, raw, value, rule, _TEXT[message])
                out.append(kept)
            else:
                out.append(raw)
                continue
            did |= done
        return b"".join(out), did

    def _attribute(
        self, what: Content, tag: int, raw: bytes, value: bytes, counts: Counter[Action], depth: int
    ) -> tuple[bytes, Action]:
        """An attribute, or a text that is named like one, with its tag."""
        rule = self._rule_of(what, value)
        if rule is None:
            return raw, Action(0)
        if rule.actions & Action.DROP:
            kept, did = b"", Action.DROP
        elif what in (Content.SPAN_NAME, Content.STATUS_MESSAGE):
            text, did = self._text(value, rule, is_text=True)
            kept = field(tag, text)
        else:
            inner = Message.FIELD if what == Content.POINT_FIELD else Message.PAIR
            content, did = self._walked(inner, value, rule, counts, depth - 1)
            kept = field(tag, content)
        counts.update(did)
        return (kept if did else raw), did

    def _rule_of(self, what: Content, value: bytes) -> Rule | None:
        if what == Content.SPAN_NAME:
            return self._named(SPAN_NAME.encode())
        if what == Content.STATUS_MESSAGE:
            return self._named(STATUS_MESSAGE.encode())
        # of an attribute that has its name twice each counts: a rule is not to be got round
        found = [self._named(content) for tag, _, content in fields(value) if tag == _KEY]
        return next((rule for rule in found if rule is not None), None)

    def _named(self, name: bytes) -> Rule | None:
        if name in self._exact:
            return self._exact[name]
        return next((rule for prefix, rule in self._prefixes if name.startswith(prefix)), None)

    def _scalar(
        self, what: Content, tag: int, raw: bytes, value: bytes, rule: Rule, text_tag: int
    ) -> tuple[bytes, Action]:
        """A value that is no message, with its tag."""
        if what in (Content.TEXT, Content.BYTES):
            text, did = self._text(value, rule, is_text=what == Content.TEXT)
            if not did:
                return raw, did
            return field(text_tag if did & Action.HASH else tag, text), did
        if rule.actions & Action.HASH:
            plain = value if what == Content.ANY else _plain(what, raw)
            return field(text_tag, self._digest(plain)), Action.HASH
        # what cannot be cut is not let through
        return (b"", Action.DROP) if what == Content.ANY else (raw, Action(0))

    def _text(self, text: bytes, rule: Rule, *, is_text: bool) -> tuple[bytes, Action]:
        did = Action(0)
        if rule.actions & Action.STRIP_QUERY and b"?" in text:
            text, did = text[: text.index(b"?")], Action.STRIP_QUERY
        if rule.actions & Action.HASH:
            return self._digest(text), did | Action.HASH
        if rule.actions & Action.TRUNCATE and len(text) > rule.max_bytes:
            end = rule.max_bytes
            while is_text and end and text[end] & 0xC0 == 0x80:
                end -= 1
            return text[:end], did | Action.TRUNCATE
        return text, did

    def _digest(self, plain: bytes) -> bytes:
        return blake2b(plain, digest_size=DIGEST_BYTES, key=self._key).hexdigest().encode()


def _plain(what: Content, raw: bytes) -> bytes:
    """A number as it is hashed: integers in decimal, so that they are hashed as the same number in text is."""
    if what == Content.DOUBLE:
        return raw[-8:]
    number = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(_varint_bytes(raw))) & (2 * _INT64 - 1)
    if what == Content.BOOL:
        return b"true" if number else b"false"
    return str(number - 2 * _INT64 if what == Content.INT and number >= _INT64 else number).encode()


def _varint_bytes(raw: bytes) -> bytes:
    """Those behind the tag, which may be written longer than it need be."""
    tag_end = next(i for i, byte in enumerate(raw) if byte < 0x80) + 1
    return raw[tag_end:]


if TYPE_CHECKING:
    AttributeEditor = PlainAttributeEditor
else:
    try:
        from bridge.codec._attribute_edit import AttributeEditor
    except ImportError:  # no C compiler was there when the bridge was installed
        AttributeEditor = PlainAttributeEditor
