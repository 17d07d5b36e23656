"""Every instrument of the bridge, named like the Collector's where it has the same thing; see docs/metrics.md."""

from collections.abc import Callable, Mapping
from functools import partial

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpMeter, Observation

from bridge.telemetry.levels import Levels
from bridge.telemetry.own_traces import Tracer
from bridge.telemetry.tally import Tally

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def _observe_one(read: Callable[[], float], _: CallbackOptions) -> list[Observation]:
    return [Observation(read())]


class Instruments:
    """All counters and histograms, made once from a meter and handed to the parts. Without a meter they do nothing.

    docs/metrics.md lists them with their attributes; a test compares.
    """

    def __init__(self, meter: Meter | None = None, trace_sampling_rate: float = 0.0) -> None:
        """trace_sampling_rate: share of the bridge's own work that is traced."""
        m = self._meter = meter or NoOpMeter("bridge")

        def counter(name: str, unit: str, description: str) -> Tally:
            tally = Tally(name, unit, description)
            m.create_observable_counter(name, [tally.observe], unit, description)
            return tally

        def histogram(name: str, description: str) -> Histogram:
            return m.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=BUCKETS_S)

        self.accepted_spans = counter("receiver_accepted_spans", "{span}", "Spans committed and acknowledged")
        self.refused_spans = counter(
            "receiver_refused_spans", "{span}", "Spans of readable requests that were not taken, by reason"
        )
        self.refused_requests = counter("receiver_refused_requests", "{request}", "Requests not taken, by reason")
        self.closed_connections = counter(
            "listener_closed_connections", "{connection}", "Connections that a limit closed, by reason"
        )
        self.web_refused_requests = counter(
            "web_refused_requests", "{request}", "Requests for the page, its data and metrics not answered, by reason"
        )
        self.received_bytes = counter("receiver_received_bytes", "By", "Request bodies as they came over the wire")
        self.faulty_espans = counter(
            "receiver_faulty_espans", "{span}", "eSpans with a missing or unreadable key, by key; each is its own trace"
        )
        self.passed_requests = counter(
            "receiver_passed_requests", "{request}", "Requests of other signals than traces that a backend took"
        )
        self.held_requests = counter(
            "receiver_held_requests", "{request}", "Requests whose answer was held back until they could be taken"
        )
        self.forwarded_requests = counter(
            "receiver_forwarded_requests", "{request}", "Copies of requests that another linker took"
        )
        self.forward_dropped_requests = counter(
            "receiver_forward_dropped_requests", "{request}", "Copies for another linker that were dropped, by reason"
        )
        self.attributes_changed = counter(
            "attributes_changed", "{attribute}", "Attributes that a rule of [attributes] changed, by action"
        )
        self.sent_spans = counter("exporter_sent_spans", "{span}", "Spans the backend took")
        self.failed_spans = counter(
            "exporter_send_failed_spans", "{span}", "Spans the backend will never take, by reason: lost"
        )
        self.retries = counter("exporter_retries", "{attempt}", "Deliveries that failed and are tried again, by reason")
        self.left_spans = counter("linker_left_spans", "{span}", "Spans that left, by outcome")
        self.edges = counter("linker_edges", "{edge}", "Parent edges of exported spans, by method; method none: roots")
        self.left_traces = counter(
            "linker_left_traces", "{trace}", "eBPF traces that left, by verdict; late spans of a trace count it again"
        )
        self.left_groups = counter("linker_left_groups", "{group}", "Groups of spans that left together, by reason")
        self.oddities = counter(
            "linker_oddities",
            "{event}",
            "Loops broken, ids in conflict, late children, late parents and the like, by kind",
        )
        self.worker_restarts = counter(
            "ingest_process_restarts", "{restart}", "Ingest processes that ended and were started again, by number"
        )
        self.worker_hangs = counter(
            "ingest_process_hangs", "{hang}", "Ingest processes that said nothing any more and were killed, by number"
        )
        self.credential_reloads = counter(
            "credential_reloads", "{reload}", "Certificates and tokens that were read again, by part, kind and result"
        )
        self.lost_spans = counter(
            "store_lost_spans", "{span}", "Spans of which what was stored turned out damaged: lost, by reason"
        )
        self.dropped_log_events = counter(
            "log_events_dropped", "{event}", "Events of the bridge's log that were dropped, as nobody read them"
        )
        self.telemetry_requests = counter(
            "telemetry_export_requests", "{request}", "Requests with the bridge's own telemetry, by signal and result"
        )
        self.dropped_own_spans = counter(
            "telemetry_dropped_spans", "{span}", "Spans of the bridge's own traces that were dropped, by reason"
        )
        self.refused_batches = counter(
            "store_refused_batches", "{batch}", "Batches the store had no room for, by reason"
        )
        self.commit_duration = histogram("store_commit_duration", "Time one group commit took")
        self.tick_duration = histogram("linker_tick_duration", "Time one tick took, linking and commit")
        self.delivery_duration = histogram("exporter_delivery_duration", "Time one delivery attempt took")
        self.tracer = Tracer(trace_sampling_rate, self.dropped_own_spans)
        self.levels = Levels()
        """What listeners hold; shown by `watch_listeners`."""

    def closed_connections_of(self, listener: str) -> Callable[[str], None]:
        """What counts connections of this listener that a limit closed, by reason."""

        def count(reason: str) -> None:
            self.closed_connections.add(1, {"listener": listener, "reason": reason})

        return count

    def watch_waiting_spans(self, read: Callable[[], int]) -> None:
        """Report how many spans wait for their trace to be whole."""
        self._gauge(
            "linker_waiting_spans", "{span}", "Spans that wait for their trace to be whole", lambda: {"": read()}
        )

    def watch_retained_spans(self, read: Callable[[], int]) -> None:
        """Report how many spans are remembered, waiting ones included."""
        self._gauge("linker_retained_spans", "{span}", "Spans kept in memory for links to come", lambda: {"": read()})

    def watch_undelivered_ticks(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Report, by exporter, how many ticks it has not delivered yet."""
        self._gauge("exporter_queue_size", "{tick}", "Committed ticks an exporter has not delivered yet", read)

    def watch_oldest_undelivered(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Report, by exporter, how long ago the oldest tick left that it has not delivered, in seconds."""
        self._gauge("exporter_oldest_undelivered_age", "s", "Time since the oldest undelivered tick left", read)

    def watch_exporters(
        self,
        *,
        up: Callable[[], Mapping[str, int]],
        parked: Callable[[], Mapping[str, int]],
        last_success_s: Callable[[], Mapping[str, float]],
    ) -> None:
        """Report, by exporter, whether its backend takes spans, how many bodies it did not, when it took any last."""
        self._gauge("exporter_up", "1", "1 while the backend takes what it is given, 0 while it is asked in vain", up)
        self._gauge("exporter_parked_requests", "{request}", "Requests that were not taken and are tried again", parked)
        text = "When the backend took spans last, since the epoch; 0: not since the start"
        self._gauge("exporter_last_success_timestamp", "s", text, last_success_s)

    def watch_store(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Report what the files of the store take and may take, in bytes: `read` gives "used", "free" and "limit"."""
        for key, text in (
            ("used", "What the content of the store's files takes"),
            ("free", "Pages of the store's files that are free, to be used again or given back"),
            ("limit", "What the store's files may take (store.max_bytes)"),
        ):
            self._gauge(f"store_{key}", "By", text, lambda key=key: {"": read()[key]})  # type: ignore[misc]

    def watch_certificate_expiries(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Report, by part, when the certificate it shows expires, in seconds since the epoch."""

        def observe(_: CallbackOptions) -> list[Observation]:
            return [Observation(expires_s, {"part": part}) for part, expires_s in read().items()]

        text = "When the certificate a listener or an exporter shows expires, since the epoch"
        self._meter.create_observable_gauge("tls_certificate_expiry_timestamp", [observe], "s", text)

    def watch_memory(self, read: Callable[[], int], limit_bytes: int, pushes_back: Callable[[], bool]) -> None:
        """Report memory of all of the bridge's processes, its limit, and whether senders are pushed back for it."""
        for name, unit, description, value in (
            ("process_memory_rss", "By", "Resident memory of all of the bridge's processes", read),
            ("process_memory_limit", "By", "What resident memory is kept below (memory_limit)", lambda: limit_bytes),
            ("process_memory_pushing_back", "1", "1 while senders are pushed back since memory is full", pushes_back),
        ):
            self._gauge(name, unit, description, lambda value=value: {"": int(value())})  # type: ignore[misc]

    def watch_process(self, *, cpu_s: Callable[[], float], uptime_s: Callable[[], float], version: str) -> None:
        """Report CPU time of all of the bridge's processes, time since the start, and which version it is."""
        for name, description, read in (
            ("process_cpu_seconds", "CPU time of all of the bridge's processes, those that ended included", cpu_s),
            ("process_uptime", "Time since the bridge started", uptime_s),
        ):
            self._meter.create_observable_counter(name, [partial(_observe_one, read)], "s", description)
        text = "1; the label says which version of the bridge this is"
        one = [Observation(1, {"version": version})]
        self._meter.create_observable_gauge("espan_bridge_build_info", [lambda _: one], "1", text)

    def watch_listeners(self) -> None:
        """Report, by listener, how many connections, and requests being handled of how many bytes, it has."""
        for name, unit, description, place in (
            ("listener_open_connections", "{connection}", "Connections that are open; not told by gRPC", 2),
            ("listener_in_flight_requests", "{request}", "Requests being handled", 0),
            ("listener_in_flight", "By", "Bytes of requests being handled", 1),
        ):
            observe = partial(self._observe_levels, place)
            self._meter.create_observable_gauge(name, [observe], unit, description)

    def _observe_levels(self, place: int, _: CallbackOptions) -> list[Observation]:
        levels = {listener: level[place] for listener, level in self.levels.all().items()}
        return [Observation(value, {"listener": name}) for name, value in levels.items() if value is not None]

    def refuse(self, reason: str) -> None:
        """Count a batch the store had no room for."""
        self.refused_batches.add(1, {"reason": reason})

    def _gauge(self, name: str, unit: str, description: str, read: Callable[[], Mapping[str, float]]) -> None:
        def observe(_: CallbackOptions) -> list[Observation]:
            return [Observation(value, {"exporter": key} if key else {}) for key, value in read().items()]

        self._meter.create_observable_gauge(name, [observe], unit, description)
