"""Linked spans of one payload format, as they become spans of another."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bridge.spans import LinkedSpans, PayloadBlock, PayloadFormat


def with_converted(
    linked: LinkedSpans, form: PayloadFormat, convert: Callable[[list[int]], PayloadBlock]
) -> LinkedSpans:
    """The same spans, with those of this format in one block of their own.

    convert: makes that block from the positions of these rows, a span each and in their order. Raises ValueError where
    a row names a block or a place in it that is not there, and what `convert` raises.
    """
    chosen = np.array([block.format == form for block in linked.blocks], np.bool_)
    if not chosen.any():
        return linked
    lengths = np.array([len(block) for block in linked.blocks], np.int64)
    if (linked.block >= lengths.size).any() or (linked.row >= lengths[linked.block]).any():
        raise ValueError("linked spans name a block or a row that is not there")
    kept = [block for block in linked.blocks if block.format != form]
    numbers = np.full(lengths.size, len(kept), np.uint32)
    numbers[~chosen] = np.arange(len(kept))
    rows = np.flatnonzero(chosen[linked.block])
    row = linked.row.copy()
    row[rows] = np.arange(rows.size)
    return replace(linked, blocks=(*kept, convert(rows.tolist())), block=numbers[linked.block], row=row)
