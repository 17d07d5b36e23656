"""docs/span-ids.md: the numbers it gives, and that nothing else enters them."""

import json
import re
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from bridge.codec.digest import cut_out, cut_out_plain, digests
from bridge.codec.otlp_json import decode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.spans import SpanColumns
from tests.support.espans import REQUIRED, espan_of, request_of, span_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "span-ids.md").read_text(encoding="utf-8")
U64 = 2**64 - 1


def example() -> bytes:
    return re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1].encode()  # type: ignore[index]


def text_hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(x: int) -> int:
    """As the page has it."""
    z = x + 0x9E3779B97F4A7C15 & U64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & U64
    return z ^ (z >> 31)


def combined(numbers: list[int]) -> int:
    h = 0
    for number in numbers:
        h = mix(h ^ number)
    return h


def columns_of(body: bytes, peer: str = "192.0.2.7") -> SpanColumns:
    return decode_request(body, peer=peer).batch.columns


def test_page_gives_the_numbers_of_its_example() -> None:
    """The table at its end is what the bridge makes of the request above it."""
    columns = decode_json(example(), peer="192.0.2.7").batch.columns
    table = dict(re.findall(r"^\| ([a-z ]+) \| ([0-9a-f]{16}) \|$", PAGE, re.MULTILINE))
    assert {name.replace(" ", "_"): int(value, 16) for name, value in table.items()} == {
        name: int(getattr(columns, name)[0]) for name in ("sender", "service", "digest", "span_id")
    }


def test_page_describes_how_its_numbers_are_made() -> None:
    """Done again by the page's words alone, the example comes to the same."""
    listed = re.search(r"has the numbers (.*?), and comes to", PAGE, re.DOTALL)
    numbers = [int(number) for number in listed[1].replace("\n", " ").split(",")]  # type: ignore[index]
    columns = decode_json(example(), peer="192.0.2.7").batch.columns
    assert len(numbers) == 15
    assert numbers[13] == text_hash("2001:db8::1")
    assert columns.span_id.tolist() == [combined(numbers)]
    assert columns.sender.tolist() == [text_hash("192.0.2.7")]
    assert columns.service.tolist() == [text_hash("cart")]


def test_ids_do_not_depend_on_the_way_a_span_came() -> None:
    """Another peer, host, resource, request, place in it: the same id, of a span with few keys too."""
    spans = [espan_of(pid="1"), span_of({"req_seq": 1})]
    alone = [int(columns_of(request_of(span)).span_id[0]) for span in spans]
    others = [espan_of(tid=i) for i in range(5)]
    for peer, resource in (("192.0.2.8", {}), ("192.0.2.7", {"host.name": "node-1", "service.name": "cart"})):
        columns = columns_of(request_of(*others, *spans, resource=resource), peer)
        assert columns.span_id[5:].tolist() == alone
        assert len(set(columns.sender.tolist())) == 1


def test_id_does_not_depend_on_what_is_no_identity() -> None:
    """Names, header ids, other attributes and the order of attributes do not enter where there are keys enough."""
    first = columns_of(request_of(espan_of(pid=1)))
    same = span_of([("pid", "1"), ("app_trace_id", "5"), ("x", 1), *reversed(REQUIRED.items())], name="n")
    second = columns_of(request_of(same))
    assert first.span_id.tolist() == second.span_id.tolist()
    assert first.digest.tolist() != second.digest.tolist()


IDENTITY = ("thread_trace_id", "pid", "tid", "tid_usr", "ktime", "start", "duration", "src_port", "dst_port")


@pytest.mark.parametrize("key", [*IDENTITY, "req_seq", "resp_seq"])
def test_every_key_of_the_identity_counts(key: str) -> None:
    """Another number makes another id."""
    ids = {int(columns_of(request_of(espan_of(**{key: number}))).span_id[0]) for number in (1, 2)}
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["src_ip", "dst_ip"])
def test_addresses_count(key: str) -> None:
    """IPv4 as a number, other text by its hash."""
    texts = ("10.0.0.1", "10.0.0.2", "::1", "db")
    ids = {int(columns_of(request_of(espan_of(**{key: text}))).span_id[0]) for text in texts}
    assert len(ids) == len(texts)


@pytest.mark.parametrize(
    ("attributes", "times", "enough"),
    [
        ({"req_seq": 1, "resp_seq": 2}, {}, False),
        ({"req_seq": 1, "resp_seq": 2, "tid": 0}, {}, True),
        ({"req_seq": 1, "resp_seq": 2, "tid": "x"}, {}, False),
        ({"req_seq": 1, "resp_seq": 2, "tid": ""}, {}, False),
        ({"req_seq": 1, "resp_seq": 2, "app_trace_id": "1"}, {}, False),
        ({"req_seq": 1, "resp_seq": 2, "start": 0}, {}, False),
        ({"req_seq": 1, "resp_seq": 2, "start": 1}, {}, True),
        ({"req_seq": 1, "resp_seq": 2, "duration": 0}, {}, True),
        ({"req_seq": 1, "resp_seq": 2, "duration": -1}, {}, False),
        ({"req_seq": 1}, {"start_time_unix_nano": 5}, False),
        ({"req_seq": 1}, {"start_time_unix_nano": 5, "end_time_unix_nano": 5}, True),
        ({"req_seq": 1, "resp_seq": 2}, {"end_time_unix_nano": 5}, False),
    ],
)
def test_fewer_than_three_keys_make_the_digest_the_id(
    attributes: dict[str, int | str], times: dict[str, int], enough: bool
) -> None:
    """What of the identity is there, as the page counts it."""
    columns = columns_of(request_of(span_of(attributes, **times)))
    assert (int(columns.span_id[0]) != mix(int(columns.digest[0]))) == enough


def test_own_span_id_comes_first() -> None:
    """Also of an eSpan."""
    assert columns_of(request_of(span_of(REQUIRED, span_id=b"\0" * 7 + b"\x09"))).span_id.tolist() == [9]


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_digest_is_xxh64(text: bytes, digest: int) -> None:
    """Known answers of the reference implementation, of the kernel and of its twin."""
    start, size = np.array([0], np.int64), np.array([len(text)], np.int64)
    for cutting in (cut_out, cut_out_plain) if text else ():
        assert cutting((text,), start, size)[1].tolist() == [digest]
    assert digests(text, np.array([0, len(text)], np.int64)).tolist() == [digest]


@pytest.mark.parametrize("offsets", [[], [2, 1], [-1, 1], [0, 4], [0, 2, 1, 3]])
def test_digests_outside_the_data_are_refused(offsets: list[int]) -> None:
    """Offsets are checked before anything is read."""
    with pytest.raises(ValueError, match="digests: offsets"):
        digests(b"abc", np.array(offsets, np.int64))


def test_example_is_one_request() -> None:
    """The page shows JSON that a sender could send."""
    assert list(json.loads(example())) == ["resourceSpans"]
