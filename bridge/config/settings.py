"""The settings, table by table. Descriptions here are what errors, docs and the JSON schema say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from bridge.config.attributes import AttributesSettings
from bridge.config.exporters import ExporterSettings
from bridge.config.fields import (
    Allowed,
    Count,
    CountOrZero,
    FilePath,
    Host,
    HostNames,
    LargeSize,
    LargeSizeOrZero,
    Nanoseconds,
    NanosecondsOrZero,
    Port,
    Processes,
    Quota,
    Seconds,
    SecondsOrZero,
    Share,
)
from bridge.config.receivers import ReceiversSettings
from bridge.config.security import HttpTlsSettings, ListenerSettings
from bridge.config.table import Table
from bridge.config.telemetry import TelemetrySettings

S = 10**9
LATE_WINDOWS = 3
TraceUrl: TypeAlias = Annotated[
    str,
    Field(pattern=r"^https?://[^\s]+\{trace_id\}[^\s]*$"),
    Allowed('an address with {trace_id} in it, such as "http://localhost:16686/trace/{trace_id}"'),
]


class EbpftraceSettings(Table):
    """What is linked and how much of it is kept, under the names DataKit gives it. There is one such table at most."""

    db_path: FilePath = Field(
        default=Path("data"),
        description="Folder of the store; made where it is missing, owned by one bridge at a time.",
    )
    use_app_trace_id: bool = Field(
        default=True,
        description="Keep trace ids that agents put into request headers; false makes every trace id anew.",
    )
    window_ns: Nanoseconds = Field(
        default=20 * S,
        alias="window",
        description="A trace leaves when nothing has joined it for this long. eBPF agents hold spans back for 10-20 s.",
    )
    sampling_rate: Share = Field(
        default=0.1, description="Share of traces to keep where no request header decides: 0.0 keeps none, 1.0 all."
    )
    sqlite_path: str | None = Field(
        default=None, description="Deprecated name of db_path in DataKit; accepted with a warning, and ignored."
    )


def _one_table(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 1:
        raise ValueError("not one table")
    return tuple(value)


class InputsSettings(Table):
    """Inputs, as DataKit writes them."""

    ebpftrace: Annotated[
        tuple[EbpftraceSettings], BeforeValidator(_one_table), Allowed("one table, written [[inputs.ebpftrace]]")
    ] = Field(default=(EbpftraceSettings(),), description="The linker's input.")


class LinkerSettings(Table):
    """How spans become traces."""

    clock_slack_ns: NanosecondsOrZero = Field(
        default=50 * 10**6,
        alias="clock_slack",
        description="How far the clocks of two hosts may differ when times are compared.",
    )
    late_window_ns: Nanoseconds | None = Field(
        default=None,
        alias="late_window",
        description="How long a trace that has left is remembered, so that late spans still join it: those that come "
        "at most late_window less window after it left, as they wait a window themselves. "
        f"Unset: {LATE_WINDOWS} windows.",
    )
    max_trace_age_ns: Nanoseconds = Field(
        default=600 * S, alias="max_trace_age", description="A trace leaves at this age, even if spans still join it."
    )
    max_trace_spans: Count = Field(
        default=20_000, description="A trace leaves at this size, even if spans still join it."
    )
    sampling_flags: Literal["honour", "ignore"] = Field(
        default="honour",
        description="Whether sampling flags that agents found in request headers decide before sampling_rate does. "
        "Today's agents say keep for every W3C request, whatever its flag: with honour all of those are kept; "
        "ignore leaves every trace to sampling_rate.",
    )
    datadog_reject: Literal["honour", "undecided"] = Field(
        default="honour",
        description="What a reject of a DataDog request means. Today's agents say reject also where the request had no "
        "x-datadog-sampling-priority, which rejects its whole trace; undecided leaves those to sampling_rate.",
    )
    app_trace_scope: Literal["downstream", "trace"] = Field(
        default="downstream",
        description="Which eSpans get a trace id from request headers: downstream, those whose own request had it and "
        "those below; trace, also those above where one such id alone is found in the trace, so that callers without "
        "instrumentation are in the trace of the instrumented service they call.",
    )
    timing: bool = Field(
        default=True,
        description="Whether threads are checked, and timing may tell parents that neither numbers nor threads tell.",
    )
    min_confidence: Share = Field(
        default=0.5,
        description="How sure an edge found by timing has to be; below it a span stays without a parent.",
    )
    timing_budget: Count = Field(
        default=10_000_000,
        description="Pairs of an exit without a parent and an entry that was open when it began, looked at by timing "
        "at a time; processes with few of them come first, exits of those beyond stay alone and are counted.",
    )
    tick_s: Seconds = Field(default=0.5, alias="tick", description="How often to look for traces that may leave.")
    max_waiting_spans: Count = Field(
        default=4_000_000,
        description="Spans that may wait for their trace to be whole; beyond it senders are pushed back.",
    )
    max_retained_spans: Count = Field(
        default=6_000_000,
        description="Spans kept in memory, about 170 bytes each: those that wait and those that left. Beyond it those "
        "that left longest ago are forgotten before late_window has passed, so that late spans do not find them.",
    )


class StoreSettings(Table):
    """The SQLite store in db_path."""

    synchronous: Literal["full", "normal"] = Field(
        default="full",
        description="full: what was acknowledged survives a power cut; normal: it survives a crash of the process.",
    )
    flush_on_stop: bool = Field(
        default=False, description="Let open traces leave when the bridge stops, instead of after its next start."
    )
    queue_bytes: LargeSize = Field(
        default=64 << 20, description="Batches that may wait for their commit; beyond it receivers wait."
    )
    payload_cache_bytes: LargeSize = Field(
        default=4 << 20, description="Memory for stored spans that are soon to be exported, to save reading them back."
    )
    max_bytes: Quota = Field(
        default=20 << 30,
        description="What the files of the store may take, all together. Near it senders are pushed back until "
        "exporters have delivered; ticks and cursors go on in a reserve of a sixteenth, 256MiB at most.",
    )
    at_quota: Literal["push_back", "drop_oldest"] = Field(
        default="push_back",
        description="What gives way near max_bytes. push_back: senders wait, nothing acknowledged is lost. "
        "drop_oldest: exporters that lag give up their oldest undelivered spans, counted as lost by reason quota.",
    )
    min_free_bytes: LargeSizeOrZero = Field(
        default=1 << 30,
        description="What is to be left free on the file system of db_path, but no more than an eighth of it; below, "
        "senders are pushed back.",
    )
    lock_wait_s: SecondsOrZero = Field(
        default=30.0,
        alias="lock_wait",
        description="How long a start waits for another bridge to let go of db_path: longer than a stop takes.",
    )


class WebSettings(ListenerSettings):
    """The bridge's page, its data (/api), health (/healthz, /readyz) and metrics (/metrics)."""

    enabled: bool = Field(default=True, description="Whether to listen at all.")
    host: Host = Field(default="localhost", description='Where to listen; "0.0.0.0" or "::" for every network.')
    port: Port = Field(default=4319, description="Port to listen on.")
    max_connections: Count = Field(
        default=100, description="Connections at once; further ones are closed as they come."
    )
    keep_traces: CountOrZero = Field(
        default=1000,
        description="Traces kept in memory for the page, in 64 MiB at most and in 4 % of memory_limit; 0: none. Under "
        "load not every trace is kept: reading them may take a hundredth of a core while somebody looks at them, and a "
        "fifth of that else.",
    )
    allowed_hosts: HostNames = Field(
        default=(),
        description="Names by which browsers may ask for the page and its data where there are no tokens, besides "
        'addresses, localhost, the machine\'s name and host; "*": any. Others are answered 421, since a site could '
        "have its own name lead here and read along. /healthz, /readyz and /metrics answer to every name.",
    )
    trace_url: TraceUrl | None = Field(
        default=None,
        description="Address of a trace in the backend's own page, with {trace_id} where its id stands.",
    )
    tls: HttpTlsSettings = Field(default=HttpTlsSettings(), description="TLS files.")


