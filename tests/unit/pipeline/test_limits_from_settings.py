"""From settings to limits: each is the one that was set, and what processes share is divided among them."""

import math
from pathlib import Path

import pytest

from bridge.codec.limits import NO_LIMITS, RequestLimits
from bridge.config import Settings, load
from bridge.connections import ListenerLimits
from bridge.pipeline.limits import listener_limits, request_limits, share_of, web_limits

COMMON = """
max_connections = 31
max_concurrent_requests = 32
max_request_spans = 33
max_span_bytes = 34
header_timeout = "35s"
write_timeout = "36s"
idle_timeout = "37s"
"""
HTTP = "max_json_bytes = 38\nmax_connections_per_peer = 7\n"
SET = f"""
[receivers.otlp_grpc]{COMMON}request_timeout = "39s"
[receivers.otlp_http]{COMMON}{HTTP}request_timeout = "39s"
[receivers.datakit]{COMMON}{HTTP}max_held_requests = 40
[web]
max_connections = 41
"""


def settings_of(folder: Path, text: str) -> Settings:
    path = folder / "bridge.toml"
    path.write_text(f'{text}\n[exporters.trees]\ntype = "console"\n')
    return load(path, {}).settings


def test_limits_are_the_ones_that_were_set(tmp_path: Path) -> None:
    """For every listener."""
    settings = settings_of(tmp_path, SET)
    for name, receiver in settings.receivers.listeners.items():
        grpc, datakit = name == "otlp_grpc", name == "datakit"
        json_bytes = NO_LIMITS.max_json_bytes if grpc else 38
        assert request_limits(receiver) == RequestLimits(max_spans=33, max_span_bytes=34, max_json_bytes=json_bytes)
        assert listener_limits(receiver) == ListenerLimits(
            max_connections=31,
            max_connections_per_peer=31 if grpc else 7,
            max_concurrent_requests=32,
            header_timeout_s=35.0,
            request_timeout_s=math.inf if datakit else 39.0,
            write_timeout_s=36.0,
        )
        assert receiver.idle_timeout_s == 37.0
    web = web_limits(settings.web)
    assert (web.max_connections, web.max_connections_per_peer) == (41, 41)


def test_without_settings_limits_are_those_the_parts_have(tmp_path: Path) -> None:
    """So that whoever uses a receiver by itself is protected in the same way."""
    receiver = settings_of(tmp_path, "").receivers.otlp_http
    assert request_limits(receiver) == RequestLimits()
    assert listener_limits(receiver) == ListenerLimits()


@pytest.mark.parametrize(("connections", "share"), [(1000, 500), (1, 1)])
def test_one_address_may_have_half_unless_told_otherwise(tmp_path: Path, connections: int, share: int) -> None:
    """Of whatever number there is."""
    receiver = settings_of(tmp_path, f"[receivers.otlp_http]\nmax_connections = {connections}\n").receivers.otlp_http
    assert listener_limits(receiver).max_connections_per_peer == share


def test_what_holds_for_all_processes_is_divided_among_them(tmp_path: Path) -> None:
    """Limits of a single request or connection are not, and nobody is left with nothing."""
    listeners = settings_of(tmp_path, SET).receivers.listeners
    for name, receiver in listeners.items():
        shared = receiver.model_copy(update=share_of(receiver, 4))
        changed = {key for key in type(receiver).model_fields if getattr(shared, key) != getattr(receiver, key)}
        assert changed == {
            "max_in_flight_bytes",
            "max_connections",
            "max_concurrent_requests",
            *({"max_connections_per_peer"} if name != "otlp_grpc" else set()),
            *({"max_held_requests"} if name == "datakit" else set()),
        }
        assert (shared.max_connections, shared.max_concurrent_requests) == (7, 8)
        assert receiver.model_copy(update=share_of(receiver, 1000)).max_connections == 1
