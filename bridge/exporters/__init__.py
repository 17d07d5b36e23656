"""What sends linked spans to backends.

Each exporter is one module: it encodes bodies and delivers a body once. `Delivery` does the rest for each of them:
order, retries, the cursor over committed ticks. Exporters never see each other, so none can delay another.

Decided against: a queue between the tick and the exporter. The store is the outbox; what an exporter has not delivered
yet is read from there again, after a crash too.
"""

from bridge.exporters.console import ConsoleExporter
from bridge.exporters.delivery import Delivery
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.file import FileExporter
from bridge.exporters.retry import RetryPolicy
from bridge.security import ClientTls

__all__ = ["ClientTls", "ConsoleExporter", "Delivery", "FileExporter", "NotTaken", "Refused", "RetryPolicy"]
