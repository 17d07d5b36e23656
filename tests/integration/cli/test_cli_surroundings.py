"""`espan-bridge check` on a machine where something is in the way: what, of which setting, and what to do about it."""

import os
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result

from bridge.cli import main
from bridge.store import SqliteStore
from bridge.store.lock import owned
from bridge.store.tables import STORE_VERSION, store
from bridge.telemetry import Instruments
from tests.support.certificates import Authority, server_names
from tests.support.ports import free_ports
from tests.support.sink import Sink, running_sink
from tests.support.small_disk import NotPermitted, small_disk

SETTINGS = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
[receivers.otlp_grpc]
port = {0}
[receivers.otlp_http]
port = {1}
[web]
port = {2}
"""
TREES = '[exporters.trees]\ntype = "console"\n'
EXPORTER = '[exporters.backend]\ntype = "{}"\nendpoint = "{}"\n{}\n'
MIB = 1 << 20


class Here:
    """Settings of a bridge on this machine, and what `check` says to them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, free_ports(3)
        self.store = folder / "store"

    def check(self, more: str = TREES, *options: str, **environ: str) -> Result:
        path = self.folder / "bridge.toml"
        path.write_text(SETTINGS.format(*self.ports, folder=self.folder) + more)
        return CliRunner().invoke(main, ["check", "--config", str(path), *options], env=environ)

    def problems(self, more: str = TREES, *options: str, **environ: str) -> list[str]:
        """What stands on standard error, warnings and the first line less."""
        result = self.check(more, *options, **environ)
        assert result.exit_code == 1, result.output
        warnings = sum(line.startswith("warning: ") for line in result.stderr.splitlines())
        first, *lines = result.stderr.splitlines()[warnings:]
        assert first.startswith("espan-bridge: the settings can be used, but not here and now: "), first
        return [line.strip() for line in lines]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    for name in os.environ:
        if name.startswith(("ENV_", "OTEL_")) or name.endswith("_proxy"):
            monkeypatch.delenv(name)
    return Here(tmp_path)


@contextmanager
def listening(port: int = 0, serve: Callable[[socket.socket], None] = lambda _: None) -> Iterator[int]:
    """Something that listens on 127.0.0.1, and does this to each connection."""
    with closing(socket.create_server(("127.0.0.1", port))) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_nothing_in_the_way_is_exit_code_0(here: Here) -> None:
    """And nothing is left behind: no folder, no port."""
    result = here.check()
    assert (result.exit_code, result.stderr) == (0, "")
    assert not here.store.exists()
    for port in here.ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_named_with_its_process(here: Here) -> None:
    """This one, in a test; the setting, the address, and both ways out."""
    with listening(here.ports[1]):
        (problem,) = here.problems()
        assert here.check(TREES, "--settings-only").exit_code == 0
    assert problem.startswith(f"receivers.otlp_http.port = {here.ports[1]}: 127.0.0.1:{here.ports[1]} is in use by ")
    assert problem.endswith(f"(pid {os.getpid()}); stop it, or choose another port")


def test_a_host_that_is_not_here_is_named(here: Here) -> None:
    """An address of documentation, which no machine has."""
    (problem,) = here.problems(TREES + '[receivers.datakit]\nhost = "192.0.2.1"\n')
    assert problem.startswith('receivers.datakit.host = "192.0.2.1": no address of this machine')


