"""What the bridge shows of itself over HTTP: health, readiness, metrics."""

from bridge.web.server import WebServer

__all__ = ["WebServer"]
