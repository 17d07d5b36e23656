"""HTTP/2 by hand, for peers that no library would be: slow ones, and ones that do not let themselves be answered.

Frames as RFC 9113 has them; header fields are literals without indexing (RFC 7541, 6.2.2), which need no state.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 1, 4, 1


class RawPeer:
    """One connection to a gRPC server, on a blocking socket: for use in a thread."""

    def __init__(self, host: str, port: int, *, window: int = 65535) -> None:
        """window: how much of an answer the server may send unasked."""
        self.sock = socket.create_connection((host, port), timeout=20)
        self.sock.sendall(PREFACE + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def call(self, stream: int, path: str, sent: bytes, *, size: int | None = None, end: bool = True) -> None:
        """Begin a call with these bytes of a message, which is to have `size` in all (all of them without it)."""
        head = b"\0" + (len(sent) if size is None else size).to_bytes(4, "big")
        self.sock.sendall(_frame(HEADERS, END_HEADERS, stream, _fields(path)))
        self.send(stream, head + sent, end=end)

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send more of a call."""
        self.sock.sendall(_frame(DATA, END_STREAM if end else 0, stream, data))

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, stream, payload) of what the server sends until it hangs up; pings and settings are answered."""
        while True:
            head = self._take(9)
            payload = self._take(int.from_bytes(head[:3], "big")) if head else b""
            if not head:
                return
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.sock.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
            yield kind, stream, payload

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            try:
                piece = self.sock.recv(65536)
            except ConnectionError:
                piece = b""
            if not piece:
                return b""
            self._read += piece
        taken, self._read = self._read[:size], self._read[size:]
        return taken


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _fields(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    texts = ((name.encode(), value.encode()) for name, value in fields.items())
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in texts)


@asynccontextmanager
async def proxy(status: int) -> AsyncIterator[int]:
    """A port where every request over HTTP/2 is answered with this status alone, as by a proxy that knows no gRPC."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(len(PREFACE))
            writer.write(_frame(SETTINGS, 0, 0, b""))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind in (SETTINGS, PING) and not flags & ACK:
                    writer.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
                if kind == HEADERS:  # :status has index 8 in the static table
                    writer.write(_frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x08\x03%d" % status))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            talking.pop(writer, None)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking[writer] = asyncio.ensure_future(talk(reader, writer))

    talking: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}
    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        tasks = list(talking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
