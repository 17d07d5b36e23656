"""Content-Encoding: what is read, and what is refused without being inflated."""

import gzip
import resource
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidData, TooLarge
from bridge.receivers.compression import decompress, zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "identity": bytes,
}
LIMIT = 1 << 20
encodings = pytest.mark.parametrize("encoding", COMPRESS)
compressed = pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])


@given(data=st.binary(max_size=2000), encoding=st.sampled_from(sorted(COMPRESS)))
def test_what_was_compressed_is_read(data: bytes, encoding: str) -> None:
    """Round trip, also of nothing, and with a limit that fits exactly."""
    assert decompress(COMPRESS[encoding](data), encoding, max(len(data), 1)) == data


@compressed
def test_limit_is_exact(encoding: str) -> None:
    """As many bytes as the limit are read, one more is TooLarge."""
    body = COMPRESS[encoding](bytes(1000))
    assert decompress(body, encoding, 1000) == bytes(1000)
    with pytest.raises(TooLarge, match="max_request_bytes = 999"):
        decompress(body, encoding, 999)


@compressed
@given(data=st.binary(min_size=1, max_size=500))
def test_a_body_that_ends_early_is_invalid(encoding: str, data: bytes) -> None:
    """Every proper beginning of a body is InvalidData, never a shorter body. (No bytes at all are an empty body.)"""
    body = COMPRESS[encoding](data)
    for end in range(1, len(body)):
        with pytest.raises(InvalidData):
            decompress(body[:end], encoding, LIMIT)


@compressed
@given(data=st.binary(max_size=300))
def test_noise_is_invalid_or_too_large_and_nothing_else(encoding: str, data: bytes) -> None:
    """No other error comes out of bytes that are not of the encoding."""
    try:
        decompress(b"\xff" + data, encoding, LIMIT)
    except (InvalidData, TooLarge) as exc:
        assert encoding in str(exc) or "max_request_bytes" in str(exc)
    else:
        pytest.fail("noise was read")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_one_after_another_are_one_body(encoding: str) -> None:
    """RFC 1952 and RFC 8878 allow it; trailing bytes that start no further member are invalid."""
    body = COMPRESS[encoding](b"a" * 300_000) + COMPRESS[encoding](b"") + COMPRESS[encoding](b"b")
    assert decompress(body, encoding, LIMIT) == b"a" * 300_000 + b"b"
    with pytest.raises(InvalidData):
        decompress(body + b"x", encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_endless_empty_members_are_refused(encoding: str) -> None:
    """A body of empty members costs little and is InvalidData."""
    with pytest.raises(InvalidData, match="members"):
        decompress(COMPRESS[encoding](b"") * 100_000, encoding, LIMIT)


def test_bombs_are_not_inflated() -> None:
    """What a bomb would inflate to is never held: the peak memory of the process does not grow by it."""
    compressor = zlib.compressobj(wbits=31)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge):
        decompress(bomb, "gzip", LIMIT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


def test_zstd_windows_beyond_the_bound_are_invalid() -> None:
    """A frame may not make us set up a window much larger than any body we take."""
    options = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"a" * 1000) + compressor.flush()
    with pytest.raises(InvalidData, match="zstd"):
        decompress(body, "zstd", LIMIT)
    assert decompress(body, "zstd", 1 << 27) == b"a" * 1000
