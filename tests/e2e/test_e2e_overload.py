"""A real bridge with little memory, offered ten times what it can keep: the short form of `make torture`'s."""

import json

from tests.torture.overload import run


def test_ten_times_too_much_is_pushed_back_within_the_memory_limit_and_nothing_acknowledged_is_lost() -> None:
    """OTLP over gRPC and HTTP and agents, all at once, beside programs with OpenTelemetry's SDK; a backend is dead."""
    print(json.dumps(run(long=False, options={}), indent=1))
