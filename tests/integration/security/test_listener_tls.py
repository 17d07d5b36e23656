"""TLS of every listener: who is let in, from which version on, and certificates that change while it runs."""

import asyncio
import ssl
import warnings
from collections.abc import Mapping

import aiohttp
import anyio
import pytest

from bridge.errors import ConfigError
from bridge.security import ListenerSecurity, ServerTls
from tests.support.certificates import Authority, Files, old_client
from tests.support.secured import KINDS, OK, Caller, Setting

every_listener = pytest.mark.parametrize("kind", KINDS)
NO_CONNECTION = (ConnectionError, aiohttp.ClientError, ssl.SSLError)


def security(setting: Setting, *, clients: bool = False) -> ListenerSecurity:
    files = setting.files
    tls = ServerTls(files.cert, files.key, files.ca if clients else None)
    return ListenerSecurity("listener", tls=tls, watch=setting.watch)


async def reloads(setting: Setting, results: list[str]) -> None:
    """Return once the files were read again, with these results so far."""
    with anyio.fail_after(20):
        while setting.reloads != results:
            await setting.reloaded.wait()
            setting.reloaded = anyio.Event()


@every_listener
async def test_a_listener_with_a_certificate_speaks_tls_alone(setting: Setting, kind: str) -> None:
    """Whoever trusts its authority gets through; who trusts another one, or speaks in the clear, does not."""
    listener = setting.listener(kind, security(setting))
    async with listener.running():
        async with setting.caller(kind, listener.port, setting.authority.pem) as call:
            assert await call() == OK
        for trusted in (Authority().pem, None):
            async with setting.caller(kind, listener.port, trusted) as call:
                with pytest.raises(NO_CONNECTION):
                    await call()


@every_listener
async def test_no_listener_speaks_tls_older_than_1_2(setting: Setting, kind: str) -> None:
    """A client that offers 1.1 alone is refused by the listener, and would not have been for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that 1.1 is old is what this is about
        try:
            context = old_client()
        except (ValueError, ssl.SSLError) as exc:
            pytest.skip(f"this OpenSSL makes no client of TLS 1.1: {exc}")
    await spoken_by_an_old_server(setting, context)
    listener = setting.listener(kind, security(setting))
    async with listener.running():
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", listener.port, ssl=context, server_hostname="localhost")
        async with setting.caller(kind, listener.port, setting.authority.pem) as call:
            assert await call() == OK


async def spoken_by_an_old_server(setting: Setting, context: ssl.SSLContext) -> None:
    """Skip where not even a server that allows TLS 1.1 comes to terms with this client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(setting.files.cert, setting.files.key)
    server.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = ssl.TLSVersion.TLSv1
    old = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=server)
    async with old:
        port = old.sockets[0].getsockname()[1]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        except ssl.SSLError as exc:
            pytest.skip(f"this OpenSSL speaks no TLS 1.1: {exc}")
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.close()


@pytest.mark.parametrize("kind", ["otlp_http", "datakit", "web"])
async def test_version_1_3_can_be_asked_for(setting: Setting, kind: str) -> None:
    """A client that knows 1.2 alone is then refused; gRPC offers no such choice, and its settings say so."""
    tls = ServerTls(setting.files.cert, setting.files.key, min_version="1.3")
    listener = setting.listener(kind, ListenerSecurity("listener", tls=tls))
    client = ssl.create_default_context(cadata=setting.authority.pem.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listener.running():
        async with setting.caller(kind, listener.port, setting.authority.pem) as call:
            assert await call() == OK
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", listener.port, ssl=client, server_hostname="localhost")


@every_listener
async def test_with_client_authorities_a_certificate_of_theirs_is_asked_for(setting: Setting, kind: str) -> None:
    """No certificate, an expired one, or one of another authority: no connection, and nothing reaches the handler."""
    clients, others = Authority(), Authority()
    setting.files.put(ca=clients.pem)
    listener = setting.listener(kind, security(setting, clients=True))
    trusted = setting.authority.pem
    async with listener.running():
        async with setting.caller(kind, listener.port, trusted, clients.issue("sender")) as call:
            assert await call() == OK
        taken = len(setting.consumer.batches)
        for identity in (None, others.issue("sender"), clients.issue("sender", days=-1)):
            async with setting.caller(kind, listener.port, trusted, identity) as call:
                with pytest.raises(NO_CONNECTION):
                    await call()
        assert len(setting.consumer.batches) == taken


@every_listener
async def test_a_new_certificate_is_shown_to_new_connections_and_ends_no_old_one(setting: Setting, kind: str) -> None:
    """Calls go on meanwhile, one after another on one connection, and none of them fails."""
    listener = setting.listener(kind, security(setting))
    before, after = setting.authority, Authority()
    async with listener.running(), setting.watch.running(), setting.caller(kind, listener.port, before.pem) as old:
        assert await old() == OK
        calls, done = list[str](), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_calling, old, calls, done)
            setting.authority = after
            setting.issue()
            await reloads(setting, ["ok"])
            async with setting.caller(kind, listener.port, after.pem) as new:
                assert await new() == OK
            async with setting.caller(kind, listener.port, before.pem) as late:
                with pytest.raises(NO_CONNECTION):
                    await late()
            done.set()
        assert await old() == OK
    assert calls
    assert set(calls) == {OK}


