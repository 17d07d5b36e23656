"""Where receivers listen, and who is at the other end."""

import socket
from functools import lru_cache
from urllib.parse import unquote

_MAPPED = "::ffff:"


def listening_hosts(host: str) -> tuple[str, ...]:
    """The addresses `host` stands for: "localhost" is 127.0.0.1, and ::1 where the machine has one."""
    if host != "localhost":
        return (host,)
    return ("127.0.0.1", "::1") if _has_ipv6_loopback() else ("127.0.0.1",)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A TCP socket bound to exactly this address (port 0: any free one), not yet listening. Raises OSError.

    share: beside other sockets that are shared too; connections are spread over those that listen.
    """
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host != "::":
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def reserve(host: str, port: int) -> socket.socket:
    """A bound socket that keeps an address for others that are bound with `share`. Raises OSError where it is in use.

    It never listens, so that nothing is sent its way. Bound alone, and shared only then: of two bridges that start at
    once one fails.
    """
    bound = bind(host, port)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return bound


@lru_cache(maxsize=1024)
def peer_host(address: str) -> str:
    """The address of a peer without its port, which changes with every connection.

    Takes the bare address an HTTP server knows and the `ipv4:host:port` / `ipv6:%5Bhost%5D:port` of gRPC; an IPv4
    address mapped into IPv6 comes out as IPv4, so that a process has one sender however it connects.
    """
    if address.startswith(("ipv4:", "ipv6:")):
        address = unquote(address[5:]).rpartition(":")[0].strip("[]")
    elif address.startswith("unix:"):
        return "unix"
    return address.removeprefix(_MAPPED) if "." in address else address
