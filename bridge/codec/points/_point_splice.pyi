from bridge.codec.points.otlp_values import Attributes
from bridge.codec.points.splice import PlainPointSplicer

def split_point(
    data: bytes, named: frozenset[bytes], /
) -> tuple[bytes, int, int, int, bytes, list[bytes]] | None: ...

def span_attributes(data: bytes, /) -> Attributes | None: ...

class PointSplicer(PlainPointSplicer): ...
