"""Attribute rules on the way from receivers to the store: docs/attributes.md."""

import anyio
from anyio.to_thread import run_sync

from bridge.codec.attribute_rules import Action, AttributeRules, Rule
from bridge.component import SpanConsumer
from bridge.config import AttributesSettings
from bridge.errors import ConfigError
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments

INLINE_BYTES = 512 * 1024
"""Up to this size a batch is edited on the event loop, as bodies are decoded there."""
_THREADS = 2
_NAMES = {action: str(action.name).lower() for action in Action}


def with_rules(settings: AttributesSettings, consumer: SpanConsumer, instruments: Instruments) -> SpanConsumer:
    """The consumer, behind the rules of the settings; itself where there are none.

    Raises ConfigError where the file of the key cannot be read any more.
    """
    if not settings.names:
        return consumer
    try:
        key = settings.key_bytes
    except OSError as exc:
        raise ConfigError(
            f"attributes.hash_key_file = {settings.hash_key_file}: cannot be read: {exc.strerror}"
        ) from exc
    return Ruled(AttributeRules(rules_of(settings), key=key), consumer, instruments)


def rules_of(settings: AttributesSettings) -> list[Rule]:
    """One rule for each name that the settings have."""
    found = []
    for name in sorted(settings.names):
        actions = Action(0)
        for action, names in (
            (Action.DROP, settings.drop),
            (Action.HASH, settings.hash),
            (Action.STRIP_QUERY, settings.strip_query),
            (Action.TRUNCATE, settings.truncate),
        ):
            if name in names:
                actions |= action
        found.append(Rule(name, actions, settings.truncate.get(name, 0)))
    return found


class Ruled:
    """Hands on batches as rules leave them: what was read for linking stays, the spans' own bytes are changed."""

    def __init__(self, rules: AttributeRules, consumer: SpanConsumer, instruments: Instruments) -> None:
        self._rules, self._consumer, self._instruments = rules, consumer, instruments
        for name in _NAMES.values():  # a counter that appears with its first event hides that event
            instruments.attributes_changed.add(0, {"action": name})
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def consume(self, batch: SpanBatch) -> None:
        """See `SpanConsumer.consume`."""
        if batch.payload.data_bytes <= INLINE_BYTES:
            payload, counts = self._rules.applied(batch.payload)
        else:
            payload, counts = await run_sync(self._rules.applied, batch.payload, limiter=self._threads)
        await self._consumer.consume(batch.with_payload(payload))
        for action, count in counts.items():
            self._instruments.attributes_changed.add(count, {"action": _NAMES[action]})
