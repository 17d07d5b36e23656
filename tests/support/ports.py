"""Ports for processes that have to listen at the same ones after every start."""

import socket
from contextlib import ExitStack, closing


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has at present."""
    with ExitStack() as stack:
        found = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in found]
