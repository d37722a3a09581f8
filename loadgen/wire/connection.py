"""A connection: bytes over TCP, or TLS, driven by callbacks of gevent's hub loop. No greenlet waits for it.

Sockets are those of CPython's C module: they are the same whether gevent has patched the process or not.
"""

from __future__ import annotations

import _socket
import errno
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from os import strerror
from typing import Any

import gevent

from loadgen.wire.call import (
    CLOSED_EARLY,
    CONNECT_TIMEOUT,
    NO_ROOM,
    NOT_RESOLVED,
    REFUSED,
    RESET,
    TLS,
    UNREACHABLE,
)
from loadgen.wire.endpoint import Address, Endpoint

READ, WRITE = 1, 2  # libev's
AT_ONCE = 65536  # bytes read at a time
_MAYBE = " (does it want a client certificate?)"


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a connection ended, a failure's kind and its message. `finished`: the server ended it in good order."""

    kind: str
    message: str
    finished: bool = False


class Connection:
    """Begins to connect when made. Then calls `on_open()`, `on_bytes(data)` as data come, and `on_closed(why)` at last.

    Nothing is called from inside the constructor, `write` or `close`, and nothing after `close`. `alpn` is what the
    server chose, None without TLS. `unsent` bytes wait for the socket to take them.
    """

    __slots__ = (
        "_endpoint",
        "_left",
        "_loop",
        "_reader",
        "_recv",
        "_send",
        "_socket",
        "_timer",
        "_unsent",
        "_writer",
        "alpn",
        "on_bytes",
        "on_closed",
        "on_open",
        "opened",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        connect_timeout: float,
        on_open: Callable[[], None],
        on_bytes: Callable[[bytes], None],
        on_closed: Callable[[Closed], None],
    ) -> None:
        self._endpoint = endpoint
        self.on_open, self.on_bytes, self.on_closed = on_open, on_bytes, on_closed
        self.alpn: str | None = None
        self.opened = False
        self._loop = gevent.get_hub().loop
        self._socket: _socket.socket | None = None
        self._reader: Any = None
        self._writer: Any = None
        self._unsent = bytearray()
        self._left: list[Address] = []
        self._timer = self._loop.timer(connect_timeout)
        self._timer.start(self._too_late, connect_timeout)
        self._loop.run_callback(self._begin)

    @property
    def free(self) -> bool:
        """Neither side has closed it, and nothing is left to send."""
        return not self._unsent and self.on_closed is not _nothing

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the server is gone, perhaps with an answer left to read: reading finds out
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._writer.start(self._writable)

    def close(self) -> None:
        """Drop it: nothing of it is called any more."""
        self.on_open = self.on_bytes = self.on_closed = _nothing
        self._timer.close()
        self._disconnect()

    # ------------------------------------------------------------------ the way to an open connection

    def _begin(self) -> None:
        if self.on_closed is not _nothing:
            self._endpoint.resolve(self._resolved)

    def _resolved(self, addresses: list[Address], why: str) -> None:
        if self.on_closed is _nothing:
            return
        if not addresses:
            self._fail(NOT_RESOLVED, f"{self._endpoint.host}: {why}")
            return
        self._left = list(addresses)
        self._try_next()

    def _try_next(self) -> None:
        address = self._left.pop(0)
        try:
            self._socket = _socket.socket(address.family, _socket.SOCK_STREAM)
            self._socket.setblocking(False)
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            code = self._socket.connect_ex(address.sockaddr)
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS) or self._socket is None:
            self._not_connected(code)
            return
        self._recv, self._send = self._socket.recv, self._socket.send
        self._reader = self._loop.io(self._socket.fileno(), READ)
        self._writer = self._loop.io(self._socket.fileno(), WRITE)
        self._writer.start(self._connecting, address)

    def _connecting(self, address: Address) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            self._not_connected(code)
            return
        self._writer.stop()
        self._endpoint.prefer(address)
        self._connected()

    def _not_connected(self, code: int) -> None:
        self._disconnect()
        if self._left:
            self._try_next()
        else:
            self._fail(*_reason(code, self._endpoint.label))

    def _connected(self) -> None:
        self._reader.start(self._readable)
        self._open()

    def _open(self) -> None:
        self._timer.close()
        self.opened = True
        self.on_open()

    def _too_late(self, timeout: float) -> None:
        self._fail(CONNECT_TIMEOUT, f"no connection to {self._endpoint.label} within {timeout:g} s")

    # ------------------------------------------------------------------ an open connection

    def _readable(self) -> None:
        try:
            data = self._recv(AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(*_reason(error.errno or errno.EIO, self._endpoint.label))
            return
        if data:
            self.on_bytes(data)
        else:
            self._fail(CLOSED_EARLY, f"{self._endpoint.label} closed the connection", finished=True)

    def _writable(self) -> None:
        try:
            sent = self._send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._writer.stop()  # as in write()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._writer.stop()

    def _fail(self, kind: str, message: str, finished: bool = False) -> None:
        closed = self.on_closed
        self.close()
        closed(Closed(kind, message, finished))

    def _disconnect(self) -> None:
        if self._socket is None:
            return
        if self._reader is not None:
            self._reader.close()
            self._writer.close()
            self._reader = self._writer = None
        self._socket.close()
        self._socket = None


class TlsConnection(Connection):
    """The same in TLS: OpenSSL between two buffers in memory, the socket as above."""

    __slots__ = ("_heard", "_incoming", "_outgoing", "_tls")

    _tls: ssl.SSLObject

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._tls.write(rest) :]
            except ssl.SSLError:
                return  # reading finds out
        super().write(self._outgoing.read())

    def _connected(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._heard = False  # anything but the handshake
        assert self._endpoint.tls is not None
        name = self._endpoint.server_name
        try:
            self._tls = self._endpoint.tls.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        except ValueError as error:
            self._fail(TLS, f"the server name {name!r} cannot be used: {error}")
            return
        self._reader.start(self._handshake_readable)
        self._shake_hands()

    def _handshake_readable(self) -> None:
        try:
            data = self._recv(AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(*_reason(error.errno or errno.EIO, f"{self._endpoint.label}, in the TLS handshake"))
            return
        if not data:
            self._fail(TLS, f"{self._endpoint.label} closed the connection in the TLS handshake{_MAYBE}")
            return
        self._incoming.write(data)
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # our alert
            self._fail(TLS, _tls_reason(error, self._endpoint))
            return
        self._flush()
        self.alpn = self._tls.selected_alpn_protocol()
        self._reader.stop()
        self._reader.start(self._readable)
        self._open()
        if self._socket is not None and (self._incoming.pending or self._tls.pending()):
            self._decrypt(finished=False)

    def _readable(self) -> None:
        try:
            data = self._recv(AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(*_reason(error.errno or errno.EIO, self._endpoint.label))
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._decrypt(finished=not data)

    def _decrypt(self, finished: bool) -> None:
        """Hand on what has come whole. Without the server's farewell an end may be somebody else's doing."""
        parts: list[bytes] = []
        end: tuple[str, str, bool] | None = None
        while end is None and (finished or self._incoming.pending or self._tls.pending()):
            try:
                part = self._tls.read(AT_ONCE)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                farewell = isinstance(error, ssl.SSLZeroReturnError)
                end = CLOSED_EARLY, self._closing(), farewell
            except ssl.SSLError as error:
                end = TLS, _tls_reason(error, self._endpoint), False
            else:
                if part:
                    self._heard = True
                    parts.append(part)
                else:
                    end = CLOSED_EARLY, self._closing(), True
        if self._outgoing.pending:
            self._flush()
        if parts:
            self.on_bytes(parts[0] if len(parts) == 1 else b"".join(parts))
        if end is not None and self._socket is not None:
            self._fail(*end)

    def _closing(self) -> str:
        why = "" if self._heard else f" right after the TLS handshake{_MAYBE}"
        return f"{self._endpoint.label} closed the connection{why}"

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().write(self._outgoing.read())


def connect(
    endpoint: Endpoint,
    connect_timeout: float,
    on_open: Callable[[], None],
    on_bytes: Callable[[bytes], None],
    on_closed: Callable[[Closed], None],
) -> Connection:
    """A connection, in TLS where the endpoint wants it. `connect_timeout`: seconds for name, TCP and TLS together."""
    kind = Connection if endpoint.tls is None else TlsConnection
    return kind(endpoint, connect_timeout, on_open, on_bytes, on_closed)


def _nothing(*_: object) -> None:
    """What a closed connection calls."""


_KINDS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ECONNABORTED: RESET,
    errno.ETIMEDOUT: CONNECT_TIMEOUT,
    errno.EMFILE: NO_ROOM,
    errno.ENFILE: NO_ROOM,
    errno.EADDRNOTAVAIL: NO_ROOM,
    errno.ENOBUFS: NO_ROOM,
}
_HINTS = {
    errno.EMFILE: "this process may open no more files: raise `ulimit -n`, or lower the connections",
    errno.ENFILE: "this machine may open no more files",
    errno.EADDRNOTAVAIL: "no local port is free: let connections be used again, or widen net.ipv4.ip_local_port_range",
}


def _reason(code: int, label: str) -> tuple[str, str]:
    return _KINDS.get(code, UNREACHABLE), f"{label}: {_HINTS.get(code) or strerror(code)}"


def _tls_reason(error: ssl.SSLError, endpoint: Endpoint) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{endpoint.label}: its certificate is not trusted: {error.verify_message}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return f"{endpoint.label} does not speak TLS ({error.reason})"
    return f"{endpoint.label}: {error.reason or error}"
