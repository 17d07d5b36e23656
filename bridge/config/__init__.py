"""Settings: TOML files and the environment, read once into frozen tables.

Guarantees: whatever is wrong is told at once and before anything starts, with the path of the key, its value, what is
allowed and what was probably meant; unknown keys are wrong; secrets show in no repr, error or listing.

Decided against: a config dict that is passed around, reading the environment anywhere else, and
reloading while running.
"""

from bridge.config.exporters import (
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
from bridge.config.receivers import DatakitReceiverSettings
from bridge.config.settings import Settings

__all__ = [
    "ConsoleExporterSettings",
    "DatakitReceiverSettings",
    "DatawayExporterSettings",
    "DatawayTlsSettings",
    "ExporterSettings",
    "FileExporterSettings",
    "Loaded",
    "OtlpGrpcExporterSettings",
    "OtlpHttpExporterSettings",
    "RetrySettings",
    "Settings",
    "TlsSettings",
    "load",
    "load_profiles",
]
