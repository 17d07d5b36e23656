"""Attribute rules in a running bridge: what they take off is nowhere afterwards, by whatever way it came."""

import json
import re
from pathlib import Path

import aiohttp
import anyio
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import RETRY, Bridge, Setup, running
from tests.support.dataway import running_dataway
from tests.support.point_bodies import JSON, LINES, PROTOBUF, body_of, espan_point
from tests.support.sink import running_sink

DROPPED, QUERY, HASHED, LONG, KEPT = (f"{what}-7f3a91c2" for what in ("dropped", "query", "hashed", "long", "kept"))
RULES = """
[attributes]
drop = ["user.name", "user_name"]
strip_query = ["url.full", "span.name"]
hash = ["enduser.id", "enduser_id"]
hash_key = "0123456789abcdef"
truncate = {"db.query.text" = 7}
"""
VALUES = {
    "user.name": DROPPED,
    "url.full": f"http://x/y?{QUERY}",
    "enduser.id": HASHED,
    "db.query.text": f"SELECT {LONG}",
    "other": KEPT,
}
POINT_KEYS = {
    "user.name": "user_name",
    "url.full": "http_url",
    "enduser.id": "enduser_id",
    "db.query.text": "db_statement",
}
GONE = re.compile(rb"(dropped|query|hashed|long)-7f3a91c2")
NUMBER_OF_SPANS = 5
WAIT_S = 20.0


def otlp(last: int) -> dict[str, object]:
    """One ordinary span that says all of it everywhere, as OTLP/JSON."""
    said = [{"key": key, "value": {"stringValue": text}} for key, text in VALUES.items()]
    span = {
        "traceId": f"{last:032x}",
        "spanId": f"{last:016x}",
        "name": f"GET /y?{QUERY}",
        "attributes": said,
        "events": [{"name": "e", "attributes": said}],
        "links": [{"traceId": "1" * 32, "attributes": said}],
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
    }
    scope = {"scope": {"name": "s", "attributes": said}, "spans": [span]}
    return {"resourceSpans": [{"resource": {"attributes": said}, "scopeSpans": [scope]}]}


def otlp_protobuf(last: int) -> bytes:
    """The same for another span, as protobuf."""
    made = ExportTraceServiceRequest()
    json_format.ParseDict(otlp(last), made)
    span = made.resource_spans[0].scope_spans[0].spans[0]
    span.trace_id, span.span_id = last.to_bytes(16), last.to_bytes(8)
    span.links[0].trace_id = b"\1" * 16
    return made.SerializeToString()


def points() -> list[tuple[str, bytes]]:
    """Three points that say it, in every form."""
    values: dict[str, str | int] = {POINT_KEYS.get(key, key): text for key, text in VALUES.items()}
    values |= {"resource": f"GET /y?{QUERY}", "start": 10**15, "duration": 5}
    said: list[dict[str, str | int]] = [
        {**values, "ebpf_span_type": "entry", "direction": "incoming", "req_seq": n, "resp_seq": n} for n in (21, 22)
    ]
    fields = ",".join(f"{k}={json.dumps(v)}" if isinstance(v, str) else f"{k}={v}i" for k, v in said[1].items())
    return [
        (PROTOBUF, body_of(espan_point(**values, req_seq=20))),
        (JSON, json.dumps([{"measurement": "dketrace", "tags": {}, "fields": said[0], "time": 1}]).encode()),
        (LINES, f"dketrace {fields} 1".encode()),
    ]


async def send_all(bridge: Bridge) -> None:
    """The span in every form there is."""
    traces, agents = (
        f"http://{bridge.address(n)}/{p}" for n, p in (("otlp_http", "v1/traces"), ("datakit", "v1/bpftracing"))
    )
    sent = [
        (traces, "application/json", json.dumps(otlp(5)).encode()),
        (traces, "application/x-protobuf", otlp_protobuf(6)),
        *((agents, kind, body) for kind, body in points()),
    ]
    async with aiohttp.ClientSession() as session:
        for url, kind, body in sent:
            async with session.post(url, data=body, headers={"Content-Type": kind}) as answer:
                assert answer.status == 200, await answer.text()


async def counted(bridge: Bridge, line: str) -> None:
    """Return once /metrics has this line: ingest processes report once a second."""
    with anyio.fail_after(WAIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{bridge.address('web')}/metrics") as answer:
                    if line in await answer.text():
                        return
                await anyio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_rules_take_off_is_nowhere(tmp_path: Path, delivered: Delivered, workers: int) -> None:
    """Not at a backend, in a file or in the store: from OTLP or points, protobuf, JSON or lines; the rest is there."""
    async with running_sink() as sink, running_dataway() as dataway:
        setup = Setup(tmp_path, window="2s", workers=workers).export_to("otlp", "otlp_grpc", sink.grpc_port)
        setup.export_to_file(tmp_path / "lines.jsonl")
        setup.exporters += f'\n[exporters.guance]\ntype = "dataway"\nurl = "{dataway.url}"\n{RETRY}\n'
        setup.exporters += '\n[receivers.datakit]\nhost = "127.0.0.1"\nport = 0\n' + RULES
        async with running(setup) as bridge:
            await send_all(bridge)
            stored = b"".join(path.read_bytes() for path in sorted((tmp_path / "store").iterdir()) if path.is_file())
            # spans say it on the span, an event, a link, their resource and their scope
            await counted(bridge, 'attributes_changed_total{action="drop"} 13.0')
            await delivered(sink, NUMBER_OF_SPANS)
            with anyio.fail_after(WAIT_S):
                while dataway.totals().distinct < NUMBER_OF_SPANS:
                    dataway.arrived.clear()
                    await dataway.arrived.wait()
            assert await bridge.stop() == 0
    for where, text in {
        "store": stored,
        "otlp": b"".join(sink.bodies),
        "guance": repr(dataway.points).encode(),
        "file": (tmp_path / "lines.jsonl").read_bytes(),
        "log": json.dumps(bridge.log).encode(),
    }.items():
        assert GONE.search(text) is None, (where, GONE.search(text))
        assert where == "log" or KEPT.encode() in text, where
    hashes = {str(point.all["enduser_id"]) for point in dataway.points if "enduser_id" in point.all}
    assert len(hashes) == 1
    assert hashes.pop().encode() in b"".join(sink.bodies)
    assert {point.all["http_url"] for point in dataway.points} == {"http://x/y"}
    assert {point.all["db_statement"] for point in dataway.points} == {"SELECT "}
