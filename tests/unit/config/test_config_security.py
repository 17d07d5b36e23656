"""TLS and tokens in the settings: what is an error, and which listeners are warned of."""

from pathlib import Path

import pytest

from tests.support.certificates import Authority, Files, server_names


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority = Authority()
    return Files(tmp_path).put(authority.issue(*server_names()), authority.pem)


def table(files: Files, name: str = "receivers.otlp_http", more: str = "") -> str:
    return f'[{name}.tls]\ncert_file = "{files.cert}"\nkey_file = "{files.key}"\n{more}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[web.tls]\ncert_file = 'a'", "web.tls: cert_file is set without key_file"),
        ("[web.tls]\nkey_file = 'a'", "web.tls: key_file is set without cert_file"),
        ("[web.tls]\nclient_ca_file = 'a'", "client_ca_file is set without cert_file and key_file"),
        ("[web.tls]\ncert_file = '/nowhere/a'\nkey_file = '/nowhere/b'", "web.tls: TLS: cannot read /nowhere/a"),
        ("[web.tls]\nmin_version = '1.1'", 'web.tls.min_version = "1.1": allowed: "1.2" or "1.3"'),
        ("[receivers.otlp_grpc.tls]\nmin_version = '1.3'", "gRPC speaks 1.2 and 1.3, and offers no choice"),
        ("[web]\ntokens = ['short']", "web.tokens = ***: a token is at least 16 visible ASCII characters"),
        ("[web]\ntokens_file = '/nowhere/tokens'", "web.tokens_file: tokens: cannot read /nowhere/tokens"),
        ("[web]\nauth_header = 'a b'", "web.auth_header = ***: allowed: the name of a header"),
        ("[web]\nallowed_hosts = ['http://a']", 'web.allowed_hosts = "http://a": is no host'),
        ("[web]\nallowed_hosts = '*'", 'web.allowed_hosts = "*": allowed: a list of host names'),
        (
            "[receivers.datakit]\nforward_to = 'http://l:1'\n[receivers.datakit.forward_tls]\nca_file = 'a'",
            "no TLS with this",
        ),
    ],
)
def test_what_cannot_be_used_is_an_error(errors, text: str, says: str) -> None:
    """With the key and what to do."""
    found = errors(text)
    assert len(found) == 1
    assert says in found[0]


def test_a_certificate_and_the_key_of_another_are_an_error(errors, files: Files) -> None:
    """Told by `check` already, and not only when it is started."""
    files.key.write_bytes(Authority().issue("other")[1])
    assert "cannot be used together: key values mismatch" in errors(table(files))[0]


def test_min_version_of_a_grpc_exporter_is_not_to_be_chosen(errors) -> None:
    """One of HTTP has the choice."""
    text = '[exporters.a]\ntype = "{}"\nendpoint = "https://h:1"\n[exporters.a.tls]\nmin_version = "1.3"\n'
    assert "offers no choice" in errors(text.format("otlp_grpc"), bare=True)[0]


def test_min_version_of_an_http_exporter_is_taken(loaded) -> None:
    """As it stands."""
    text = '[exporters.a]\ntype = "otlp_http"\nendpoint = "https://h:1"\n[exporters.a.tls]\nmin_version = "1.3"\n'
    assert loaded(text, bare=True).settings.exporters["a"].tls.min_version == "1.3"


def test_listeners_of_this_machine_are_not_warned_of(loaded) -> None:
    """By name or by address."""
    hosts = ("localhost", "127.0.0.1", "::1", "127.8.8.8")
    assert [loaded(f'[web]\nhost = "{host}"').exposed for host in hosts] == [()] * len(hosts)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "bridge.example"])  # noqa: S104 -- looked at, not bound
@pytest.mark.parametrize("name", ["receivers.otlp_grpc", "receivers.otlp_http", "receivers.datakit", "web"])
def test_each_listener_that_is_open_to_others_is_warned_of(loaded, host: str, name: str) -> None:
    """Once, with what to set."""
    (warning,) = loaded(f'[{name}]\nhost = "{host}"').exposed
    assert f"{name}.host = {host}" in warning
    assert f"{name}.tls.cert_file and {name}.tls.key_file" in warning
    assert f"{name}.tokens_file or {name}.tls.client_ca_file" in warning


def test_a_warning_names_what_is_missing_alone(loaded, files: Files, tmp_path: Path) -> None:
    """TLS without asking who it is, tokens in the clear; nothing where neither is missing, or nobody listens."""
    tokens = tmp_path / "tokens"
    tokens.write_text("0123456789abcdef\n")
    web = '[web]\nhost = "0.0.0.0"\n'
    (anybody,) = loaded(web + table(files, "web")).exposed
    assert "without TLS" not in anybody
    assert "without tokens" in anybody
    (clear,) = loaded(f'{web}tokens_file = "{tokens}"\n').exposed
    assert "without TLS" in clear
    assert "without tokens" not in clear
    assert loaded(f'{web}tokens_file = "{tokens}"\n' + table(files, "web")).exposed == ()
    assert loaded(web + table(files, "web", f'client_ca_file = "{files.ca}"')).exposed == ()
    assert loaded(web + "enabled = false\n").exposed == ()
