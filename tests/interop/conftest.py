"""The real programs, started for one test each."""

from pathlib import Path

import pytest

from tests.interop.peers import PEERS


def _path(name: str) -> Path:
    if missing := PEERS[name].missing():
        pytest.skip(missing)
    return PEERS[name].path


@pytest.fixture
def collector_program() -> Path:
    """An OpenTelemetry Collector."""
    return _path("collector")


@pytest.fixture
def jaeger_program() -> Path:
    """A Jaeger."""
    return _path("jaeger")


@pytest.fixture
def go_sender() -> Path:
    """A program that sends with OpenTelemetry's Go SDK."""
    return _path("go_sender")


@pytest.fixture
def node_sender() -> Path:
    """A script that sends with OpenTelemetry's JavaScript SDK."""
    return _path("node_sender").with_name("sender.js")
