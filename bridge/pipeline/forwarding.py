"""Where requests of other signals than traces go."""

from bridge.component import SignalForwarder
from bridge.config import OtlpGrpcExporterSettings, OtlpHttpExporterSettings, Settings
from bridge.exporters.otlp import GrpcForwarder, HttpForwarder, OtlpGrpcExporter, OtlpHttpExporter
from bridge.pipeline.build import build_exporter
from bridge.security import FileWatch


def build_forwarder(settings: Settings, watch: FileWatch | None) -> SignalForwarder | None:
    """To the backend of the first OTLP exporter, None where `forward_other_signals` is off."""
    if not settings.receivers.forward_other_signals:
        return None
    name, first = next(
        (name, exporter)
        for name, exporter in settings.exporters.items()
        if isinstance(exporter, OtlpGrpcExporterSettings | OtlpHttpExporterSettings)
    )
    match build_exporter(name, first, watch):
        case OtlpGrpcExporter() as exporter:
            return GrpcForwarder(exporter)
        case OtlpHttpExporter() as exporter:
            return HttpForwarder(exporter)
        case _:
            raise AssertionError("an OTLP exporter's settings make one")
