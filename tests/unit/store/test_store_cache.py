"""The payload cache: its bound, and that it is only a cache."""

import random
from functools import partial

import numpy as np

from bridge.spans import PayloadBlock
from bridge.store.cache import PayloadCache, block_bytes
from tests.support.stored import random_block


def block(seed: int, n: int = 10) -> PayloadBlock:
    return random_block(np.random.default_rng(seed), n)


def test_block_is_given_back_until_dropped() -> None:
    """What was put is there, and gone after `drop`, which may be called for anything."""
    cache = PayloadCache(1 << 20)
    kept = block(1)
    cache.put(1, kept)
    assert cache.get(1) is kept
    assert cache.get(2) is None
    cache.drop(2)
    cache.drop(1)
    assert cache.get(1) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_new_block_takes_nobodys_place() -> None:
    """`offer` keeps what fits in beside the others."""
    first, second = block(1), block(2)
    cache = PayloadCache(block_bytes(first) + block_bytes(second) - 1)
    cache.offer(1, first, 10)
    cache.offer(2, second, 20)
    assert cache.get(1) is first
    assert cache.get(2) is None


def test_new_block_among_far_too_many_is_not_kept() -> None:
    """Of blocks of which the cache would hold less than a quarter a reader would find few."""
    cache, some = PayloadCache(2 * block_bytes(block(1))), block(1)
    cache.offer(1, some, 8 * len(some))
    cache.offer(2, some, 8 * len(some) + 1)
    assert cache.get(1) is some
    assert cache.get(2) is None


def test_block_that_is_read_takes_a_place() -> None:
    """`put` makes room; a block above the bound is not kept, and drives nobody out."""
    first, second, huge = block(1), block(2), block(3, 500)
    cache = PayloadCache(max(block_bytes(first), block_bytes(second)))
    cache.put(1, first)
    cache.put(2, second)
    assert cache.get(1) is None
    cache.put(3, huge)
    assert cache.get(2) is second
    assert cache.get(3) is None


def test_bytes_are_those_of_the_blocks_and_never_above_the_bound() -> None:
    """Through any sequence of calls, the same number put twice included."""
    rng = random.Random(5)
    blocks = [block(seed, seed) for seed in range(20)]
    cache = PayloadCache(sum(map(block_bytes, blocks)) // 4)
    for _ in range(600):
        number = rng.randrange(20)
        offer = partial(cache.offer, waiting_spans=1)
        rng.choice([cache.put, offer, lambda n, _: cache.drop(n)])(number, blocks[number])
        held = [n for n in range(20) if cache.get(n) is not None]
        assert all(cache.get(n) is blocks[n] for n in held)
        assert len(cache) == len(held)
        assert cache.bytes == sum(block_bytes(blocks[n]) for n in held) <= sum(map(block_bytes, blocks)) // 4


def test_put_twice_counts_once() -> None:
    """The later block of a number replaces the earlier one, also where both would not fit in."""
    first, second = block(1), block(2)
    cache = PayloadCache(max(block_bytes(first), block_bytes(second)))
    for replacement in (first, second):
        cache.put(1, replacement)
        assert cache.get(1) is replacement
        assert cache.bytes == block_bytes(replacement)
