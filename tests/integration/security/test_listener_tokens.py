"""Tokens of every listener: who is let in, what stays open, and that nothing is read of those who are not."""

import base64

import aiohttp
import anyio
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bridge.security import ListenerSecurity
from tests.support.certificates import replace
from tests.support.secured import EXPORT, KINDS, OK, REFUSED, Setting

every_listener = pytest.mark.parametrize("kind", KINDS)
ONE, OTHER, NEXT = "first-token-of-the-test", "second-token-of-the-test", "third-token-of-the-test"
MIB = 1 << 20


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@every_listener
async def test_only_requests_that_show_a_token_get_through(setting: Setting, kind: str) -> None:
    """Any of several; the others are answered so that a client knows why, and counted."""
    listener = setting.listener(kind, ListenerSecurity("listener", tokens=[ONE, OTHER]))
    async with listener.running(), setting.caller(kind, listener.port) as call:
        assert await call(bearer(ONE)) == OK
        assert await call(bearer(OTHER)) == OK
        wrong: list[dict[str, str]] = [{}, bearer("x"), bearer(ONE + "x"), {"authorization": ONE}, {"x-api-key": ONE}]
        for headers in wrong:
            assert await call(headers) == REFUSED
    assert setting.refused() == (0 if kind == "web" else len(wrong))


@every_listener
async def test_another_header_can_have_the_token(setting: Setting, kind: str) -> None:
    """It stands there alone."""
    listener = setting.listener(kind, ListenerSecurity("listener", tokens=[ONE], header="X-Api-Key"))
    async with listener.running(), setting.caller(kind, listener.port) as call:
        assert await call({"x-api-key": ONE}) == OK
        assert await call(bearer(ONE)) == REFUSED
        assert await call({"x-api-key": f"Bearer {ONE}"}) == REFUSED


@every_listener
async def test_tokens_of_a_file_change_while_the_listener_runs(setting: Setting, kind: str) -> None:
    """A token is added beside the old one, then the old one goes; those of the settings stay. A file that would let in
    nobody changes nothing."""
    path = setting.folder / "tokens"
    path.write_text(f"{ONE}\n")
    security = ListenerSecurity("listener", tokens=[OTHER], tokens_file=path, watch=setting.watch)
    listener = setting.listener(kind, security)
    want = {
        f"{ONE}\n{NEXT}\n": {ONE: OK, OTHER: OK, NEXT: OK},
        f"{NEXT}\n": {ONE: REFUSED, OTHER: OK, NEXT: OK},
        "": {ONE: REFUSED, OTHER: OK, NEXT: OK},
    }
    async with listener.running(), setting.watch.running(), setting.caller(kind, listener.port) as call:
        for number, (text, answers) in enumerate(want.items(), 1):
            replace(path, text.encode())
            with anyio.fail_after(20):
                while len(setting.reloads) < number:
                    await setting.reloaded.wait()
                    setting.reloaded = anyio.Event()
            assert {token: await call(bearer(token)) for token in answers} == answers
    assert setting.reloads == ["ok", "ok", "failed"]


@pytest.mark.parametrize(("kind", "path"), [("otlp_http", "/v1/traces"), ("datakit", "/v1/bpftracing")])
async def test_no_body_is_read_of_who_shows_no_token(setting: Setting, kind: str, path: str) -> None:
    """The refusal comes while the body has not even begun to."""
    listener = setting.listener(kind, ListenerSecurity("listener", tokens=[ONE]))
    async with listener.running(), await anyio.connect_tcp("127.0.0.1", listener.port) as stream:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {64 * MIB}\r\n"
        await stream.send(f"{head}\r\n".encode())
        with anyio.fail_after(10):
            assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


async def test_grpc_reads_no_message_of_who_shows_no_token(setting: Setting) -> None:
    """A call is refused by its headers: a message that is never sent whole is not waited for."""
    listener = setting.listener("otlp_grpc", ListenerSecurity("listener", tokens=[ONE]))
    async with listener.running(), grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
        call = channel.stream_unary(EXPORT)()
        with anyio.fail_after(10):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert setting.refused() == 1


async def test_grpc_health_is_open_and_the_rest_is_not(setting: Setting) -> None:
    """Probes have no token; reflection, and methods that are not there, ask for one."""
    listener = setting.listener("otlp_grpc", ListenerSecurity("listener", tokens=[ONE]))
    async with listener.running(), grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(reflection.ServerReflectionInfo(iter([question]), timeout=10)))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        known = reflection.ServerReflectionInfo(iter([question]), timeout=10, metadata=tuple(bearer(ONE).items()))
        services = (await anext(aiter(known))).list_services_response.service
        assert "opentelemetry.proto.collector.trace.v1.TraceService" in {service.name for service in services}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/no.Such/Method")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_of_web_is_open_and_metrics_are_not(setting: Setting) -> None:
    """Probes have no token, and learn no more than whether the bridge lives."""
    listener = setting.listener("web", ListenerSecurity("web", tokens=[ONE]))
    async with listener.running(), aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}") as session:
        answers = {}
        for path in ("/healthz", "/readyz", "/metrics"):
            async with session.get(path) as response:
                answers[path] = response.status
    assert answers == {"/healthz": 200, "/readyz": 200, "/metrics": 401}


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (f"?token={ONE}?input=ebpf-net%2Fbpftracing", 200),
        (f"?token={ONE}&input=ebpf-net%2Fbpftracing", 200),
        (f"?input=ebpf-net%2Fbpftracing&token={ONE}", 200),
        ("?token=wrong?input=ebpf-net%2Fbpftracing", 401),
        ("?input=ebpf-net%2Fbpftracing", 401),
    ],
)
async def test_datakit_agents_may_have_the_token_in_their_address(setting: Setting, address: str, status: int) -> None:
    """As a query: agents put a second question mark behind it."""
    listener = setting.listener("datakit", ListenerSecurity("receivers.datakit", tokens=[ONE]))
    async with listener.running():
        url = f"http://127.0.0.1:{listener.port}/v1/bpftracing{address}"
        async with aiohttp.request("POST", url, data=b"m a=1 1") as response:
            assert response.status == status
            assert ONE not in await response.text()


async def test_datakit_agents_may_have_the_token_before_the_host(setting: Setting) -> None:
    """As the password of a URL, which clients make a header of."""
    listener = setting.listener("datakit", ListenerSecurity("receivers.datakit", tokens=[ONE]))
    user = "Basic " + base64.b64encode(f":{ONE}".encode()).decode()
    async with listener.running(), setting.caller("datakit", listener.port) as call:
        assert await call({"authorization": user}) == OK
        assert await call({"authorization": user[:-4]}) == REFUSED


async def test_ping_asks_for_the_token_too(setting: Setting) -> None:
    """It tells version and host."""
    listener = setting.listener("datakit", ListenerSecurity("receivers.datakit", tokens=[ONE]))
    async with listener.running():
        url = f"http://127.0.0.1:{listener.port}/v1/ping"
        async with aiohttp.request("GET", url) as refused, aiohttp.request("GET", url, headers=bearer(ONE)) as answered:
            assert (refused.status, answered.status) == (401, 200)
