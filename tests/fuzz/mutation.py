"""Changes of inputs at random, for where no coverage guides them."""

import random
from collections.abc import Sequence

NUMBERS = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
    b"-1",
    b"9" * 25,
    b"1e999",
)


def mutated(seed: bytes, pool: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    """The seed after one to eight changes: bytes, stretches of it, and stretches of others."""
    data = bytearray(seed)
    for _ in range(draw.choice((1, 1, 2, 3, 5, 8))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
        match draw.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[at % len(data)] = draw.randrange(256)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * draw.choice((1, 2, 20))
            case 4:
                data[at:end] = draw.choice(NUMBERS)
            case 5 if words:
                data[at:at] = draw.choice(words)
            case 6:
                other = draw.choice(pool)
                start = draw.randrange(len(other) + 1)
                data[at:end] = other[start : start + draw.choice((1, 8, 64, 512))]
            case _:
                del data[at:]
    return bytes(data)
