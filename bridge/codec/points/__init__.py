"""DataKit's points to spans and back: protobuf, JSON and line protocol. Pure: no I/O, no clock, no logging.

Every point is an eSpan; one that lacks what eSpans need is a trace of its own. A point that came as protobuf keeps its
bytes exactly as sent; one that came in another form is turned into the protobuf that an agent would have sent, and goes
the same way from there. One bad point never costs the others: it is rejected by itself, with its number and the reason.

Decided against: an object per point, and libraries for line protocol, which write it but do not read all of it.
"""
