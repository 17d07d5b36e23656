"""Makes the parts from settings. Nothing here opens a socket or a file."""

from collections.abc import Sequence

from bridge.component import Exporter, Receiver, SpanConsumer
from bridge.config import Settings
from bridge.exporters.console import ConsoleExporter
from bridge.exporters.delivery import Delivery
from bridge.exporters.file import FileExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
