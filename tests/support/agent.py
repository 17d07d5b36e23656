"""Traffic as DataKit's eBPF agents send it, made without the bridge's code, and where each span really belongs.

A trace is one checkout over two hosts: HTTP, gRPC, MySQL, Redis, AMQP and PostgreSQL. Thread ids are those of current
agents: an entry has one, an exit a random other one. Points have every key of the convention, in the types agents use,
and no span id; a span is known by its numbers and direction.
"""

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anyio

from tests.support.dataway import PBPoints

PATH = "/v1/bpftracing?input=ebpf-net%2Fbpftracing"
PROTOBUF = "application/protobuf; proto=com.guance.Point"
POINTS_A_BODY, CONNECTIONS = 256, 4
HOSTS = ("127.0.0.1", "127.0.0.2")
"""Both are this machine: connections come from either."""
US = 1000

Key = tuple[int, int, str]
"""req_seq, resp_seq, direction: what a span is known by."""


@dataclass(frozen=True)
class Role:
    """One span of a trace; times in us from its start."""

    service: str
    host: int
    parent: int
    call: int
    entry: bool
    start_us: int
    duration_us: int
    operation: str
    extra: Mapping[str, str | int]


def _http(method: str, route: str, status: int = 200) -> dict[str, str | int]:
    return {
        "http_method": method, "http_route": route, "http_version": "HTTP/1.1", "http_status_code": str(status),
        "resource": f"{method} {route}", "resource_type": "", "bytes_read": 312, "bytes_written": 1024,
    }  # fmt: skip


_GRPC: dict[str, str | int] = {
    "grpc_status_code": "0", "grpc_message": "", "resource": "/shop.Catalog/Prices", "bytes_read": 99,
    "bytes_written": 12,
}  # fmt: skip
ROLES = (
    Role("gateway", 0, -1, 0, True, 0, 9_000, "HTTP", _http("POST", "/checkout")),
    Role("gateway", 0, 0, 1, False, 300, 3_000, "HTTP", _http("GET", "/cart/items", 500)),
    Role("cart", 1, 1, 1, True, 500, 2_600, "HTTP", _http("GET", "/cart/items", 500)),
    Role(
        "cart", 1, 2, 2, False, 700, 300, "Redis",
        {"resource": "HGETALL cart", "resource_type": "HGETALL", "status_msg": "", "bytes_read": 40},
    ),
    Role(
        "cart", 1, 2, 3, False, 1_200, 900, "MySQL",
        {
            "resource": "SELECT * FROM cart WHERE id = ?", "resource_type": "SELECT", "mysql_command": "COM_QUERY",
            "err_msg": "table 'cart' is locked", "err_code": 1205, "bytes_read": 40,
        },
    ),
    Role("gateway", 0, 0, 4, False, 4_000, 2_500, "gRPC", _GRPC),
    Role("catalog", 1, 5, 4, True, 4_200, 2_100, "gRPC", _GRPC),
    Role(
        "catalog", 1, 6, 5, False, 4_500, 1_500, "PostgreSQL",
        {"resource": "SELECT price FROM prices", "resource_type": "SELECT", "pgsql_command": "Q", "bytes_read": 7},
    ),
    Role(
        "gateway", 0, 0, 6, False, 7_000, 500, "AMQP",
        {"resource": "orders", "amqp_method": "basic.publish", "amqp_exchange": "orders", "bytes_written": 77},
    ),
)  # fmt: skip
PIDS = {"gateway": 101, "cart": 202, "catalog": 303}


@dataclass
class Traffic:
    """Bodies by host, and the truth."""

    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    parent: dict[Key, Key | None] = field(default_factory=dict)
    trace: dict[Key, int] = field(default_factory=dict)
    header_trace: dict[int, str] = field(default_factory=dict)
    """By the number of a trace: the trace id its first request carried, where it carried one."""
    host: dict[Key, str] = field(default_factory=dict)
    points: dict[Key, Mapping[str, str | int]] = field(default_factory=dict)
    """What was sent, by key of the point."""

    @property
    def spans(self) -> int:
        return len(self.parent)


