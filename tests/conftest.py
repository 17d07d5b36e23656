"""What every test stands on."""

import pytest
from hypothesis import HealthCheck, settings

# how long drawing takes says something about the machine, and the first text ever drawn builds a table of Unicode
settings.register_profile("bridge", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("bridge")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The bridge runs on asyncio alone, as grpc.aio does."""
    return "asyncio"
