"""When certificates expire: the one field of them that is read here, in DER as X.509 (RFC 5280, 4.1) lays it out."""

import re
import ssl
from datetime import UTC, datetime

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_FIRST_CENTURY_YEAR = 50
"""UTCTime has two digits of the year: from 50 on it is 19xx (RFC 5280, 4.1.2.5.1)."""


def expiry_s(pem: bytes) -> float:
    """When the first of these certificates expires, in seconds since the epoch.

    Raises ValueError where there is none, or one cannot be read.
    """
    found = _CERTIFICATE.findall(pem.decode("ascii", errors="replace"))
    if not found:
        raise ValueError("there is no certificate in it")
    return min(_not_after_s(ssl.PEM_cert_to_DER_cert(text)) for text in found)


def _not_after_s(der: bytes) -> float:
    certificate, _ = _value(der, _SEQUENCE)
    rest, _ = _value(certificate, _SEQUENCE)
    if rest[:1] == bytes((_VERSION,)):
        _, rest = _value(rest)
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, rest = _value(rest)
    validity, _ = _value(rest, _SEQUENCE)
    _, rest = _value(validity)  # not before
    tag = rest[0] if rest else 0
    text, _ = _value(rest)
    return _time_s(tag, text.decode("ascii", errors="replace"))


def _value(der: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """The contents of the first element, and what follows it. Raises ValueError."""
    if len(der) < 2 or (tag is not None and der[0] != tag):
        raise ValueError("it is no X.509 certificate")
    start, length = 2, der[1]
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start])
    end = start + length
    if end > len(der):
        raise ValueError("the certificate ends too early")
    return der[start:end], der[end:]


def _time_s(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        text = ("19" if text[:2].isdecimal() and int(text[:2]) >= _FIRST_CENTURY_YEAR else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("the certificate does not say when it expires")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