def traffic(traces: int, *, start_ns: int, seed: int = 1, apart_us: int = 2_000) -> Traffic:
    """Traces that start this far apart, so that many are under way at once; every third carries W3C ids."""
    made, draw = Traffic(), random.Random(seed)
    messages: dict[str, list[Any]] = {host: [] for host in HOSTS}
    for number in range(traces):
        for host, key, values in _trace(made, draw, number, start_ns // US + number * apart_us):
            made.points[key] = values
            message = PBPoints().arr.add(name="dketrace", time=int(values["start"]) * US)
            for name, value in values.items():
                if isinstance(value, str):
                    message.fields.add(key=name, s=value)
                else:
                    message.fields.add(key=name, i=_signed(value))
            messages[host].append(message)
    for host, points in messages.items():
        parts = [points[at : at + POINTS_A_BODY] for at in range(0, len(points), POINTS_A_BODY)]
        made.bodies[host] = [PBPoints(arr=part).SerializeToString() for part in parts]
    return made


def _trace(
    made: Traffic, draw: random.Random, number: int, start_us: int
) -> Iterator[tuple[str, Key, dict[str, str | int]]]:
    calls = [(draw.randrange(1, 1 << 32), draw.randrange(1, 1 << 32)) for _ in range(1 + max(r.call for r in ROLES))]
    w3c = (draw.getrandbits(128) | 1, draw.getrandbits(64) | 1) if number % 3 == 0 else None
    keys = [(*calls[r.call], "incoming" if r.entry else "outgoing") for r in ROLES]
    if w3c:
        made.header_trace[number] = f"{w3c[0]:032x}"
    for role, key in zip(ROLES, keys, strict=True):
        made.parent[key] = keys[role.parent] if role.parent >= 0 else None
        made.trace[key], made.host[key] = number, HOSTS[role.host]
        values = _point(role, key, draw, number, start_us)
        if role.parent < 0 and w3c:
            values |= {
                "app_trace_id_l": w3c[0] & (1 << 64) - 1, "app_trace_id_h": w3c[0] >> 64, "app_parent_id_l": w3c[1],
                "app_span_sampled": 1, "app_trace_id": f"{w3c[0]:032x}", "app_parent_id": f"{w3c[1]:016x}",
            }  # fmt: skip
        yield HOSTS[role.host], key, values


def _point(role: Role, key: Key, draw: random.Random, number: int, start_us: int) -> dict[str, str | int]:
    own, other = f"10.1.{role.host}.{PIDS[role.service] % 200}", f"10.1.9.{role.call}"
    port = str(20_000 + (number * 8 + role.call) % 40_000)
    near, far = ("8080", port) if role.entry else (port, "8080")
    begin_us = start_us + role.start_us
    kind = "entry" if role.entry else "exit"
    failed = "err_code" in role.extra or role.extra.get("http_status_code") == "500"
    return {
        "ebpf_span_type": kind, "span_type": kind, "direction": key[2], "req_seq": key[0], "resp_seq": key[1],
        "thread_trace_id": draw.randrange(1, 1 << 63), "tid": 5_000 + number, "tid_usr": 0,
        # the kernel's clock of each host began at another time
        "ktime": (begin_us - start_us // 1_000_000_000 * 1_000_000_000) * US + (role.host + 1) * 10**15,
        "pid": str(PIDS[role.service]), "service": role.service, "process_name": f"{role.service}-server",
        "thread_name": "worker", "src_ip": own, "src_port": near, "dst_ip": other, "dst_port": far,
        "start": begin_us, "duration": role.duration_us, "source_type": "ebpf", "operation": role.operation,
        "status": "error" if failed else "ok", **role.extra,
    }  # fmt: skip


def _signed(value: int) -> int:
    """Unsigned 64-bit numbers travel as negative ones."""
    return value - (1 << 64) if value >= 1 << 63 else value


@asynccontextmanager
async def agent(address: str, host: str = HOSTS[0]) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of an agent on this host to a linker at host:port."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, local_addr=(host, 0))
    timeout = aiohttp.ClientTimeout(total=60)
    headers = {"Content-Type": PROTOBUF}
    async with aiohttp.ClientSession(
        f"http://{address}", connector=connector, timeout=timeout, headers=headers
    ) as session:
        yield session


async def post_all(address: str, bodies: Mapping[str, Sequence[bytes]]) -> list[int]:
    """Statuses of all bodies, each posted once, by as many workers a host as an agent has."""
    statuses: list[int] = []
    async with anyio.create_task_group() as group:
        for host, of_host in bodies.items():
            for worker in range(CONNECTIONS):
                group.start_soon(_post, address, host, of_host[worker::CONNECTIONS], statuses)
    return statuses


async def _post(address: str, host: str, bodies: Sequence[bytes], statuses: list[int]) -> None:
    async with agent(address, host) as session:
        for body in bodies:
            async with session.post(PATH, data=body) as response:
                await response.read()
                statuses.append(response.status)