class Settings(Table):
    """Everything the bridge can be told."""

    shutdown_grace_s: SecondsOrZero = Field(
        default=10.0,
        alias="shutdown_grace",
        description="How long a stop may take to answer and deliver what is under way.",
    )
    workers: Processes = Field(
        default=1,
        description="Processes that take spans in, on the same ports; more than one where a core is not enough. "
        "Senders are spread over them by connection.",
    )
    memory_limit_bytes: LargeSize | None = Field(
        default=None,
        alias="memory_limit",
        description="Memory of all of the bridge's processes together, which senders are pushed back to keep: every "
        "bound below is lowered to what fits in. Unset: 80 % of what the container may have, 2GiB without a limit.",
    )
    inputs: InputsSettings = Field(default=InputsSettings(), description="Inputs, as DataKit writes them.")
    receivers: ReceiversSettings = Field(default=ReceiversSettings(), description="Where senders reach the bridge.")
    attributes: AttributesSettings = Field(default=AttributesSettings(), description="Rules for attributes, by name.")
    linker: LinkerSettings = Field(default=LinkerSettings(), description="How spans become traces.")
    exporters: Mapping[str, ExporterSettings] = Field(
        default={}, description="Where traces go: one table each, [exporters.NAME], told apart by its type."
    )
    store: StoreSettings = Field(default=StoreSettings(), description="The store.")
    telemetry: TelemetrySettings = Field(default=TelemetrySettings(), description="Logs.")
    web: WebSettings = Field(default=WebSettings(), description="The page, health and metrics.")

    @property
    def ebpftrace(self) -> EbpftraceSettings:
        """The one [[inputs.ebpftrace]] table."""
        return self.inputs.ebpftrace[0]

    @property
    def window_ns(self) -> int:
        """How long nothing may join a trace before it leaves."""
        return self.ebpftrace.window_ns

    @property
    def late_window_ns(self) -> int:
        """`linker.late_window`, or what it is when it is left out."""
        late_ns = self.linker.late_window_ns
        return LATE_WINDOWS * self.window_ns if late_ns is None else late_ns
