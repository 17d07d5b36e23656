"""Digests of the kernel are those of its twin."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bridge.codec.digest import cut_out, cut_out_plain, digests, offsets_of

place = st.binary(min_size=1, max_size=9) | st.binary(min_size=28, max_size=36) | st.binary(min_size=60, max_size=200)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5))
def test_digest_depends_on_the_bytes_alone(texts: list[bytes]) -> None:
    """Not on what stands beside them."""
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    alone = [int(digests(text, np.array([0, len(text)], np.int64))[0]) for text in texts]
    assert digests(b"".join(texts), offsets).tolist() == alone


@pytest.mark.parametrize("cutting", [cut_out, cut_out_plain])
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(st.binary(max_size=3), place), max_size=4), max_size=4))
def test_what_is_cut_out_of_several_texts_is_what_stands_there(
    cutting: Callable[..., tuple[bytes, NDArray[np.uint64]]], parts: list[list[tuple[bytes, bytes]]]
) -> None:
    """Texts that are empty, and bytes between places that are not asked for, included."""
    texts = tuple(b"".join(between + place for between, place in text) for text in parts)
    places = [pair for text in parts for pair in text]
    ends = np.cumsum([len(between) + len(place) for between, place in places], dtype=np.int64)
    sizes = np.array([len(place) for _, place in places], np.int64)
    data, found = cutting(texts, ends - sizes, sizes)
    assert data == b"".join(place for _, place in places)
    assert found.tolist() == digests(data, offsets_of(sizes)).tolist()


@pytest.mark.parametrize("cutting", [cut_out, cut_out_plain])
@pytest.mark.parametrize(
    ("starts", "sizes"),
    [
        ([-1], [2]),
        ([3], [2]),
        ([4], [5]),
        ([8], [1]),
        ([0], [-1]),
        ([5, 1], [1, 1]),
        ([1, 0], [1, 1]),
        ([0, 0], [1, 1]),
        ([-(2**63)], [1]),
        ([2**62], [1]),
        ([0], [2**62]),
    ],
)
def test_places_that_are_not_there_are_refused(
    cutting: Callable[..., object], starts: list[int], sizes: list[int]
) -> None:
    """Before the texts, behind them, across two of them, of no length, out of order, overlapping."""
    with pytest.raises(ValueError, match="cut_out"):
        cutting((b"abcd", b"efgh"), np.array(starts, np.int64), np.array(sizes, np.int64))
