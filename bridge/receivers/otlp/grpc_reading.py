"""Reading the one message of a call, without being held up by senders that take their time.

gRPC collects a message before anybody sees it, and its bytes are in nobody's account until then. A call whose message
is not there soon therefore needs one of a few places, as many as whole requests may be in flight; without one it is
refused as retryable. What is collected at any moment is then bounded by these, and by what arrives in that short time.
"""

from typing import Any

import grpc.aio
from google.rpc.code_pb2 import Code

from bridge.errors import Throttled
from bridge.receivers.admission import Lease
from bridge.receivers.deadlines import Deadlines
from bridge.receivers.refusals import Refusal, Refused

PROMPT_S = 2.0
"""How long a message may take to arrive without one of the places."""
_NOTHING = Refusal("disconnected", Code.INVALID_ARGUMENT, 400, "the call ended without a message, or it was too large")


class MessageReader:
    """Knows how many calls have one of the places. For one event loop."""

    def __init__(self, places: int) -> None:
        self._places = self.free = places
        self._prompt = Deadlines(PROMPT_S, self._take_place)
        self._slow: set[Lease] = set()
        """Those that have one."""

    async def read(self, context: Any, lease: Lease) -> bytes:
        """The message of the call with this context.

        Raises Refused where none came. Where it takes its time and there is no place for it, the lease ends with
        Throttled.
        """
        self._prompt.put(lease)
        try:
            message = await context.read()
        finally:
            self._prompt.take_off(lease)
            if lease in self._slow:
                self._slow.remove(lease)
                self.free += 1
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs do not know it
            raise Refused(_NOTHING)
        data: bytes = message
        return data

    def _take_place(self, lease: Lease) -> None:
        if self.free:
            self.free -= 1
            self._slow.add(lease)
        else:
            text = f"{self._places} requests are arriving slowly already"
            lease.end(Throttled(text, reason="slow_requests"))
