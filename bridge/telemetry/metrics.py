"""The meter behind `Instruments`, read as Prometheus text, and as it is for whoever sends it on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Metric, generate_latest


class Metrics:
    """Metrics of one bridge, in a registry of its own: two bridges in one process never mix."""

    def __init__(
        self, provider: MeterProvider, registry: CollectorRegistry, collected: InMemoryMetricReader | None = None
    ) -> None:
        self.meter: Meter = provider.get_meter("espan-bridge")
        self._registry, self._collected = registry, collected
        # the reader collects into a queue that whoever collects at the same time would empty, too
        self._one_by_one = Lock()

    def samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Present values by name, as in the text, and labels; without histograms."""
        with self._one_by_one:
            families = list(self._registry.collect())
        return {
            sample_name: values
            for family in families
            if family.type in ("counter", "gauge")
            for sample_name, values in _values(family).items()
        }

    def data(self) -> MetricsData | None:
        """All metrics as the SDK has them, None where they are not collected for that."""
        return self._collected.get_metrics_data() if self._collected else None

    def prometheus_text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        with self._one_by_one:
            return generate_latest(self._registry)


def _values(family: Metric) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for sample in family.samples:
        found.setdefault(sample.name, {})[tuple(sample.labels.items())] = sample.value
    return found


@contextmanager
def _sdk_enabled() -> Iterator[None]:
    """Without OTEL_SDK_DISABLED, which is meant for applications: /metrics and the page would be empty."""
    disabled = os.environ.pop(OTEL_SDK_DISABLED, None)
    try:
        yield
    finally:
        if disabled is not None:
            os.environ[OTEL_SDK_DISABLED] = disabled


@contextmanager
def running_metrics(version: str, *, for_push: bool = False) -> Iterator[Metrics]:
    """Metrics that are collected while the context is open. for_push: `Metrics.data` is asked for, too.

    Whatever variables of the environment say to the SDK: nothing here sends anything, or is switched off by them.
    """
    registry = CollectorRegistry(auto_describe=False)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    resource = Resource({"service.name": "espan-bridge", "service.version": version})
    collected = InMemoryMetricReader() if for_push else None
    readers = [reader, collected] if collected else [reader]
    exemplars = AlwaysOffExemplarFilter()
    with _sdk_enabled():
        provider = MeterProvider(readers, resource=resource, exemplar_filter=exemplars, shutdown_on_exit=False)
    try:
        yield Metrics(provider, registry, collected)
    finally:
        provider.shutdown()
