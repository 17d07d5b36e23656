"""The bridge's own telemetry: every instrument in one place, logs as constant messages with fields.

Decided against: counters scattered over the parts (nobody finds them), and anything per span (count batches).
"""

from bridge.telemetry.instruments import Instruments

__all__ = ["Instruments"]
