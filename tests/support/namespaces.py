"""A network of their own for processes, in which every port is free and nothing is reached but each other."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class NotPermitted(Exception):
    """No network can be made here."""


@contextmanager
def own_network() -> Iterator[tuple[str, ...]]:
    """What a command is to begin with to run in it, with loopback up; it goes with the context. Raises NotPermitted."""
    if not (shutil.which("unshare") and shutil.which("nsenter") and shutil.which("ip")):
        raise NotPermitted("unshare, nsenter or ip is not installed")
    root = os.geteuid() == 0
    user = () if root else ("--user", "--map-root-user")
    script = "ip link set lo up && echo up && exec cat"
    holder = subprocess.Popen(
        ["unshare", "--net", *user, "sh", "-c", script],  # noqa: S607 -- as installed
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stderr
        try:
            if holder.stdout.readline() != "up\n":
                raise NotPermitted(holder.stderr.read().strip())
            entering = () if root else ("--user", "--preserve-credentials")
            yield ("nsenter", "--target", str(holder.pid), "--net", *entering, "--")
        finally:
            holder.stdin.close()
            holder.wait()
