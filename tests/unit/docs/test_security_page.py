"""docs/security.md: its settings can be used, and what it names is there."""

import re
from pathlib import Path

import pytest

from bridge.config import load
from bridge.config.catalogue import entries
from tests.support.certificates import Authority, server_names

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "security.md"
SNIPPETS = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
BACKEND = '\n[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://backend:14317"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as the page names them."""
    authority = Authority()
    for name in ("server", "client"):
        cert, key = authority.issue(*server_names())
        (tmp_path / f"{name}.pem").write_bytes(cert)
        (tmp_path / f"{name}.key").write_bytes(key)
    for name in ("ca", "clients-ca"):
        (tmp_path / f"{name}.pem").write_bytes(authority.pem)
    for name in ("tokens", "scrape-tokens"):
        (tmp_path / name).write_text("# agents\n0123456789abcdef0123456789abcdef\n")
    return tmp_path


def test_there_are_snippets() -> None:
    """For TLS, client certificates, tokens, names and exporters."""
    assert len(SNIPPETS) == 5


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_settings_of_the_page_load(snippet: str, folder: Path) -> None:
    """With files that are there; each changes something."""
    path = folder / "bridge.toml"
    path.write_text(snippet.replace("/etc/espan-bridge", str(folder)) + BACKEND)
    loaded = load(path, {})
    assert loaded.warnings == ()
    assert len(loaded.origins) > 2


def test_a_listener_set_up_as_the_page_says_is_warned_of_no_more(folder: Path) -> None:
    """TLS with tokens, or with client certificates."""
    path = folder / "bridge.toml"
    for snippet in (SNIPPETS[1], SNIPPETS[2].partition("[web]")[0]):
        path.write_text(snippet.replace("/etc/espan-bridge", str(folder)) + BACKEND)
        assert load(path, {}).exposed == ()


def test_what_the_page_names_as_metrics_and_settings_is_there() -> None:
    """No name that was changed elsewhere stays here."""
    text = PAGE.read_text()
    metrics = set(re.findall(r"\b((?:receiver|credential|tls|web)_[a-z_]+(?:_total|_seconds))\b", text))
    assert len(metrics) == 4
    assert [name for name in metrics if f"`{name}`" not in (ROOT / "docs" / "metrics.md").read_text()] == []
    keys = {entry.path[-1] for entry in entries()}
    named = {"tokens_file", "auth_header", "client_ca_file", "cert_file", "key_file", "min_version", "allowed_hosts"}
    assert named <= keys
    assert all(f"`{name}`" in text or f"{name} =" in text for name in named)
