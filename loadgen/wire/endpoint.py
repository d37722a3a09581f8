"""Where connections go: a host and a port, its addresses, and whether it is spoken to in TLS."""

from __future__ import annotations

import _socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent

from loadgen.plan import Target
from loadgen.security import tls_context

Resolved = Callable[[list["Address"], str], None]


@dataclass(frozen=True, slots=True)
class Address:
    family: int
    sockaddr: tuple[Any, ...]


class Endpoint:
    """One per client, shared by its connections. The name is looked up once, by gevent's resolver; the loop goes on."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        self.host, self.port, self.tls = host, port, tls
        self.server_name = server_name or host
        self.label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._addresses = _literal(host, port)
        self._asking: list[Resolved] = []

    @classmethod
    def of(cls, target: Target, protocols: tuple[str, ...]) -> Endpoint:
        """`protocols`: for ALPN. Raises ValueError where the URL or the TLS settings cannot be used."""
        parts = urlsplit(target.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{target.url}: a target is http://HOST[:PORT]/PATH or https://...")
        if parts.scheme == "http":
            return cls(parts.hostname, parts.port or 80)
        return cls(parts.hostname, parts.port or 443, tls_context(target.tls, protocols), target.tls.server_name)

    def resolve(self, then: Resolved) -> None:
        """Call `then(addresses, "")`, at once where they are known, or `then([], why)`. Failures are not remembered."""
        if self._addresses:
            then(self._addresses, "")
            return
        self._asking.append(then)
        if len(self._asking) == 1:
            gevent.spawn(self._look_up)

    def prefer(self, address: Address) -> None:
        """This one took a connection: begin with it the next time."""
        if self._addresses[0] is not address:
            self._addresses.remove(address)
            self._addresses.insert(0, address)

    def _look_up(self) -> None:
        why = ""
        try:
            self.host.encode("idna")  # here, and not in a thread of gevent's, which would print a traceback
            found = gevent.get_hub().resolver.getaddrinfo(self.host, self.port, 0, _socket.SOCK_STREAM)
            self._addresses = [Address(each[0], each[4]) for each in found]
        except (OSError, UnicodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        asking, self._asking = self._asking, []
        for then in asking:
            then(self._addresses, why)


def _literal(host: str, port: int) -> list[Address]:
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [Address(each[0], each[4]) for each in found]