def test_the_variable_that_a_value_came_from_is_named(here: Here) -> None:
    """Whoever mends it finds it there."""
    (problem,) = here.problems("", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert problem.startswith('OTEL_EXPORTER_OTLP_ENDPOINT (exporters.otlp.endpoint) = "http://127.0.0.1:9": ')


def test_a_store_in_use_is_named_with_the_bridge_that_has_it(here: Here) -> None:
    """Of another bridge; where that one has the ports, too, it is this very bridge, and no mistake."""
    here.store.mkdir()

    async def owning(ports: bool) -> Result:
        async with owned(here.store, 0):
            if not ports:
                return await anyio.to_thread.run_sync(here.check)
            with listening(here.ports[0]), listening(here.ports[2]):
                return await anyio.to_thread.run_sync(here.check)

    result = anyio.run(owning, False)
    assert result.exit_code == 1
    assert f'db_path = "{here.store}": in use by another bridge (pid {os.getpid()}); stop that one' in result.stderr
    result = anyio.run(owning, True)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == (
        f"note: a bridge with these settings runs already (pid {os.getpid()}); its ports and its store were not "
        "looked at\n"
    )


async def _open(folder: Path) -> None:
    async with SqliteStore(folder, instruments=Instruments()).running():
        pass


def test_a_store_of_a_newer_bridge_is_named(here: Here) -> None:
    """As it is without one; its files are as they were."""
    anyio.run(_open, here.store)
    assert here.check().exit_code == 0
    with closing(sqlite3.connect(here.store / "espan.db")) as database, database:
        database.execute(f"UPDATE {store.name} SET version = {STORE_VERSION + 1}")  # noqa: S608 -- our own names
    before = {path.name: path.read_bytes() for path in here.store.iterdir()}
    (problem,) = here.problems()
    assert f"espan.db is written by a newer bridge (store version {STORE_VERSION + 1}" in problem
    assert {path.name: path.read_bytes() for path in here.store.iterdir()} == before


def test_somebody_elses_database_is_named(here: Here) -> None:
    """It is left alone."""
    here.store.mkdir()
    with closing(sqlite3.connect(here.store / "espan.db")) as database, database:
        database.execute("CREATE TABLE theirs (x)")
    (problem,) = here.problems()
    assert "espan.db is a database, but not one of the bridge's; name another folder" in problem


def test_folders_that_cannot_be_written_are_named(here: Here) -> None:
    """A file where a folder should be, and a folder where a file should be."""
    here.store.write_text("")
    (here.folder / "out").mkdir()
    lines, folder = here.problems(f'[exporters.lines]\ntype = "file"\npath = "{here.folder}/out"\n')
    assert lines.endswith("is a folder; name a file")
    assert folder.endswith("is a file; name a folder")


def test_a_disk_that_is_full_or_read_only_is_named(here: Here) -> None:
    """A real one."""
    try:
        with small_disk(here.store, 16) as disk:
            assert here.check().exit_code == 0
            disk.fill(leave_bytes=MIB)
            assert any("MiB are free there" in problem for problem in here.problems())
            disk.make_room()
            disk.read_only(True)
            (problem,) = here.problems()
            assert f"the file system of {here.store} is mounted read-only; name a folder on another" in problem
    except NotPermitted as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")


@pytest.mark.parametrize("kind", ["otlp_grpc", "otlp_http"])
def test_backends_that_are_not_there_are_told_apart(here: Here, kind: str) -> None:
    """Refused, a name that is not known, silence; none of them is tried with --no-connect."""
    (port,) = free_ports(1)
    refused = EXPORTER.format(kind, f"http://127.0.0.1:{port}", "")
    assert f"nobody listens at 127.0.0.1:{port} (refused); start the backend" in here.problems(refused)[0]
    assert here.check(refused, "--no-connect").exit_code == 0
    unknown = EXPORTER.format(kind, "http://bridge.invalid:14317", "")
    assert 'the name "bridge.invalid" is not known here' in here.problems(unknown)[0]


def test_a_port_of_the_other_protocol_is_named(here: Here) -> None:
    """gRPC at a port for HTTP and HTTP at one for gRPC; at its own each is well."""

    async def crosswise() -> tuple[list[str], Result]:
        async with running_sink() as sink:
            wrong = (
                EXPORTER.format("otlp_grpc", f"http://127.0.0.1:{sink.http_port}", "")
                + EXPORTER.format("otlp_http", f"http://127.0.0.1:{sink.grpc_port}", "").replace(".backend", ".web")
                + f'[receivers.datakit]\nport = 0\nforward_to = "http://127.0.0.1:{sink.grpc_port}"\n'
            )
            right = EXPORTER.format("otlp_grpc", f"http://127.0.0.1:{sink.grpc_port}", "") + EXPORTER.format(
                "otlp_http", f"http://127.0.0.1:{sink.http_port}", 'compression = "gzip"'
            ).replace(".backend", ".web")
            problems = await anyio.to_thread.run_sync(here.problems, wrong)
            result = await anyio.to_thread.run_sync(here.check, right)
            assert sink.totals().distinct == 0
            return problems, result

    problems, result = anyio.run(crosswise)
    assert (result.exit_code, result.stderr) == (0, "")
    grpc, http, forward = problems
    assert grpc.startswith("exporters.backend.endpoint")
    assert 'this looks like HTTP: use type = "otlp_http"' in grpc
    assert http.startswith("exporters.web.endpoint")
    assert 'this looks like gRPC: use type = "otlp_grpc"' in http
    assert forward.startswith("receivers.datakit.forward_to")
    assert "this looks like gRPC" in forward


def test_what_a_backend_has_against_a_request_is_said(here: Here) -> None:
    """A token it does not know, shown with the exporter's own headers."""

    async def refused(kind: str, status: str) -> list[str]:
        async with running_sink([status]) as sink:
            port = sink.grpc_port if kind == "otlp_grpc" else sink.http_port
            headers = 'headers = {authorization = "Bearer 0123456789abcdef"}'
            text = EXPORTER.format(kind, f"http://127.0.0.1:{port}", headers)
            problems = await anyio.to_thread.run_sync(here.problems, text)
            assert sink.totals().distinct == 0
            return problems

    (problem,) = anyio.run(refused, "otlp_grpc", "unauthenticated")
    assert "UNAUTHENTICATED" in problem
    assert problem.endswith("check the token in headers")
    (problem,) = anyio.run(refused, "otlp_http", "http:401")
    assert problem.endswith("check the token, or user and password")


@pytest.mark.parametrize("kind", ["otlp_grpc", "otlp_http"])
def test_tls_that_does_not_fit_is_named(here: Here, kind: str) -> None:
    """No TLS there, TLS where none was expected, an authority nobody named, a certificate of another or expired."""
    authority = Authority()
    (here.folder / "ca.pem").write_bytes(authority.pem)
    trusted = f'tls = {{ca_file = "{here.folder}/ca.pem"}}'

    def shown(*names: str, days: float = 30) -> Callable[[socket.socket], None]:
        cert, key = authority.issue(*names, days=days)
        (here.folder / "server.pem").write_bytes(cert + key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(here.folder / "server.pem")

        def serve(connection: socket.socket) -> None:
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                return

        return serve

    def saying(text: bytes) -> Callable[[socket.socket], None]:
        def serve(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(text)

        return serve

    def problem(serve: Callable[[socket.socket], None], scheme: str, more: str = trusted) -> str:
        with listening(0, serve) as port:
            (found,) = here.problems(EXPORTER.format(kind, f"{scheme}://127.0.0.1:{port}", more))
        return found

    assert "or name its authority in tls.ca_file" in problem(shown(*server_names()), "https", "")
    assert "is not accepted: IP address mismatch" in problem(shown("elsewhere.example"), "https")
    assert "is not accepted: certificate has expired" in problem(shown(*server_names(), days=-1), "https")
    assert "no TLS is spoken at this port" in problem(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "https")
    assert "this port speaks TLS: begin the address with https://" in problem(saying(b"\x15\3\1\0\2\2\x46"), "http", "")
    assert "it hangs up without an answer" in problem(saying(b""), "http", "")
    assert "speaks neither HTTP nor gRPC" in problem(saying(b"220 mail.example ESMTP\r\n"), "http", "")


def test_a_backend_over_tls_is_well(here: Here) -> None:
    """With a client certificate, over both protocols."""
    files = Path("tests/support/tls").absolute()
    tls = f'tls = {{ca_file = "{files}/ca.pem", cert_file = "{files}/client.pem", key_file = "{files}/client.key"}}'

    async def checked() -> Result:
        async with Sink().running(tls_files=files) as sink:
            text = EXPORTER.format("otlp_grpc", f"https://localhost:{sink.grpc_port}", tls)
            text += EXPORTER.format("otlp_http", f"https://localhost:{sink.http_port}", tls).replace(".backend", ".web")
            return await anyio.to_thread.run_sync(here.check, text)

    result = anyio.run(checked)
    assert (result.exit_code, result.stderr) == (0, "")
