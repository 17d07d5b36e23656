"""Prints traces as trees, for people."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TextIO

from bridge.component import Body
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.thread import OneThread
from bridge.exporters.trees import render_traces
from bridge.spans import LinkedSpans

NO_LIMIT = 1 << 62
WRITE_S = 10.0


class ConsoleExporter:
    """Writes one tree per trace to a text stream (standard output unless told otherwise)."""

    def __init__(
        self, name: str, stream: TextIO | None = None, *, width: int = 120, timeout_s: float = WRITE_S
    ) -> None:
        self.name = name
        self._stream, self._width = stream or sys.stdout, width
        self._thread, self._timeout_s = OneThread(f"exporter {name}"), timeout_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The stream is its owner's to close."""
        yield

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """One body a tick, so that every trace is whole: its text in UTF-8."""
        from bridge.codec.otlp_encode import encode_requests

        for request, spans in encode_requests(linked, max_spans=NO_LIMIT, max_bytes=NO_LIMIT):
            text = "".join(line + "\n" for line in render_traces([request], width=self._width))
            yield Body(text.encode(), spans)

    async def deliver(self, body: Body) -> None:
        """Raises NotTaken where the stream cannot be written at present, Refused where it is closed."""
        try:
            await self._thread.run(self._write, body.data.decode(), timeout_s=self._timeout_s)
        except TimeoutError as exc:
            raise NotTaken("nobody reads the console", reason="timeout") from exc

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as exc:
            raise NotTaken(f"console cannot be written: {exc}", reason="io") from exc
        except ValueError as exc:
            raise Refused("console is closed", reason="closed") from exc
