"""The short form of the torture of exporters."""

import json

from tests.torture import exporter_faults


def test_backends_that_misbehave_lose_nothing_and_delay_no_other() -> None:
    """When a fault ends new traces come within a window and five seconds, beside what had piled up, oldest first; the
    backend that was well all the time notices nothing, and everything that was acknowledged is delivered."""
    print(json.dumps(exporter_faults.run(long=False, options={}), indent=1))
