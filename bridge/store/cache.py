"""Payload blocks kept in memory because they are soon to be exported. Only a cache: everything in it is stored."""

import random
from threading import Lock

from bridge.spans import PayloadBlock

FEWEST = 0.25
"""New batches are kept where there is room for such a share of all that wait."""


class PayloadCache:
    """Unpacked payload blocks by batch number, bounded in bytes.

    Blocks are read in rounds: batches that are leaving are asked for tick after tick until their last row has left.
    When they do not all fit, dropping the one that was used longest ago would drop each just before it is asked for
    again, so a random one goes. New batches are needed a window later: they are kept only where there is room, and
    where what waits with them is not so much that few of them would be found.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._numbers: list[int] = []
        self._blocks: dict[int, tuple[int, PayloadBlock]] = {}
        """Number to (position in `_numbers`, block)."""
        self._random = random.Random(0)  # noqa: S311 -- no secret
        self._lock = Lock()  # filled and read by worker threads too

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def get(self, number: int) -> PayloadBlock | None:
        """The block of this batch, if it is here."""
        found = self._blocks.get(number)
        return None if found is None else found[1]

    def offer(self, number: int, block: PayloadBlock, waiting_spans: int) -> None:
        """Keep a new block if there is room, one of so many spans that wait."""
        size = block_bytes(block)
        if FEWEST * size * waiting_spans > self._max_bytes * len(block):
            return
        with self._lock:
            if self._bytes + size <= self._max_bytes:
                self._keep(number, block)

    def put(self, number: int, block: PayloadBlock) -> None:
        """Keep a block that is being read, in the place of others if need be; one above all bounds is not kept."""
        size = block_bytes(block)
        if size > self._max_bytes:
            return
        with self._lock:
            while self._bytes + size > self._max_bytes:
                self._remove(self._numbers[self._random.randrange(len(self._numbers))])
            self._keep(number, block)

    def drop(self, number: int) -> None:
        """Forget this block, if it is here."""
        with self._lock:
            self._remove(number)

    def _keep(self, number: int, block: PayloadBlock) -> None:
        self._remove(number)
        self._blocks[number] = len(self._numbers), block
        self._numbers.append(number)
        self._bytes += block_bytes(block)

    def _remove(self, number: int) -> None:
        found = self._blocks.pop(number, None)
        if found is None:
            return
        position, block = found
        last = self._numbers.pop()
        if last != number:
            self._numbers[position] = last
            self._blocks[last] = position, self._blocks[last][1]
        self._bytes -= block_bytes(block)


def block_bytes(block: PayloadBlock) -> int:
    """Memory a block holds, roughly."""
    around = sum(len(c.resource_spans) + len(c.scope_spans) for c in block.contexts)
    return len(block.data) + block.offsets.nbytes + block.context.nbytes + around
