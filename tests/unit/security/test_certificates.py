"""When certificates expire, read off certificates that others made."""

import contextlib
import ssl
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.security.certificates import expiry_s

AUTHORITY = trustme.CA()


def issued(ends: datetime) -> bytes:
    made = AUTHORITY.issue_cert("localhost", not_before=datetime(1990, 1, 1, tzinfo=UTC), not_after=ends)
    return b"".join(pem.bytes() for pem in made.cert_chain_pems)


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 2600])
def test_expiry_is_read_in_both_notations(year: int) -> None:
    """Up to 2049 X.509 writes years with two digits, from then on with four."""
    ends = datetime(year, 7, 3, 4, 5, 6, tzinfo=UTC)
    assert expiry_s(issued(ends)) == ends.timestamp()


def test_the_first_to_expire_counts() -> None:
    """A chain is as good as its weakest certificate, wherever it stands."""
    early, late = datetime(2030, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    assert expiry_s(issued(late) + issued(early)) == expiry_s(issued(early) + issued(late)) == early.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_a_value_error(text: bytes) -> None:
    """And nothing else, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        expiry_s(text)


@settings(max_examples=200)
@given(st.integers(0, 2000), st.binary(max_size=8))
def test_damaged_certificates_are_value_errors(position: int, junk: bytes) -> None:
    """Bytes put anywhere into a certificate: a time, or a ValueError."""
    der = ssl.PEM_cert_to_DER_cert(AUTHORITY.cert_pem.bytes().decode())
    damaged = der[: position % len(der)] + junk + der[position % len(der) + len(junk) :]
    with contextlib.suppress(ValueError):
        expiry_s(ssl.DER_cert_to_PEM_cert(damaged).encode())
