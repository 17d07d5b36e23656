"""OpenTelemetry Collectors around a bridge: one that sends to it, one that takes what it exports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.processes import Program, free_port, program

UPSTREAM = """
extensions:
  file_storage: {{directory: {folder}/queue, create_directory: true}}
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
processors:
  batch: {{send_batch_size: 512, timeout: 100ms}}
exporters:
  {exporter}
    tls: {{insecure: true}}
    retry_on_failure: {{initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 0s}}
    sending_queue: {{queue_size: 100000, storage: file_storage}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [{name}]}}
"""
DOWNSTREAM = """
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
exporters:
  file: {{path: {folder}/traces.jsonl, flush_interval: 100ms}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
"""


@dataclass
class Collector:
    """One Collector: its folder, and its ports."""

    folder: Path
    grpc: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)

    @property
    def traces(self) -> Path:
        """OTLP/JSON lines that the one downstream wrote."""
        return self.folder / "traces.jsonl"

    def sending(self, name: str, endpoint: str, extra: str = "") -> "Collector":
        """Configure it to send on with this exporter, from a queue on disk, without end."""
        exporter = f"{name}:\n    endpoint: {endpoint}\n{extra}".rstrip()
        return self._write(UPSTREAM.format(exporter=exporter, name=name, **self._values))

    def writing(self) -> "Collector":
        """Configure it to write what it takes to `traces`."""
        return self._write(DOWNSTREAM.format(**self._values))

    @property
    def _values(self) -> dict[str, object]:
        return {"folder": self.folder, "grpc": self.grpc, "http": self.http}

    def _write(self, text: str) -> "Collector":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(text)
        return self

    @asynccontextmanager
    async def running(self, binary: Path) -> AsyncIterator[Program]:
        """Run it while the context is open; it listens."""
        log = self.folder / "collector.log"
        async with program(binary, "--config", self.folder / "config.yaml", log=log) as running:
            await running.listens(self.grpc, self.http)
            yield running
