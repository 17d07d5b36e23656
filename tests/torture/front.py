"""A TCP front of a server that misbehaves as it is told, from one connection to the next."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 64 << 10
RESET_AFTER = 512
"""Bytes of a request that are read before the connection is reset."""
BYTE_S = 1.0
NOBODY = ("refuse", "gone")
CONNECTION_FAULTS = (*NOBODY, "hang", "slow", "reset", "half_closed", "expired")


@dataclass(eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    fault: str

    def reset(self) -> None:
        """End it with a RST."""
        raw = self.writer.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Front:
    """Listens, with TLS or without, and passes on what comes, unless it has one of `CONNECTION_FAULTS`.

    refuse: nobody listens. hang: requests are read and never answered. slow: answers at a byte a second. reset: RST in
    the midst of a request. half_closed: it says that it will send no more, and reads on. expired: TLS with an expired
    certificate. gone: as refuse; whoever sets it takes the name away, too. A connection keeps its fault for ever:
    whoever clings to one when the fault ends is not healed by that.
    """

    def __init__(self, target_port: int, good: ssl.SSLContext | None, expired: ssl.SSLContext | None) -> None:
        self.port = 0
        self._target_port = target_port
        self._good, self._expired = good, expired
        self._fault = ""
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> None:
        """Listen on 127.0.0.1, where it listened before if it did."""
        context = self._expired if self._fault == "expired" else self._good
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def set(self, fault: str) -> None:
        """Have this fault from now on, "" for none."""
        changes_listener = {self._fault, fault} & {*NOBODY, "expired"}
        self._fault = fault
        if changes_listener and self._server:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.fault = connection.fault or fault
            if fault in (*NOBODY, "expired"):
                connection.reset()
        if self._server is None and fault not in NOBODY:
            await self.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, "" if self._fault == "expired" else self._fault)
        self._connections.add(connection)
        try:
            if connection.fault == "half_closed" and writer.can_write_eof():
                writer.write_eof()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                answering = asyncio.create_task(self._answer(connection, up_reader))
                await self._ask(connection, reader, up_writer)
                answering.cancel()
            finally:
                up_writer.transport.abort()
        except (OSError, ssl.SSLError):
            pass
        finally:
            self._connections.discard(connection)
            writer.transport.abort()

    async def _ask(
        self, connection: _Connection, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter
    ) -> None:
        read = 0
        while data := await reader.read(CHUNK):
            read += len(data)
            if connection.fault == "reset" and read > RESET_AFTER:
                connection.reset()
                return
            if connection.fault not in ("hang", "half_closed"):
                up_writer.write(data)
                await up_writer.drain()

    async def _answer(self, connection: _Connection, up_reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await up_reader.read(CHUNK):
                await self._pass_back(connection, data)
            connection.writer.transport.abort()

    async def _pass_back(self, connection: _Connection, data: bytes) -> None:
        while data:
            size = len(data)
            if connection.fault:
                await asyncio.sleep(BYTE_S)
                size = connection.fault == "slow"
            connection.writer.write(data[:size])
            await connection.writer.drain()
            data = data[size:]
