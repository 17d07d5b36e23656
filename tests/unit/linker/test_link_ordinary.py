"""Ordinary spans in docs/linking.md: eSpans hang under those that their headers name, and say where two traces meet."""

from bridge.spans import Kind, Method
from tests.support.link_scenes import KEEP_ALL, Row, client, net, scene, scene_after, server

TRACE = {"trace_lo": 77}
HEADER = {"app_trace_lo": 77, "app_encode": 1}


def ordinary(span_id: int, parent: int = 0) -> Row:
    """A span of an instrumented service, of trace 77."""
    return {"kind": Kind.ORDINARY, "span_id": span_id, "sent_span_id": 0, "parent_id": parent, **TRACE}


def test_span_goes_under_the_ordinary_span_its_headers_name() -> None:
    """The instrumented client made the call, inside the entry that the agent saw."""
    entry = server(**net(1), **HEADER, app_parent=500, thread_trace_id=3, span_id=10)
    leaving = client(**net(2), **HEADER, app_parent=501, thread_trace_id=3, span_id=11)
    served = server(**net(2), **HEADER, app_parent=501, span_id=12)
    found = scene(ordinary(501, parent=502), entry, leaving, served)
    assert found.exported_parents == [502, 500, 501, 11]
    assert found.methods[2:] == [Method.HEADER, Method.SEQ]
    assert found.parents == [-1, -1, 1, 2]


def test_ordinary_span_that_is_not_there_names_nothing() -> None:
    """Then the span keeps the predecessor that is in the header's trace already."""
    entry = server(**net(1), **HEADER, app_parent=500, thread_trace_id=3, span_id=10)
    leaving = client(**net(2), **HEADER, app_parent=501, thread_trace_id=3, span_id=11)
    assert scene(entry, leaving).exported_parents == [500, 10]


def test_ordinary_span_that_left_is_known() -> None:
    """Ordinary spans leave at once; what names them later goes under them still, and the other side after that."""
    entry = server(**net(1), **HEADER, app_parent=500, thread_trace_id=3, span_id=10)
    leaving = client(**net(2), **HEADER, app_parent=501, thread_trace_id=3, span_id=11)
    served = server(**net(2), **HEADER, app_parent=501, span_id=12)
    assert scene_after([ordinary(501)], now=[entry, leaving, served]).exported_parents == [0, 500, 501, 11]
    assert scene_after([ordinary(501), entry, leaving], now=[served]).exported_parents == [0, 500, 501, 11]


def test_span_link_where_two_traces_meet() -> None:
    """A span with header ids says which eBPF span came before it, if that is exported under another trace id."""
    entry = server(**net(1), thread_trace_id=3, span_id=10)
    leaving = client(**net(2), **HEADER, app_parent=501, thread_trace_id=3, span_id=11)
    served = server(**net(2), **HEADER, app_parent=501, span_id=12)
    found = scene(entry, leaving, served)
    assert found.exported_parents[1:] == [501, 11]
    assert found.span_links == {(1, found.traces[0], 10)}


def test_no_span_link_inside_one_trace() -> None:
    """Nor where header ids are not used."""
    entry = server(**net(1), **HEADER, thread_trace_id=3)
    leaving = client(**net(2), **HEADER, app_parent=501, thread_trace_id=3)
    assert scene(entry, leaving).span_links == set()
    options = type(KEEP_ALL)(sampling_rate=1.0, use_app_trace_id=False)
    assert scene(server(**net(1), thread_trace_id=3), leaving, options=options).span_links == set()


def test_ordinary_spans_never_change() -> None:
    """Whatever names them."""
    found = scene(ordinary(501, parent=502), client(**net(2), **HEADER, app_parent=501))
    assert (found.traces[0], found.exported_parents[0], found.methods[0]) == ((0, 77), 502, Method.NONE)
