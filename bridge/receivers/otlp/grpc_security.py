"""TLS and tokens of gRPC's server."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health

from bridge.security import Identity, ListenerSecurity, Reloaded, Unauthenticated

_OPEN = f"/{health.SERVICE_NAME}/"
"""What probes call: it says whether this server serves, and nothing else."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Refuse = Callable[[Unauthenticated, Any], Awaitable[NoReturn]]
"""Counts a call as refused, and ends it through its context."""


def server_credentials(tls: Reloaded[Identity]) -> grpc.ServerCredentials:
    """Credentials of one port. gRPC asks for what is new as each handshake begins, in a thread of its own."""
    given = tls.value

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if given is tls.value:
            return None
        given = tls.value
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        changed,  # type: ignore[arg-type]  # the stubs do not know that None stands for no change
        require_client_authentication=given.ca is not None,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    assert identity.key is not None  # noqa: S101 -- a listener's files are all of them there
    assert identity.cert is not None  # noqa: S101
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.cert)], identity.ca)


class Authentication(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Lets calls pass that show a token, and those of grpc.health.v1.

    A call that does not is ended by a handler that would take a stream: gRPC reads a message for those only when they
    ask for it, so that nobody who is not known has more of us than the window of his stream.
    """

    def __init__(self, security: ListenerSecurity, refuse: Refuse) -> None:
        self._security, self._refuse = security, refuse

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See `grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(_OPEN):
            try:
                self._security.check(_header(handler_call_details.invocation_metadata, self._security.header))
            except Unauthenticated as exc:
                return self._refusing(exc)
        return await continuation(handler_call_details)

    def _refusing(self, error: Unauthenticated) -> Handler:
        async def refuse(_requests: object, context: Any) -> bytes:
            await self._refuse(error, context)

        return grpc.stream_unary_rpc_method_handler(refuse)


def _header(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> str | None:
    for key, value in metadata or ():
        if key == name:
            return value if isinstance(value, str) else value.decode(errors="surrogateescape")
    return None
