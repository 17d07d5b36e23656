"""Every instrument of the bridge, named like the Collector's where it has the same thing; see docs/metrics.md."""

from collections.abc import Callable, Mapping

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpMeter, Observation

from bridge.telemetry.tally import Tally

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Instruments:
    """All counters and histograms, made once from a meter and handed to the parts. Without a meter they do nothing.

    docs/metrics.md lists them with their attributes; a test compares.
    """

    def __init__(self, meter: Meter | None = None) -> None:
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
        self.received_bytes = counter("receiver_received_bytes", "By", "Request bodies as they came over the wire")
        self.faulty_espans = counter(
            "receiver_faulty_espans", "{span}", "eSpans with a missing or unreadable key, by key; each is its own trace"
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
        self.commit_duration = histogram("store_commit_duration", "Time one group commit took")
        self.tick_duration = histogram("linker_tick_duration", "Time one tick took, linking and commit")
        self.delivery_duration = histogram("exporter_delivery_duration", "Time one delivery attempt took")

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

    def _gauge(self, name: str, unit: str, description: str, read: Callable[[], Mapping[str, int]]) -> None:
        def observe(_: CallbackOptions) -> list[Observation]:
            return [Observation(value, {"exporter": key} if key else {}) for key, value in read().items()]

        self._meter.create_observable_gauge(name, [observe], unit, description)
