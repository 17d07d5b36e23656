"""What the bridge shows of itself over HTTP: health, readiness, metrics; and what an operator may do with it."""

from bridge.web.control import ControlClient, ControlServer, NotRunning
from bridge.web.server import WebServer

__all__ = ["ControlClient", "ControlServer", "NotRunning", "WebServer"]
