"""What DataKit agents send: POST /v1/bpftracing, points in protobuf, JSON or line protocol.

An agent posts with a few workers, has no timeout and never sends again what was not answered with 200. So a sender
gets 200 once its spans are committed; where they cannot be taken now its answer is held back, which makes the agent
wait instead of losing them; only after `hold`, or when too many are held already, it is told 503, and that is
counted as lost, by name.

Decided against: an early 200 (the reference's way; a crash loses what was queued), and 429 or 503 at once (the agent
drops the body).
"""

from bridge.receivers.datakit.http import DatakitReceiver

__all__ = ["DatakitReceiver"]
