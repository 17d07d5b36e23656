"""Any headers: whatever a client sends says something sound, or nothing."""

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codec.headers import read_headers
from bridge.spans import Encoding
from bridge.spans.profiles import HEADERS

digits = st.text("0123456789abcdefABCDEF", max_size=40)
pieces = st.one_of(
    digits, st.integers(-(2**65), 2**65).map(str), st.sampled_from(["00", "01", "ff", "d", "", "_dd.p.tid="])
)
joined = st.builds(
    lambda parts, by: by.join(parts),
    st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=9),
    st.sampled_from("-:,.="),
)
encoded = st.builds(
    lambda flag, a, b, n: f"{flag}-{b64encode(a.encode()).decode()}-{b64encode(b.encode()).decode()}-{n}-a-b-c-d",
    st.sampled_from("01x"),
    joined,
    joined,
    st.integers(-1, 2**40),
)
texts = st.one_of(joined, encoded, st.text(max_size=60))
ids = st.integers(1, 2**128 - 1)
parents = st.integers(1, 2**64 - 1)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(HEADERS), texts, max_size=6))
def test_garbage_says_nothing_unsound(headers: dict[str, str]) -> None:
    """Ids fit their columns, there is no parent and no way of writing without a trace, and nothing is raised."""
    found = read_headers(headers)
    assert 0 <= found.trace_id < 2**128
    assert 0 <= found.parent < 2**64
    assert found.flag in (-1, 0, 1)
    assert (found.encode != Encoding.ABSENT) == (found.trace_id != 0)
    assert found.trace_id or not found.parent


@settings(max_examples=100)
@given(ids, parents, st.booleans(), st.sampled_from(["w3c", "datadog", "b3", "multi", "jaeger"]))
def test_what_senders_write_is_read(trace_id: int, parent: int, kept: bool, form: str) -> None:
    """Every format with any ids."""
    trace, span, flag = f"{trace_id:032x}", f"{parent:016x}", str(int(kept))
    low = trace_id % 2**64
    headers = {
        "w3c": {"traceparent": f"00-{trace}-{span}-0{flag}"},
        "datadog": {
            "x-datadog-trace-id": str(low),
            "x-datadog-parent-id": str(parent),
            "x-datadog-sampling-priority": flag,
            "x-datadog-tags": f"_dd.p.dm=-0,_dd.p.tid={trace[:16]}",
        },
        "b3": {"b3": f"{trace}-{span}-{flag}"},
        "multi": {"x-b3-traceid": trace, "x-b3-spanid": span, "x-b3-sampled": flag},
        "jaeger": {"uber-trace-id": f"{trace_id:x}:{parent:x}:0:{flag}"},
    }[form]
    found = read_headers(headers)
    if form == "datadog" and not low:
        assert found.trace_id == 0
        return
    assert (found.trace_id, found.parent) == (trace_id, parent)
    refused = {"w3c": 0, "jaeger": 0}.get(form, -1)
    assert found.flag == (1 if kept else refused)
