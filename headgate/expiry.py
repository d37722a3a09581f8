"""When a certificate ends. Python's ssl tells that of a peer's certificate only, so the few bytes are read here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_END = "-----END CERTIFICATE-----"
_EXPLICIT_VERSION, _UTC_TIME = 0xA0, 0x17


def ends(pem: bytes) -> datetime | None:
    """The end of the first certificate's validity; None when there is none that can be read."""
    text = pem.decode("ascii", errors="replace")
    start, stop = text.find("-----BEGIN CERTIFICATE-----"), text.find(_END)
    if start < 0 or stop < start:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(text[start : stop + len(_END)])
        certificate = next(_parts(der))[1]
        fields = list(_parts(next(_parts(certificate))[1]))
        if fields[0][0] == _EXPLICIT_VERSION:
            del fields[0]
        _, _, _, validity = (content for _, content in fields[:4])  # serial, algorithm, issuer, validity
        kind, value = list(_parts(validity))[1]
        return _time(kind, value.decode("ascii"))
    except (ValueError, IndexError, StopIteration):
        return None


def _time(kind: int, text: str) -> datetime:
    if kind == _UTC_TIME:  # two digits: 1950 to 2049
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, content) of each element in a row."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size]), at + size
        yield tag, der[at : at + length]
        at += length
