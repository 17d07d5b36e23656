"""What rules do to batches: names of the same thing, surroundings, and what linking read before."""

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from bridge.codec.attribute_rules import Action, AttributeRules, Rule, same_names, widened
from bridge.codec.otlp_protobuf import decode_request
from bridge.codec.points import mapping
from bridge.codec.points.point_pb2 import PBPoint
from bridge.spans import convention
from bridge.spans.needed import NEEDED
from tests.support.point_bodies import decoded, espan_point


def attributes(**values: str) -> list[KeyValue]:
    return [KeyValue(key=key.replace("__", "."), value=AnyValue(string_value=text)) for key, text in values.items()]


def request(**values: str) -> ExportTraceServiceRequest:
    """Two ordinary spans with these attributes, on their resource and scope too."""
    found = ExportTraceServiceRequest()
    resource = found.resource_spans.add(schema_url="url")
    resource.resource.attributes.extend(attributes(host__name="h", **values))
    scope = resource.scope_spans.add()
    scope.scope.attributes.extend(attributes(**values))
    for i in (1, 2):
        scope.spans.add(trace_id=b"t" * 16, span_id=bytes(7) + bytes([i]), name="n", attributes=attributes(**values))
    return found


def test_surroundings_are_changed_as_spans_are() -> None:
    """Resource and scope leave as the rules say, everything beside the attribute as it came."""
    batch = decode_request(request(user="karl", other="x").SerializeToString(), peer="p").batch
    block, counts = AttributeRules([Rule("user", Action.DROP)]).applied(batch.payload)
    want = decode_request(request(other="x").SerializeToString(), peer="p").batch.payload
    assert block.data == want.data
    assert block.offsets.tolist() == want.offsets.tolist()
    assert [ResourceSpans.FromString(c.resource_spans) for c in block.contexts] == [
        ResourceSpans.FromString(c.resource_spans) for c in want.contexts
    ]
    assert [ScopeSpans.FromString(c.scope_spans) for c in block.contexts] == [
        ScopeSpans.FromString(c.scope_spans) for c in want.contexts
    ]
    assert counts == {Action.DROP: 4}


def test_a_batch_that_no_rule_changes_is_the_same_object() -> None:
    """Nothing is copied for nothing."""
    payload = decode_request(request(other="x").SerializeToString(), peer="p").batch.payload
    block, counts = AttributeRules([Rule("user", Action.HASH)]).applied(payload)
    assert block is payload
    assert not counts


def test_linking_reads_what_came() -> None:
    """An address that is hashed was compared before: the columns are those of the point as it was sent."""
    batch = decoded(espan_point(src_ip="10.0.0.7", user="karl")).batch
    block, _ = AttributeRules([Rule("src_ip", Action.HASH)], key=b"k" * 16).applied(batch.payload)
    left = batch.with_payload(block)
    assert {f.key: f.s for f in PBPoint.FromString(left.payload.span(0)).fields}["src_ip"] != "10.0.0.7"
    for (_, was), (_, now) in zip(batch.columns.items(), left.columns.items(), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("url.full", {"http.url", "http_url"}),
        ("http_url", {"http.url", "url.full"}),
        ("url.path", {"url_path", "http.target", "http_route"}),
        ("host", {"host.name"}),
        ("client.address", {"client_address", "http.client_ip", "src_ip", "dst_ip"}),
        ("span.name", {"resource"}),
        ("process.pid", set()),
        ("whatever", set()),
        ("db.query*", {"db.query.text", "db_statement", "db.statement"}),
    ],
)
def test_a_rule_reaches_the_other_names_of_the_same_thing(name: str, others: set[str]) -> None:
    """Points and OTLP, old names and new; keys that spans need to be a trace are never among them."""
    assert same_names(name) == {name} | others


def test_what_a_rule_names_itself_comes_before_what_another_reaches() -> None:
    """Of two that reach the same name, the one that leaves less counts."""
    rules = widened([Rule("url.full", Action.DROP), Rule("http.url", Action.TRUNCATE, 5)])
    assert {rule.name: rule.actions for rule in rules} == {
        "url.full": Action.DROP,
        "http.url": Action.TRUNCATE,
        "http_url": Action.DROP,
    }
    rules = widened([Rule("http*", Action.DROP), Rule("url.full", Action.TRUNCATE, 5)])
    assert {r.name for r in rules if r.actions == Action.TRUNCATE} == {"url.full"}


def test_needed_names_are_those_that_linking_reads_or_writes() -> None:
    """The tables elsewhere name them too; an address may be changed."""
    written = {key.decode() for key in mapping.REPLACED_KEYS} | mapping.DECIDED_KEYS | {mapping.SPAN_LINKS}
    assert {*convention.KEY_OF_BIT, *written} - NEEDED == {"src_ip", "dst_ip"}
    assert {*convention.KEY_OF_BIT, *written} >= NEEDED
