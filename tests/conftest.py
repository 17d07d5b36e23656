"""What every test stands on."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The bridge runs on asyncio alone, as grpc.aio does."""
    return "asyncio"
