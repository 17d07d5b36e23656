"""Ports the bridge is to listen at: whether it could, and who has them."""

import errno
import socket
from collections.abc import Mapping

from bridge.cli.surroundings.naming import name_of
from bridge.cli.surroundings.processes import Holder, belongs_to, holder_of
from bridge.config.checks import Listener, listeners
from bridge.config.problems import Problem
from bridge.config.settings import Settings
from bridge.receivers.addresses import bind, host_port, listening_hosts


def ports_in_the_way(settings: Settings, origins: Mapping[str, str], owner: int) -> tuple[list[Problem], bool]:
    """A problem for each listener that could not listen, and whether the bridge that owns the store has any of them.

    owner: its process id, 0 where none runs. What it has is no problem; nor is, while it runs, a port of which nobody
    may see who has it.
    """
    problems, held = [], False
    for listener in listeners(settings):
        for host in listening_hosts(listener.host):
            try:
                bind(host, listener.port).close()
            except OSError as exc:
                holder = holder_of(listener.port) if exc.errno == errno.EADDRINUSE else None
                if exc.errno == errno.EADDRINUSE and owner and (holder is None or belongs_to(holder.pid, owner)):
                    held = True
                else:
                    problems.append(_problem(listener, host, exc, holder, origins))
                break
    return problems, held


def _problem(listener: Listener, host: str, exc: OSError, holder: Holder | None, origins: Mapping[str, str]) -> Problem:
    where, at = (*listener.path, "port"), host_port(host, listener.port)
    if isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL:
        where = (*listener.path, "host")
        text = f' = "{listener.host}": no address of this machine; use "localhost", or "0.0.0.0" for every network'
    elif exc.errno == errno.EADDRINUSE:
        text = f" = {listener.port}: {at} is in use by {_who(holder, listener.port)}, or choose another port"
    elif exc.errno in (errno.EACCES, errno.EPERM):
        text = (
            f" = {listener.port}: this user may not listen at {at}; choose a port above 1023, or give the process "
            "CAP_NET_BIND_SERVICE"
        )
    else:
        text = f" = {listener.port}: cannot listen at {at}: {exc.strerror or exc}"
    return Problem(name_of(where, origins), text, (where,))


def _who(holder: Holder | None, port: int) -> str:
    if holder is None:
        return f"a process that this user may not see: `ss -ltnp 'sport = :{port}'` as root names it; stop that"
    return f"{holder.command} (pid {holder.pid}); stop it"
