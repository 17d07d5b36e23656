"""From settings to parts: what was asked for is there, with its values."""

from pathlib import Path

from bridge.config import Settings, load
from bridge.exporters import ConsoleExporter, FileExporter
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.linker import LinkOptions, WindowOptions
from bridge.pipeline.build import build_deliveries, build_receivers, build_store, link_options, window_options
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments

EXPORTERS = """
[exporters.tempo]
type = "otlp_grpc"
endpoint = "http://tempo:4317"
headers = { authorization = "Bearer s3cret" }
[exporters.jaeger]
type = "otlp_http"
traces_endpoint = "https://jaeger/api/traces?key=s3cret"
[exporters.guance]
type = "dataway"
url = "https://openway.guance.com?token=tkn_s3cret"
[exporters.lines]
type = "file"
path = "out/traces.jsonl"
[exporters.trees]
type = "console"
"""
LINKER = """
[[inputs.ebpftrace]]
use_app_trace_id = false
window = "3s"
sampling_rate = 0.25
[linker]
clock_slack = "7ms"
late_window = "11s"
max_trace_age = "1m"
max_trace_spans = 77
max_retained_spans = 78
sampling_flags = "ignore"
datadog_reject = "undecided"
app_trace_scope = "trace"
timing = false
min_confidence = 0.75
timing_budget = 1000
"""


class Nobody:
    """A consumer nothing is handed to."""

    async def consume(self, batch: SpanBatch) -> None:
        raise AssertionError(batch)


def settings_of(folder: Path, text: str) -> Settings:
    path = folder / "bridge.toml"
    path.write_text(text)
    return load(path, {}).settings


def test_every_exporter_has_a_delivery_under_its_name(tmp_path: Path) -> None:
    """In the order of the file, each of its type; nothing is opened yet."""
    settings = settings_of(tmp_path, EXPORTERS)
    deliveries = build_deliveries(settings, build_store(settings, Instruments()), Instruments())
    assert [(d.exporter.name, type(d.exporter)) for d in deliveries] == [
        ("tempo", OtlpGrpcExporter),
        ("jaeger", OtlpHttpExporter),
        ("guance", DatawayExporter),
        ("lines", FileExporter),
        ("trees", ConsoleExporter),
    ]


def test_addresses_are_the_settings_and_secrets_do_not_show(tmp_path: Path) -> None:
    """A traces_endpoint is used as it is; what is secret is no part of what an exporter shows."""
    settings = settings_of(tmp_path, EXPORTERS)
    tempo, jaeger, guance, *_ = (
        repr(d.exporter) for d in build_deliveries(settings, build_store(settings, Instruments()), Instruments())
    )
    assert tempo == "OtlpGrpcExporter('tempo', 'tempo:4317')"
    assert jaeger == "OtlpHttpExporter('jaeger', 'https://jaeger/api/traces')"
    assert guance == "DatawayExporter('guance', https://openway.guance.com)"


def test_every_setting_of_the_linker_reaches_it(tmp_path: Path) -> None:
    """None of them is at its default here."""
    settings = settings_of(tmp_path, EXPORTERS + LINKER)
    assert link_options(settings) == LinkOptions(
        use_app_trace_id=False,
        sampling_rate=0.25,
        clock_slack_ns=7_000_000,
        sampling_flags="ignore",
        datadog_reject="undecided",
        app_trace_scope="trace",
        min_confidence=0.75,
        timing_budget=1000,
    )
    assert window_options(settings) == WindowOptions(
        window_ns=3 * 10**9,
        late_window_ns=11 * 10**9,
        max_trace_age_ns=60 * 10**9,
        max_trace_spans=77,
        max_retained_spans=78,
    )


def test_receivers_are_those_that_are_enabled(tmp_path: Path) -> None:
    """With their addresses."""
    both = settings_of(tmp_path, EXPORTERS + "[receivers.otlp_http]\nhost = '::1'\nport = 14318\n")
    receivers = build_receivers(both, Nobody(), Instruments())
    assert [(type(r), r.address) for r in receivers] == [
        (GrpcReceiver, "localhost:4317"),
        (HttpReceiver, "[::1]:14318"),
    ]
    agents = settings_of(tmp_path, EXPORTERS + "[receivers.datakit]\nhost = '0.0.0.0'\nport = 9530\n")
    assert [(type(r), r.address) for r in build_receivers(agents, Nobody(), Instruments())][2:] == [
        (DatakitReceiver, "0.0.0.0:9530")
    ]
    one = settings_of(tmp_path, EXPORTERS + "[receivers.otlp_grpc]\nenabled = false\n")
    assert [type(r) for r in build_receivers(one, Nobody(), Instruments())] == [HttpReceiver]
