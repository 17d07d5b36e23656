"""Protobuf messages as bytes, in whatever way they may be written, and what may happen to bytes. For hypothesis."""

from hypothesis import strategies as st

from tests.support.espans import field, varint

Changes = list[tuple[str, float, int]]
"""What is done, at what part of the length, with which byte."""


def strange(numbers_of_fields: range) -> st.SearchStrategy[bytes]:
    """A field that its message does not have, or has in another form."""
    number = st.one_of(st.sampled_from(numbers_of_fields), st.sampled_from([111, 2**29 - 1]))
    group = st.builds(lambda n, inner: varint(n << 3 | 3) + inner + varint(n << 3 | 4), number, st.just(b"\x08\x01"))
    return st.one_of(
        group,
        st.builds(lambda n, value: varint(n << 3) + varint(value), number, st.integers(0, 2**64 - 1)),
        st.builds(lambda n, value: varint(n << 3 | 1) + value, number, st.binary(min_size=8, max_size=8)),
        st.builds(lambda n, value: varint(n << 3 | 5) + value, number, st.binary(min_size=4, max_size=4)),
        st.builds(lambda value: field(111, value), st.binary(max_size=4)),
    )


def message(*fields: st.SearchStrategy[bytes], own: int, least: int = 0, most: int = 4) -> st.SearchStrategy[bytes]:
    """Some of these fields in any order, at times with a strange one between."""
    usual = st.lists(st.one_of(*fields), min_size=least, max_size=most)
    odd = st.lists(strange(range(1, own)), max_size=1)
    return st.builds(lambda some, one, at: b"".join([*some[:at], *one, *some[at:]]), usual, odd, st.integers(0, most))


def holding(number: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return content.map(lambda inner: field(number, inner))


changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "flip", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.integers(0, 255), st.sampled_from([0x00, 0x7F, 0x80, 0xFF, 0x0B, 0x0C])),
    ),
    min_size=1,
    max_size=4,
)


def changed(body: bytes, how: Changes) -> bytes:
    """The body after these changes, each at this part of its length."""
    out = bytearray(body)
    for what, where, byte in how:
        at = int(where * len(out))
        if what == "insert" or not out:
            out.insert(at, byte)
        elif what == "set":
            out[at] = byte
        elif what == "flip":
            out[at] ^= 1 << byte % 8
        else:
            del out[at : at + 1 if what == "delete" else None]
    return bytes(out)
