"""Settings of attribute rules: what is refused, with which words, and what is only warned of."""

from pathlib import Path

import pytest

from bridge.codec.attribute_rules import Action, Rule
from bridge.config.listing import listing
from bridge.pipeline.attribute_rules import rules_of
from tests.unit.config.conftest import Errors, Load

KEY = "0123456789abcdef"


def test_rules_are_read_by_name(loaded: Load) -> None:
    """A query may be cut before a hash or a length; every name has one rule."""
    text = f"""[attributes]
drop = ["z*"]
hash = ["u"]
strip_query = ["u", "p"]
truncate = {{p = 5, q = 0}}
hash_key = "{KEY}"
"""
    assert rules_of(loaded(text).settings.attributes) == [
        Rule("p", Action.STRIP_QUERY | Action.TRUNCATE, 5),
        Rule("q", Action.TRUNCATE, 0),
        Rule("u", Action.STRIP_QUERY | Action.HASH),
        Rule("z*", Action.DROP),
    ]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ('drop = ["trace_id"]', ["attributes.drop", '"trace_id" would change trace_id', "to be a trace"]),
        ('hash = ["req_*"]', ["attributes.hash", '"req_*" would change req_seq']),
        ("truncate = {thread_trace_id = 5}", ["attributes.truncate", "thread_trace_id"]),
        ('drop = ["span.name"]', ["attributes.drop", "would take off span.name", "strip_query, hash or truncate"]),
        ('drop = ["a"]\nhash = ["a"]', ["attributes.hash", '"a" is in attributes.drop, too']),
        ('hash = ["a"]\ntruncate = {a = 1}', ["attributes.truncate", '"a" is in attributes.hash, too']),
        ('drop = ["*"]', ["attributes.drop", "a star stands for any end"]),
        ('drop = ["a*b"]', ["attributes.drop", "a star stands for any end"]),
        ('drop = "a"', ["attributes.drop", "a list of names"]),
        ("truncate = {a = -1}", ["attributes.truncate", "0 or more"]),
        ('hash = ["a"]\nhash_key = "short"', ["attributes.hash_key", "5 bytes", "16 to 64"]),
        (f'hash_key = "{KEY}"\nhash_key_file = "x"', ["attributes.hash_key_file", "hash_key is set, too"]),
        ('hash_key_file = "/there/is/none"', ["attributes.hash_key_file", "No such file"]),
        ('droop = ["a"]', ["attributes.droop", 'did you mean "drop"']),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(errors: Errors, rules: str, words: list[str]) -> None:
    """One line names the key and what to do."""
    (line,) = errors(f"[attributes]\n{rules}\n")
    assert all(word in line for word in words), line


def test_addresses_may_be_changed(loaded: Load) -> None:
    """Linking reads them before the rules do, and needs them no longer."""
    assert loaded('[attributes]\ndrop = ["src_ip", "dst_ip"]\n').warnings == ()


def test_hashes_without_a_key_are_warned_of(loaded: Load, tmp_path: Path) -> None:
    """Values that can be guessed can be told from their hash."""
    (warning,) = loaded('[attributes]\nhash = ["enduser.id"]\n').warnings
    assert "attributes.hash_key_file" in warning
    key = tmp_path / "hash.key"
    key.write_text(KEY + "\n")
    settings = loaded(f'[attributes]\nhash = ["enduser.id"]\nhash_key_file = "{key}"\n')
    assert settings.warnings == ()
    assert settings.settings.attributes.key_bytes == KEY.encode()


def test_the_key_is_shown_nowhere(loaded: Load, errors: Errors) -> None:
    """Neither by `check`, nor by a repr, nor by an error about it."""
    found = loaded(f'[attributes]\nhash = ["a"]\nhash_key = "{KEY}"\n')
    assert KEY not in listing(found) + repr(found) + str(found.settings.attributes)
    lines = errors('[attributes]\nhash = ["a"]\nhash_key = "secret text"\n')
    assert "secret text" not in "".join(lines)
