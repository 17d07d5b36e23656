"""Traces of eSpans as a real Jaeger shows them."""

from pathlib import Path

import pytest

from examples.mixed import mixed_requests
from tests.interop.jaegers import running_jaeger
from tests.interop.sending import post
from tests.support.bridge_process import Setup, running, started
from tests.support.received import read_truth, score
from tests.support.senders import BOUTIQUE, recorded_lines, stock_stub

RECORDED = read_truth(BOUTIQUE / "truth.csv")


@pytest.mark.parametrize("kind", ["otlp_grpc", "otlp_http"])
async def test_jaeger_returns_the_true_trees(tmp_path: Path, jaeger_program: Path, kind: str) -> None:
    """Recorded eSpans through the bridge: Jaeger's query API has every span once, under its true parent."""
    async with running_jaeger(jaeger_program, tmp_path) as jaeger:
        port = jaeger.grpc if kind == "otlp_grpc" else jaeger.http
        async with running(Setup(tmp_path, window="3s").export_to("jaeger", kind, port)) as bridge:
            await post(recorded_lines("agent"), f"http://{bridge.address('otlp_http')}")
            result = score(RECORDED, await jaeger.spans_once(len(RECORDED)))
    assert (result.delivered, result.unknown) == (len(RECORDED), 0)
    assert (result.recall, result.precision, result.whole_traces) == (1.0, 1.0, 1.0)


async def test_an_instrumented_service_between_two_that_are_not_is_in_one_trace(
    tmp_path: Path, jaeger_program: Path
) -> None:
    """The SDK's spans of the one in the middle, and the eSpans of all three: one trace, every parent right."""
    sample = mixed_requests()
    async with running_jaeger(jaeger_program, tmp_path) as jaeger:
        config = Setup(tmp_path, window="2s").export_to("jaeger", "otlp_grpc", jaeger.grpc).write()
        config.write_text(config.read_text().replace("[linker]\n", '[linker]\napp_trace_scope = "trace"\n', 1))
        async with started(config) as bridge:
            await bridge.ready()
            async with stock_stub(bridge.address("otlp_grpc")) as stub:
                for request in sample.requests:
                    await stub.Export(request)
            spans = await jaeger.spans_once(sample.spans)
    assert {span.trace_id for span in spans} == {sample.trace_id}
    assert {span.span_id: span.parent_id for span in spans} == sample.parents
