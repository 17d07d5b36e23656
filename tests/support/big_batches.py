"""Batches that take room, for tests of quotas: few spans, much payload that cannot be packed."""

import numpy as np

from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch
from tests.support.stored import random_batch

SPANS = 4
KIB = 1 << 10


def big_batch(seed: int, kib: int = 256) -> SpanBatch:
    """A batch of four spans that takes so much in the store."""
    rng = np.random.default_rng(seed)
    offsets = np.linspace(0, kib * KIB, SPANS + 1).astype(np.int64)
    block = PayloadBlock(
        PayloadFormat.OTLP_SPAN, rng.bytes(kib * KIB), offsets, (Context(b"", b""),), np.zeros(SPANS, np.uint32)
    )
    return SpanBatch(random_batch(seed, SPANS).columns, block)
