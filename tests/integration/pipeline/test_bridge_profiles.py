"""Spans of other agents through the whole bridge, by the profiles of its settings; and offline."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge import cli
from bridge.config import load
from bridge.pipeline.run import Bridge
from bridge.telemetry.metrics import running_metrics
from tests.support.profiles import CHAIN, deepflow_request, used
from tests.support.received import Received, spans_of, spans_of_lines
from tests.support.senders import stock_stub
from tests.support.sink import running_sink

CONFIG = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "1h"
sampling_rate = 1.0
[linker]
max_trace_age = "1h"
[receivers]
profiles = {profiles}
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
enabled = false
[web]
enabled = false
[store]
flush_on_stop = true
[exporters.backend]
type = "otlp_grpc"
endpoint = "http://127.0.0.1:{sink}"
"""


async def through_the_bridge(folder: Path, profiles: str, *, older: bool) -> list[Received]:
    """What a backend has of spans of DeepFlow."""
    path = folder / "bridge.toml"
    with used():
        async with running_sink() as sink:
            path.write_text(CONFIG.format(folder=folder, sink=sink.grpc_port, profiles=profiles))
            with running_metrics("0") as metrics:
                async with (
                    Bridge(load(path, {}).settings, metrics).running() as addresses,
                    stock_stub(addresses["otlp_grpc"]) as stub,
                ):
                    await stub.Export(deepflow_request(*CHAIN, older=older))
            return sorted(spans_of(sink.bodies), key=lambda span: span.span_id)


def assert_linked(spans: list[Received]) -> None:
    """The first service asks the second, which asks the third."""
    assert [int(span.span_id, 16) for span in spans] == [1, 2, 3, 4]
    assert [int(span.parent_id or "0", 16) for span in spans] == [0, 1, 2, 3]
    assert [span.method for span in spans] == ["", "seq", "thread", "seq"]
    assert len({span.trace_id for span in spans}) == 1


@pytest.mark.parametrize("older", [False, True])
async def test_spans_of_deepflow_become_a_trace(tmp_path: Path, older: bool) -> None:
    """With TCP numbers on the resource or on the span; what DeepFlow said of them is still there."""
    spans = await through_the_bridge(tmp_path, '["deepflow"]', older=older)
    assert_linked(spans)
    left = {a.key: a.value for a in Span.FromString(spans[2].data).attributes}
    assert left["df.span.syscall_trace_id_request"].int_value == 7001
    assert 0 < left["espan.link.confidence"].double_value <= 1


async def test_without_the_profile_they_are_ordinary_spans(tmp_path: Path) -> None:
    """They pass as they came."""
    spans = await through_the_bridge(tmp_path, "[]", older=False)
    sent = [s for r in deepflow_request(*CHAIN).resource_spans for s in r.scope_spans[0].spans]
    assert [span.data for span in spans] == [span.SerializeToString() for span in sent]


def test_offline_they_are_linked_by_the_same_profile(tmp_path: Path) -> None:
    """`espan-bridge link --profile`; a profile that is none is told as settings are."""
    source = tmp_path / "deepflow.pb"
    source.write_bytes(deepflow_request(*CHAIN).SerializeToString())
    with used():
        result = CliRunner().invoke(cli.main, ["link", str(source), "--output", "-", "--profile", "deepflow"])
        assert result.exit_code == 0
        assert_linked(sorted(spans_of_lines(result.stdout.splitlines()), key=lambda span: span.span_id))
        result = CliRunner().invoke(cli.main, ["link", str(source), "--output", "-", "--profile", "deepflows"])
    assert (result.exit_code, 'did you mean "deepflow"' in result.stderr) == (2, True)
