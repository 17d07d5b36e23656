"""Which names a browser may ask a listener by, where nothing else says who it is.

A site may have its own name lead to this machine for a moment (DNS rebinding): its script then asks the bridge, and
reads the answer, as if that came from the site. What gives it away is the header Host, which has the site's name. An
address cannot be made to lead elsewhere, and names without owners outside (localhost, the machine's) not by strangers.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence

from bridge.errors import PermanentError

ANY = "*"
_MAX_SHOWN = 100
_PORT = re.compile(r":[0-9]{0,5}\Z")


class Misdirected(PermanentError):
    """A request asks for a host that this is not."""


class KnownHosts:
    """Names under which a listener answers, besides every address."""

    def __init__(self, setting: str, *, own: str = "localhost", allowed: Sequence[str] = ()) -> None:
        """setting: what has further names, as the settings call it. own: where it listens; allowed: those names, "*"
        for any."""
        machine = socket.gethostname()
        names = ("localhost", machine, machine.partition(".")[0], own, *allowed)
        self._setting, self._any = setting, ANY in allowed
        self._names = frozenset(_normal(name) for name in names if name)

    def check(self, headers: Sequence[str]) -> None:
        """Return where the request is meant for this listener: by the values of its header Host. Raises Misdirected."""
        if self._any or (len(headers) == 1 and self._is_known(_PORT.sub("", headers[0].strip()))):
            return
        shown = ", ".join(headers)[:_MAX_SHOWN]
        raise Misdirected(
            f"Host: {shown!r} is no name of this listener, which answers to IP addresses, localhost and its own names; "
            f"add it to {self._setting} if people use it, or set a token"
        )

    def _is_known(self, host: str) -> bool:
        return _normal(host) in self._names or _is_address(host)


def _normal(name: str) -> str:
    """Names are the same in any case, and with the root's dot."""
    return name.lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
