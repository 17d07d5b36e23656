"""Settings: TOML files and the environment, read once into frozen tables.

Guarantees: whatever is wrong is told at once and before anything starts, with the path of the key, its value, what is
allowed and what was probably meant; unknown keys are wrong; secrets show in no repr, error or listing.

Decided against: a config dict that is passed around, reading the environment anywhere else, and
reloading while running.
"""

from bridge.config.attributes import AttributesSettings
from bridge.config.exporters import (
    ClientTlsSettings,
    ConsoleExporterSettings,
    DatawayExporterSettings,
    DatawayTlsSettings,
    ExporterSettings,
    FileExporterSettings,
    OtlpGrpcExporterSettings,
    OtlpHttpExporterSettings,
    RetrySettings,
    TlsSettings,
)
from bridge.config.loader import Loaded, load
from bridge.config.profiles import load_profiles
from bridge.config.receivers import DatakitReceiverSettings, OtlpGrpcReceiverSettings, OtlpHttpReceiverSettings
from bridge.config.security import ListenerSettings
from bridge.config.settings import Settings, WebSettings
from bridge.config.telemetry import TelemetryOtlpSettings
from bridge.config.tls_checks import client_tls, server_tls

__all__ = [
    "AttributesSettings",
    "ClientTlsSettings",
    "ConsoleExporterSettings",
    "DatakitReceiverSettings",
    "DatawayExporterSettings",
    "DatawayTlsSettings",
    "ExporterSettings",
    "FileExporterSettings",
    "ListenerSettings",
    "Loaded",
    "OtlpGrpcExporterSettings",
    "OtlpGrpcReceiverSettings",
    "OtlpHttpExporterSettings",
    "OtlpHttpReceiverSettings",
    "RetrySettings",
    "Settings",
    "TelemetryOtlpSettings",
    "TlsSettings",
    "WebSettings",
    "client_tls",
    "load",
    "load_profiles",
    "server_tls",
]
