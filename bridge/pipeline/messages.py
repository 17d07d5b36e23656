"""What the bridge's process and its ingest processes say to each other, over a socket pair that only the two have.

Nothing that must not be lost is said here: batches are in files, and are found there whatever became of a message.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bridge.config import Settings
from bridge.telemetry.levels import Level
from bridge.telemetry.own_traces import OwnSpan
from bridge.telemetry.relay import Counts

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Start:
    """To an ingest process, before all else: what it is and what it does."""

    worker: int
    """Its number, from 1 on."""
    workers: int
    settings: Settings
    """Its share of them: ports that are kept for it, and its part of what is bounded."""
    after: int
    """A number all of its batches are known to be below or at."""
    clock_offset_ns: int
    may_wait: int
    """See `Load`."""
    in_flight_bytes: int
    """What requests may take, all listeners of the process together."""


@dataclass(frozen=True, slots=True)
class Listen:
    """To an ingest process: open your receivers, as the others do now."""


@dataclass(frozen=True, slots=True)
class Load:
    """To an ingest process: what the linker holds."""

    seen: int
    """Number of the newest batch of this process that the linker was given."""
    waiting: int
    """Spans that wait in the linker, whoever took them in."""
    may_wait: int = 1 << 62
    """How many spans may."""
    others_bytes: int = 0
    """Resident memory of the bridge's other processes, in whole MiB."""
    other_files_bytes: int = 0
    """What all files of the store but this process's use."""
    other_files_free_bytes: int = 0
    """Free pages in them."""
    unavailable: str = ""
    """Why the bridge's process cannot commit, "" when it can."""


@dataclass(frozen=True, slots=True)
class Drop:
    """To an ingest process: nobody needs these any more."""

    order: int
    payloads: list[int]
    batches: list[int]


@dataclass(frozen=True, slots=True)
class Stop:
    """To an ingest process: refuse what is new, answer what you took, and end."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """From an ingest process: all is open but its receivers."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From an ingest process: its receivers are open."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From an ingest process: it cannot start with these settings."""

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """From an ingest process, once a second: what it counted since the last report. One that sends none hangs."""

    unavailable: str
    """Why it cannot commit, "" when it can."""
    damage: str
    """What is wrong with its file if that turned out damaged."""
    counts: Counts
    span_bytes: float
    """See `Arrivals`."""
    pushes_back: bool
    """Whether it refused a request for memory of late."""
    levels: Mapping[str, Level]
    """What its listeners hold, by name."""
    spans: tuple[OwnSpan, ...]
    """Of the bridge's own traces, where they are on."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """From an ingest process: an order to drop was carried out, unless there is an error."""

    order: int
    error: str


ToWorker: TypeAlias = Start | Listen | Load | Drop | Stop
FromWorker: TypeAlias = Prepared | Ready | Failed | Report | Dropped


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._gone = False

    @classmethod
    async def over(cls, connected: socket.socket) -> "Channel":
        """A channel that owns this socket."""
        return cls(*await asyncio.open_connection(sock=connected))

    async def send(self, message: ToWorker | FromWorker) -> None:
        """Hand a message on, in order; does nothing once the other end is gone."""
        if self._gone:
            return
        data = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)
        try:
            await self._writer.drain()
        except ConnectionError:
            self._gone = True  # `receive` says so

    async def receive(self) -> object | None:
        """The next message, None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))  # type: ignore[no-any-return]  # noqa: S301 -- from our own process, on a socket nobody else has
        except (asyncio.IncompleteReadError, ConnectionError):
            self._gone = True
            return None

    async def close(self) -> None:
        """Close this end."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
