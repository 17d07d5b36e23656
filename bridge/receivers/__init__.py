"""Receivers: they turn what senders put on the wire into span batches and hand those to a consumer.

Every receiver gives the same guarantees. A sender is told "accepted" only after the consumer returned; a request that
cannot be read is refused with what is wrong and where, and costs nothing but itself; one that cannot be taken now is
refused as retryable, with a time to wait; sizes are bounded before and after decompression, and so are the requests
in flight together, their bytes, connections, and how long senders may take over any of it (docs/limits.md). Leaving
`running()` returns when no handler is left.

Decided against: queues inside a receiver (an early "accepted" would be a lie, and the consumer pushes back anyway),
and waiting for room instead of refusing (the sender's deadline would end the wait for us, without an answer).
"""