async def keep_calling(call: Caller, answers: list[str], done: anyio.Event) -> None:
    while not done.is_set():
        answers.append(await call())


@every_listener
async def test_client_authorities_are_replaced_not_added_to(setting: Setting, kind: str) -> None:
    """Who was trusted before is not any more, once the file names another authority."""
    first, second = Authority(), Authority()
    setting.files.put(ca=first.pem)
    listener = setting.listener(kind, security(setting, clients=True))
    trusted = setting.authority.pem
    async with listener.running(), setting.watch.running():
        setting.files.put(ca=second.pem)
        await reloads(setting, ["ok"])
        async with setting.caller(kind, listener.port, trusted, second.issue("sender")) as call:
            assert await call() == OK
        async with setting.caller(kind, listener.port, trusted, first.issue("sender")) as call:
            with pytest.raises(NO_CONNECTION):
                await call()


@every_listener
@pytest.mark.parametrize("damage", ["half a certificate", "the key of another", "an encrypted key", "no file"])
async def test_files_that_cannot_be_used_leave_the_old_ones_in_use(setting: Setting, kind: str, damage: str) -> None:
    """Told once, counted, and mended by the next good files."""
    listener = setting.listener(kind, security(setting))
    cert, key = setting.authority.issue("localhost")
    async with listener.running(), setting.watch.running():
        match damage:
            case "half a certificate":
                setting.files.put((cert[: len(cert) // 2], key))
            case "the key of another":
                setting.files.put((cert, setting.authority.issue("localhost")[1]))
            case "an encrypted key":
                setting.files.put((cert, ENCRYPTED_KEY))
            case _:
                setting.files.key.unlink()
        await reloads(setting, ["failed"])
        async with setting.caller(kind, listener.port, setting.authority.pem) as call:
            assert await call() == OK
        setting.authority = Authority()
        setting.issue()
        await reloads(setting, ["failed", "ok"])
        async with setting.caller(kind, listener.port, setting.authority.pem) as call:
            assert await call() == OK


@every_listener
async def test_a_start_with_files_that_cannot_be_used_is_a_config_error(setting: Setting, kind: str) -> None:
    """Which names the listener and the file."""
    setting.files.key.write_bytes(b"no key")
    listener = setting.listener(kind, security(setting))
    with pytest.raises(ConfigError, match=r"^listener: TLS: .*key\.pem"):
        async with listener.running():
            pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cert": b"no certificate"}, "cert.pem and .*key.pem cannot be used together"),
        ({"key": b"no key"}, "cert.pem and .*key.pem cannot be used together"),
        ({"ca": b"no authority"}, "ca.pem has no certificates"),
        ({"ca": None}, "cannot read .*ca.pem: No such file"),
    ],
)
def test_errors_name_the_file(setting: Setting, changes: Mapping[str, bytes | None], says: str) -> None:
    """And what is wrong with it."""
    files = Files(setting.folder / "server").put(ca=setting.authority.pem)
    for name, data in changes.items():
        path = files.folder / f"{name}.pem"
        path.unlink()
        if data is not None:
            path.write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        ServerTls(files.cert, files.key, files.ca).load()


def test_an_encrypted_key_is_refused_and_no_passphrase_asked_for(setting: Setting) -> None:
    """OpenSSL would ask on the terminal, and wait."""
    setting.files.key.write_bytes(ENCRYPTED_KEY)
    with pytest.raises(ConfigError, match=r"key\.pem is encrypted with a passphrase"):
        ServerTls(setting.files.cert, setting.files.key).load()


ENCRYPTED_KEY = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAislaaKTx1kOgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEH3g3CuPLxNe1NmexH+2ca0EgZCT
a9CzLXE+WEjUPAJRna+DJuzFzdbeSWiQExWLYR4vaTKAyo4K3Nl+VFCtarDdFdJo
n2yXcKSTpZw8S0aI9LYL3EblO0q8FsbCWg/d6tcfc5kJFbsKOIZe3GcvvfCCJFn2
43Oi6dq+o5TDuSWHyEBKIu4wg/PD7zo0h6n/14Xo1eURDgglBxONsDLZdKMhSeE=
-----END ENCRYPTED PRIVATE KEY-----
"""
