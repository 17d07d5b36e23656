"""The entry of an ingest process: `python -m bridge.pipeline.ingest_process DESCRIPTOR PID`, for the bridge alone.

It never outlives the bridge: the kernel kills it, and where it cannot, the end of the channel does. Signals that a
terminal or a supervisor sends to all processes are the bridge's, which then says what to do.
"""

import ctypes
import os
import signal
import socket
import sys

from bridge.loading import for_good

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the process on the channel of this descriptor, for the bridge of this process id."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    channel = socket.socket(fileno=int(sys.argv[1]))
    # imported here: it takes a while, in which a signal would end the process
    with for_good():
        import anyio

        from bridge.pipeline.process import give_memory_back, raise_descriptor_limit

        give_memory_back()
        from bridge.pipeline.worker import work

    raise_descriptor_limit()
    sys.exit(anyio.run(work, channel))


def _die_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[2]):
        sys.exit(1)  # the bridge went while this process was being made


if __name__ == "__main__":
    main()
