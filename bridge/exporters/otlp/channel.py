"""The gRPC channel of an exporter, replaced when its connection failed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import grpc
import grpc.aio

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONNECTION_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

Metadata = tuple[tuple[str, str], ...]


class _Channel:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self.calls = 0

    def method(self, name: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
        """What calls this method, with bytes in and out."""
        if name not in self.methods:
            self.methods[name] = self.channel.unary_unary(name, None, None)
        return self.methods[name]


async def _outcome(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> bytes:
    """The answer to a call. Raises AioRpcError.

    A call that is awaited by itself answers a cancellation with an exception of its own, which looks as if the whole
    task, and not a scope in it, had been cancelled.
    """
    done = anyio.Event()
    call.add_done_callback(lambda _: done.set())
    try:
        await done.wait()
    finally:
        call.cancel()
    return await call


class RenewedChannel:
    """One channel at a time. After a call that had no answer, or UNAVAILABLE, the next one gets another channel.

    gRPC looks up a name that did not resolve after up to two minutes, whatever it is told, and clings to a connection
    whose other end is gone without a word. A new channel asks and connects at once; how often is the circuit's
    business. Calls under way stay with their channel, which is closed after the last of them.
    """

    def __init__(self) -> None:
        self._connect: Callable[[], grpc.aio.Channel] | None = None
        self._current: _Channel | None = None
        self._retired: set[_Channel] = set()

    @asynccontextmanager
    async def running(self, connect: Callable[[], grpc.aio.Channel]) -> AsyncIterator[None]:
        """Make channels with `connect` while the context is open; one connects with its first call."""
        self._connect = connect
        try:
            yield
        finally:
            self._connect = None
            self.renew()
            for channel in tuple(self._retired):
                await self._close(channel)

    @property
    def is_running(self) -> bool:
        """Whether a call can be made."""
        return self._connect is not None

    def renew(self) -> None:
        """Have the next call use a new channel: after a failure, or because certificates have changed."""
        if self._current is not None:
            self._retired.add(self._current)
            self._current = None

    async def call(self, request: bytes, *, timeout_s: float, metadata: Metadata, method: str = EXPORT) -> bytes:
        """One Export, of traces unless told otherwise. Raises AioRpcError; RuntimeError where this is not running."""
        if self._current is None:
            if self._connect is None:
                raise RuntimeError("the channel is not running")
            self._current = _Channel(self._connect())
        channel = self._current
        channel.calls += 1
        answered = False
        try:
            response = await _outcome(channel.method(method)(request, timeout=timeout_s, metadata=metadata))
            answered = True
        except grpc.aio.AioRpcError as exc:
            answered = exc.code() not in CONNECTION_LOST
            raise
        finally:
            channel.calls -= 1
            if not answered and channel is self._current:
                self.renew()
            await self._close_idle()
        return response

    async def _close_idle(self) -> None:
        for channel in tuple(self._retired):
            if not channel.calls:
                await self._close(channel)

    async def _close(self, channel: _Channel) -> None:
        self._retired.discard(channel)
        with anyio.CancelScope(shield=True):
            await channel.channel.close(None)
