"""What a run puts on the bridge, and the settings it has then."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

WINDOW_S = 20.0

CONFIG = """
{head}
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "{window_s}s"
sampling_rate = 1.0
[linker]
tick = "{tick}"
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
port = 0
[receivers.datakit]
host = "127.0.0.1"
port = 0
[web]
port = 0
[telemetry]
log_format = "json"
[exporters.sink]
{exporter}
retry = {{initial = "200ms", max = "1s"}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way through the bridge: what comes in, what goes out."""

    receiver: str
    """Whose address spans are sent to."""
    protocol: str
    sink: str
    exporter: str
    """Settings of the exporter, but for the endpoint."""


_TO_OTLP = 'type = "otlp_grpc"\nendpoint = "{endpoint}"'
WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "otlp": Way("otlp_grpc", "grpc", "tests.bench.otlp_sink", _TO_OTLP),
        "otlp_http": Way("otlp_http", "http/protobuf", "tests.bench.otlp_sink", _TO_OTLP),
        "datakit": Way("datakit", "datakit", "tests.bench.dataway_sink", 'type = "dataway"\nurl = "{endpoint}"'),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load at a steady rate. Sampling is 1.0 and every span has an id of its own: nothing folds."""

    way: Literal["otlp", "otlp_http", "datakit"] = "otlp"
    rate: float
    """Spans a second."""
    seconds: float
    batch: int = 512
    """Spans a request, at most."""
    window_s: float = WINDOW_S
    connections: int = 16
    threads: str = "exact"
    trace_spans: int | None = None
    attributes: int | None = None
    tick: str = "500ms"
    workers: int = 1
    open_loop: bool = False
    """Offered whatever becomes of it, instead of as fast as it is taken at most."""

    def config(self, folder: Path, endpoint: str) -> str:
        """The bridge's settings."""
        return CONFIG.format(
            head=f"workers = {self.workers}" if self.workers > 1 else "", folder=folder, window_s=self.window_s,
            tick=self.tick, exporter=WAYS[self.way].exporter.format(endpoint=endpoint),
        )  # fmt: skip

    def command(self, address: str) -> list[str]:
        """The generator's module and arguments, against a receiver at this address."""
        if self.open_loop:
            return [
                "tests.support.flood", "--protocol", WAYS[self.way].protocol, "--address", address,
                "--rate", str(self.rate), "--seconds", str(self.seconds), "--batch", str(self.batch),
                "--connections", str(self.connections),
            ]  # fmt: skip
        options: Mapping[str, object] = {
            "endpoint": f"http://{address}",
            "protocol": WAYS[self.way].protocol,
            "rate": self.rate,
            "duration": f"{self.seconds}s",
            "batch": self.batch,
            "connections": self.connections,
            "threads": self.threads,
            "trace-spans": self.trace_spans,
            "attributes": self.attributes,
        }
        given = (part for key, value in options.items() if value is not None for part in (f"--{key}", str(value)))
        return ["bridge", "simulate", "--json", *given]
