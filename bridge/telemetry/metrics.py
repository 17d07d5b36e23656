"""The meter behind `Instruments`, read as Prometheus text."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Metric, generate_latest


class Metrics:
    """Metrics of one bridge, in a registry of its own: two bridges in one process never mix."""

    def __init__(self, provider: MeterProvider, registry: CollectorRegistry) -> None:
        self.meter: Meter = provider.get_meter("espan-bridge")
        self._registry = registry

    def samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Present values by name, as in the text, and labels; without histograms."""
        return {
            sample_name: values
            for family in self._registry.collect()
            if family.type in ("counter", "gauge")
            for sample_name, values in _values(family).items()
        }

    def prometheus_text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _values(family: Metric) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for sample in family.samples:
        found.setdefault(sample.name, {})[tuple(sample.labels.items())] = sample.value
    return found


@contextmanager
def running_metrics(version: str) -> Iterator[Metrics]:
    """Metrics that are collected while the context is open."""
    registry = CollectorRegistry(auto_describe=False)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    resource = Resource({"service.name": "espan-bridge", "service.version": version})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    try:
        yield Metrics(provider, registry)
    finally:
        provider.shutdown()
