"""DataKit agents in, Guance and OTLP out: the whole process, with traffic as agents send it."""

import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.conftest import Delivered
from tests.support.agent import HOSTS, ROLES, Key, Traffic, post_all, traffic
from tests.support.bridge_process import RETRY, ROOT, Setup, running, started
from tests.support.dataway import Dataway, Point, running_dataway
from tests.support.received import Received, read_truth, score
from tests.support.sink import running_sink

DELIVERED_S = 30.0
AGENTS = '\n[receivers.datakit]\nhost = "127.0.0.1"\nport = 0\n'
GONE = {"app_trace_id_l", "app_trace_id_h", "app_parent_id_l"}
ADDED = {
    *("trace_id", "span_id", "parent_id", "ebpf_trace_id", "ebpf_parent_id"),
    *("espan_link_method", "espan_link_confidence"),
    *("espan_clock_reference", "espan_clock_offset_ns", "espan_clock_uncertainty_ns"),
}


@dataclass(frozen=True)
class Place:
    """Where a span was put."""

    trace_id: str
    span_id: str
    parent_id: str
    """"" at a root."""


def to_dataway(name: str, dataway: Dataway) -> str:
    return f'\n[exporters.{name}]\ntype = "dataway"\nurl = "{dataway.url}"\n{RETRY}\n'


async def arrived(dataway: Dataway, spans: int) -> None:
    """Return once so many different spans are there."""
    with anyio.move_on_after(DELIVERED_S):
        while dataway.totals().distinct < spans:
            dataway.arrived.clear()
            await dataway.arrived.wait()
    assert dataway.totals().distinct == spans, (dataway.totals(), dataway.faults)


def by_points(points: Iterable[Point]) -> dict[Key, Place]:
    """Places by what spans are known by, as Guance has them."""
    found = {}
    for point in points:
        values = point.all
        key = (int(values["req_seq"]), int(values["resp_seq"]), str(values["direction"]))  # type: ignore[arg-type]
        parent = str(values["parent_id"])
        found[key] = Place(str(values["trace_id"]), str(values["span_id"]), "" if parent == "0" else parent)
    return found


def by_spans(spans: Iterable[Received]) -> dict[Key, Place]:
    """The same, as an OTLP backend has them."""
    found = {}
    for span in spans:
        attributes = {a.key: a.value for a in Span.FromString(span.data).attributes}
        numbers = (attributes["req_seq"].int_value, attributes["resp_seq"].int_value)
        found[*numbers, attributes["direction"].string_value] = Place(span.trace_id, span.span_id, span.parent_id)
    return found


def assert_true(sent: Traffic, places: Mapping[Key, Place]) -> None:
    """Every span has its true parent, and every trace one id of its own: the one its request carried, if it did."""
    assert places.keys() == sent.parent.keys()
    ids: dict[int, set[str]] = {}
    for key, parent in sent.parent.items():
        number = sent.trace[key]
        ids.setdefault(number, set()).add(places[key].trace_id)
        if parent is not None:
            assert places[key].parent_id == places[parent].span_id, (key, sent.points[key])
        elif number in sent.header_trace:
            assert places[key].parent_id == sent.points[key]["app_parent_id"]
        else:
            assert places[key].parent_id == ""
    assert all(len(of_trace) == 1 for of_trace in ids.values())
    assert len({next(iter(of_trace)) for of_trace in ids.values()}) == len(ids)
    assert {number: next(iter(ids[number])) for number in sent.header_trace} == sent.header_trace


async def test_agents_spans_reach_guance_and_otlp_as_the_same_trees(tmp_path: Path, delivered: Delivered) -> None:
    """All protocols, two hosts, random thread ids on exits; every key that was sent is still there."""
    sent = traffic(150, start_ns=time.time_ns())
    async with running_sink() as sink, running_dataway() as dataway:
        setup = Setup(tmp_path, window="2s").export_to("tempo", "otlp_grpc", sink.grpc_port)
        setup.exporters += to_dataway("guance", dataway) + AGENTS
        async with running(setup) as bridge:
            statuses = await post_all(bridge.address("datakit"), sent.bodies)
            assert set(statuses) == {200}
            assert len(statuses) == sum(map(len, sent.bodies.values())) >= len(HOSTS) * 2
            spans = await delivered(sink, sent.spans)
            await arrived(dataway, sent.spans)
            assert await bridge.stop() == 0
    guance, otlp = by_points(dataway.points), by_spans(spans)
    assert guance == otlp
    assert_true(sent, guance)
    assert dataway.totals().copies == 0
    assert dataway.faults == []
    assert len(spans) == sent.spans
    for point in dataway.points:
        values = point.all
        known = (int(values["req_seq"]), int(values["resp_seq"]), str(values["direction"]))  # type: ignore[arg-type]
        was = sent.points[known]
        kept = {key: value for key, value in was.items() if key not in GONE}
        assert {key: values.get(key) for key in kept} == kept
        assert set(values) - set(was) <= ADDED
        assert not GONE & values.keys()
    assert {point.all["operation"] for point in dataway.points} == {role.operation for role in ROLES}


