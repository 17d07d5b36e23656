"""Some of the points of a body."""

from bridge.codec.points.point_view_pb2 import Points


def cut_points(body: bytes, begin: int, end: int) -> bytes:
    """A body of protobuf with the points from begin up to end alone, each as it was."""
    return Points(arr=Points.FromString(body).arr[begin:end]).SerializeToString()
