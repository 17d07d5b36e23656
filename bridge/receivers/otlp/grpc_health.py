"""grpc.health.v1: SERVING while spans can be committed, NOT_SERVING while they cannot, and from a stop on."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LOOK_S = 0.5
"""How often is looked whether spans can be committed: no sooner is it told."""
TELL_S = 1.0
"""How long watchers may take to be told; one that reads nothing any more holds the others up."""
Status = health_pb2.HealthCheckResponse


class Health:
    """The health of these services of one server, all the same."""

    def __init__(self, services: Sequence[str], unavailable: Callable[[], str], server: grpc.aio.Server) -> None:
        """unavailable: why spans cannot be committed at present, "" when they can; asked again and again."""
        self._services, self._unavailable = services, unavailable
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs do not know it
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell while the context is open, entered before the server starts; leaving it tells NOT_SERVING for good."""
        serving = await self._tell()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_telling, serving)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(TELL_S, shield=True):
                    await self._servicer.enter_graceful_shutdown()

    async def _keep_telling(self, serving: bool) -> None:
        while True:
            await anyio.sleep(LOOK_S)
            if serving == bool(self._unavailable()):
                serving = await self._tell()

    async def _tell(self) -> bool:
        serving = not self._unavailable()
        with anyio.move_on_after(TELL_S):
            for service in self._services:
                await self._servicer.set(service, Status.SERVING if serving else Status.NOT_SERVING)
        return serving