async def test_simulated_agents_spans_come_out_as_they_are_true(tmp_path: Path) -> None:
    """`simulate --protocol datakit`: what it reports was acknowledged, and every parent is found."""
    truth_file = tmp_path / "truth.csv"
    async with running_dataway() as dataway:
        setup = Setup(tmp_path, window="2s")
        setup.exporters += to_dataway("guance", dataway) + AGENTS
        async with running(setup) as bridge:
            done = await anyio.run_process(
                [
                    sys.executable, "-m", "bridge", "simulate", "--endpoint", f"http://{bridge.address('datakit')}",
                    "--protocol", "datakit", "--rate", "1800", "--duration", "1s", "--threads", "agent",
                    "--truth", str(truth_file),
                ],
                cwd=ROOT,
                check=False,
            )  # fmt: skip
            report = done.stdout.decode()
            assert done.returncode == 0, report + done.stderr.decode()
            assert "acknowledged  1800 spans" in report
            truth = read_truth(truth_file)
            await arrived(dataway, len(truth))
            assert await bridge.stop() == 0
    spans = [
        Received(place.span_id, place.parent_id, place.trace_id, "", b"")
        for place in by_points(dataway.points).values()
    ]
    result = score(truth, spans)
    assert (result.recall, result.precision, result.whole_traces, result.unknown) == (1.0, 1.0, 1.0, 0)


async def test_agents_wait_instead_of_losing_spans(tmp_path: Path) -> None:
    """With less room than for bodies that go together answers are held back until traces have left; every body gets its
    200."""
    sent = traffic(600, start_ns=time.time_ns())
    async with running_dataway() as dataway:
        setup = Setup(tmp_path)
        setup.exporters += to_dataway("guance", dataway) + AGENTS
        little_room = tmp_path / "room.toml"
        little_room.write_text("[linker]\nmax_waiting_spans = 300\n")
        async with started(setup.write(), little_room) as bridge:
            await bridge.ready()
            assert set(await post_all(bridge.address("datakit"), sent.bodies)) == {200}
            await arrived(dataway, sent.spans)
            metrics = await anyio.to_thread.run_sync(metrics_of, bridge.address("web"))
            assert await bridge.stop() == 0
    assert metrics['receiver_held_requests_total{receiver="datakit"}'] >= 1
    assert metrics['receiver_accepted_spans_total{receiver="datakit"}'] == sent.spans
    assert not [name for name, value in metrics.items() if name.startswith("receiver_refused") and value]
    assert dataway.totals().copies == 0


def metrics_of(address: str) -> dict[str, float]:
    """Counters by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    """The bridge is killed while every trace is still open; after the next start all of them leave, once."""
    sent = traffic(60, start_ns=time.time_ns())
    async with running_dataway() as dataway:
        setup = Setup(tmp_path, window="2s")
        setup.exporters += to_dataway("guance", dataway) + AGENTS
        async with running(setup) as bridge:
            assert set(await post_all(bridge.address("datakit"), sent.bodies)) == {200}
            await bridge.kill()
        assert dataway.totals().requests == 0
        async with running(setup) as bridge:
            await arrived(dataway, sent.spans)
            assert await bridge.stop() == 0
    assert_true(sent, by_points(dataway.points))
    assert dataway.totals().copies == 0


async def test_datakits_own_files_and_variables_are_enough(tmp_path: Path) -> None:
    """datakit.conf, ebpftrace.conf and the manifest's variables; two Dataways, of which one is away at first.

    What the one that is away gets later is not sent to the other again. A third file gives every listener a free port.
    """
    sent = traffic(20, start_ns=time.time_ns())
    async with running_dataway() as one, running_dataway(["503:0.1", "429:0.1"]) as other:
        datakit, ebpftrace, ports = (tmp_path / name for name in ("datakit.conf", "ebpftrace.conf", "ports.toml"))
        datakit.write_text(
            f'protect_mode = true\ndefault_enabled_inputs = ["cpu"]\n[http_api]\nlisten = "localhost:9529"\n'
            f'[dataway]\nurls = ["{one.url}", "{other.url}"]\nmax_idle_conns_per_host = 2\nretry_delay = "50ms"\n'
            '[global_host_tags]\nproject = "shop"\n[logging]\nlog = "/var/log/datakit/log"\n'
        )
        ebpftrace.write_text(
            f'[[inputs.ebpftrace]]\n  db_path = "{tmp_path}/spandb"\n  window = "2s"\n  sampling_rate = 0.1\n'
        )
        ports.write_text(
            "[receivers.otlp_grpc]\nport = 0\n[receivers.otlp_http]\nport = 0\n[web]\nport = 0\n"
            '[telemetry]\nlog_format = "json"\n'
        )
        variables = {
            "ENV_HTTP_LISTEN": "127.0.0.1:0",
            "ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "1.0",
            "ENV_GLOBAL_HOST_TAGS": "node=__datakit_hostname",
            "ENV_CLUSTER_NAME_K8S": "blue",
            "ENV_K8S_NODE_NAME": "node-7",
            "ENV_ENABLE_PPROF": "true",
            "ENV_PPROF_LISTEN": "0.0.0.0:6060",
        }
        async with started(datakit, ebpftrace, ports, variables=variables) as bridge:
            await bridge.ready()
            assert set(await post_all(bridge.address("datakit"), sent.bodies)) == {200}
            for dataway in (one, other):
                await arrived(dataway, sent.spans)
            assert await bridge.stop() == 0
        warnings = [event["warning"] for event in bridge.log if event["message"] == "odd setting"]
    assert_true(sent, by_points(one.points))
    assert by_points(one.points) == by_points(other.points)
    assert (one.totals().copies, other.totals().copies, other.totals().refused) == (0, 0, 2)
    for point in one.points:
        assert point.tags.items() >= {("project", "shop"), ("node", "node-7"), ("cluster_name_k8s", "blue")}
    assert [w for w in warnings if "ENV_ENABLE_PPROF, ENV_PPROF_LISTEN" in w]
    assert [w for w in warnings if "default_enabled_inputs, logging, protect_mode" in w]
    assert len(warnings) == 3
