"""Durations, sizes and truth values as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.units import SIZES, format_duration, format_size, parse_duration, parse_size, parse_truth

S = 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("20s", 20 * S),
        ("1m30s", 90 * S),
        ("500ms", S // 2),
        ("1.5h", 5400 * S),
        (".5s", S // 2),
        ("5.s", 5 * S),
        ("1h1m1s1ms1us1ns", 3661 * S + 1_001_001),
        ("3µs", 3000),
        ("0", 0),
        ("-2s", -2 * S),
        ("+2s", 2 * S),
        ("0.1ns", 0),
    ],
)
def test_durations_read_as_go_reads_them(text: str, ns: int) -> None:
    """Terms of number and unit, added up; fractions are exact."""
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "20", "s", "20 s", "1d", "1s2", "٣s", "--1s", "1e3s", "9999999h", ".s"])
def test_what_go_refuses_is_no_duration(text: str) -> None:
    """No unit, no number, unknown units, blanks, foreign digits and overflow are errors."""
    with pytest.raises(ValueError, match="want a duration"):
        parse_duration(text)


def test_a_duration_without_unit_is_answered_with_a_guess() -> None:
    """The error says what was probably meant."""
    with pytest.raises(ValueError, match='did you mean "20s"'):
        parse_duration("20")


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_shown_duration_reads_back(ns: int) -> None:
    """format_duration loses nothing."""
    assert parse_duration(format_duration(ns)) == ns


@given(st.integers(1, 2**50))
def test_a_shown_size_reads_back(size: int) -> None:
    """format_size loses nothing."""
    shown = format_size(size)
    assert (parse_size(shown) if isinstance(shown, str) else shown) == size


def test_sizes_know_binary_and_decimal_units_in_any_case() -> None:
    """KiB is 1024, KB 1000; case and one blank do not matter; fractions must come to whole bytes."""
    assert [parse_size(t) for t in ("64MiB", "4 mb", "1.5KiB", "7B")] == [64 << 20, 4_000_000, 1536, 7]
    assert all(parse_size(f"1{unit}") == size for unit, size in SIZES.items())
    for text in ("", "5", "1.0001KiB", "1 parsec", "-1KiB"):
        with pytest.raises(ValueError, match="want a number of bytes"):
            parse_size(text)


def test_truth_has_gos_spellings() -> None:
    """What Go's ParseBool takes, and empty text for no; everything else is an error."""
    assert all(parse_truth(t) for t in ("1", "t", "T", "true", "True", "TRUE"))
    assert not any(parse_truth(t) for t in ("", "0", "f", "F", "false", "False", "FALSE"))
    for text in ("yes", "on", "2", "tRUE"):
        with pytest.raises(ValueError, match="neither yes nor no"):
            parse_truth(text)
