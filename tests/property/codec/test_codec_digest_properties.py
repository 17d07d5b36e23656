"""Digests of the kernel are those of its twin."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codec.digest import digests, digests_plain

lengths = st.lists(st.one_of(st.integers(0, 9), st.integers(28, 36), st.integers(60, 200)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(lengths, st.integers(0, 3), st.randoms(use_true_random=False))
def test_kernel_is_its_twin(sizes: list[int], before: int, random: Random) -> None:
    """Of spans of any length, side by side, from none on."""
    if digests is digests_plain:
        pytest.skip("no C compiler was there")
    offsets = np.cumsum([before, *sizes], dtype=np.int64)
    data = random.randbytes(int(offsets[-1]) + before)
    found = digests(data, offsets)
    assert found.dtype == np.uint64
    assert found.tolist() == digests_plain(data, offsets).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5))
def test_digest_depends_on_the_bytes_alone(texts: list[bytes]) -> None:
    """Not on what stands beside them."""
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    alone = [int(digests(text, np.array([0, len(text)], np.int64))[0]) for text in texts]
    assert digests(b"".join(texts), offsets).tolist() == alone
