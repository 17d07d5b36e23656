"""Several batches put together hold what they held apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch, SpanColumns
from tests.support.stored import assert_same_table, block_spans, random_batch


def of_points(batch: SpanBatch) -> SpanBatch:
    """The batch with payload of one format."""
    block = batch.payload
    return SpanBatch(
        batch.columns, PayloadBlock(PayloadFormat.POINT, block.data, block.offsets, block.contexts, block.context)
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=6))
def test_spans_come_one_after_another(parts: list[tuple[int, int, int]]) -> None:
    """Columns, bytes and context of each, wherever in its block the first one begins."""
    batches = [of_points(random_batch(seed, n, first_offset=first)) for seed, n, first in parts]
    together = SpanBatch.concatenate(batches)
    assert block_spans(together.payload) == [span for batch in batches for span in block_spans(batch.payload)]
    assert_same_table(together.columns, SpanColumns.concatenate([batch.columns for batch in batches]))
    assert together.payload.data_bytes == sum(batch.payload.data_bytes for batch in batches)


def test_equal_contexts_become_one() -> None:
    """Requests of one sender share what surrounds their spans."""
    offsets, context = np.array([0, 1], np.int64), np.zeros(1, np.uint32)
    a, b = Context(b"a", b"x"), Context(b"b", b"x")
    blocks = [
        PayloadBlock(PayloadFormat.OTLP_SPAN, b"1", offsets, (around,), context)
        for around in (a, b, Context(b"a", b"x"))
    ]
    together = PayloadBlock.concatenate(blocks)
    assert together.contexts == (a, b)
    assert together.context.tolist() == [0, 1, 0]


def test_other_formats_are_refused() -> None:
    """A block has one format."""
    offsets, context = np.zeros(1, np.int64), np.zeros(0, np.uint32)
    blocks = [PayloadBlock(of, b"", offsets, (), context) for of in PayloadFormat]
    with pytest.raises(ValueError, match="beside"):
        PayloadBlock.concatenate(blocks)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=6))
def test_parts_of_what_is_together_are_what_it_was_made_of(parts: list[tuple[int, int, int]]) -> None:
    """With the contexts they have, and bytes of their own."""
    batches = [of_points(random_batch(seed, n, first_offset=first)) for seed, n, first in parts]
    together, at = SpanBatch.concatenate(batches), 0
    for batch in batches:
        part, at = together.part(at, at + len(batch)), at + len(batch)
        assert block_spans(part.payload) == block_spans(batch.payload)
        assert_same_table(part.columns, batch.columns)
        assert part.payload.data_bytes == len(part.payload.data)
        assert len(part.payload.contexts) == len(set(batch.payload.context.tolist()))
