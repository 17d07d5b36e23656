"""Which tokens are let in, and that none of them shows."""

import base64
import pickle
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.security import ListenerSecurity, Tokens, Unauthenticated, basic_password, read_tokens

ONE, OTHER = "first-token-of-two-0123", "second-token-of-two-4567"


def test_each_of_several_tokens_is_known() -> None:
    """So that one can be replaced while the other is in use."""
    tokens = Tokens([ONE, OTHER])
    assert ONE in tokens
    assert OTHER in tokens


@pytest.mark.parametrize("presented", ["", ONE[:-1], ONE + "x", ONE.upper(), "ÿ" * 20, "\udcff" * 20, ONE + "\0"])
def test_anything_else_is_not(presented: str) -> None:
    """Prefixes, longer texts, and what is not ASCII or not even UTF-8."""
    assert presented not in Tokens([ONE, OTHER])


def test_tokens_are_not_kept() -> None:
    """Neither a repr nor a dump of the object has them."""
    tokens = ListenerSecurity("web", tokens=[ONE]).__dict__
    assert ONE not in repr(tokens)
    assert ONE.encode() not in pickle.dumps([Tokens([ONE])._digests])


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("authorization", f"Bearer {ONE}"),
        ("authorization", f"bearer   {ONE} "),
        ("Authorization", f"BEARER {OTHER}"),
        ("x-api-key", ONE),
        ("x-api-key", f" {ONE}"),
    ],
)
def test_a_known_token_is_let_in(header: str, value: str) -> None:
    """Behind Bearer in authorization, in whatever case, and alone in any other header."""
    security = ListenerSecurity("web", tokens=[ONE, OTHER], header=header)
    security.start()
    security.check(value)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("authorization", None),
        ("authorization", ""),
        ("authorization", ONE),
        ("authorization", f"Basic {ONE}"),
        ("authorization", "Bearer"),
        ("authorization", f"Bearer {ONE}x"),
        ("authorization", f"Bearer {ONE} {ONE}"),
        ("x-api-key", f"Bearer {ONE}"),
        ("x-api-key", "ÿ"),
    ],
)
def test_nothing_else_is_let_in(header: str, value: str | None) -> None:
    """And the refusal says where the token belongs, not what was there."""
    security = ListenerSecurity("web", tokens=[ONE], header=header)
    security.start()
    with pytest.raises(Unauthenticated, match=f"header {header}: ") as caught:
        security.check(value)
    assert ONE not in str(caught.value)


def test_without_tokens_everybody_is_let_in() -> None:
    """What is not asked for costs nothing."""
    ListenerSecurity("web").check(None)


@pytest.mark.parametrize(
    ("value", "password"),
    [
        ("Basic " + base64.b64encode(f":{ONE}".encode()).decode(), ONE),
        ("basic " + base64.b64encode(f"agent:{ONE}".encode()).decode(), ONE),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), ""),
        ("Basic !!", ""),
        ("Bearer x", ""),
        (None, ""),
    ],
)
def test_the_password_of_a_url_is_a_token_too(value: str | None, password: str) -> None:
    """Clients make a header of scheme Basic of it; what is none has no password."""
    assert basic_password(value) == password


def test_a_file_has_a_token_a_line(tmp_path: Path) -> None:
    """Empty lines and comments do not count; neither do spaces around."""
    path = tmp_path / "tokens"
    path.write_text(f"# agents\n\n{ONE}  \r\n  {OTHER}")
    assert read_tokens(path) == [ONE, OTHER]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "there is none"),
        (b"# nobody\n", "there is none"),
        (f"{ONE}\nshort\n".encode(), "line 2"),
        (f"{ONE} {OTHER}\n".encode(), "line 1"),
        ("tökentökentökentöken\n".encode(), "line 1"),
        (b"\xff\xfe" + ONE.encode(), "UTF-8"),
    ],
)
def test_a_file_that_would_let_in_nobody_or_anybody_is_refused(tmp_path: Path, text: bytes, says: str) -> None:
    """Without showing what it has."""
    path = tmp_path / "tokens"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_tokens(path)
    assert ONE not in str(caught.value)
    assert "short" not in str(caught.value)
