"""Connections of Envoy's in, entries out: Fluentd's forward protocol, which is messages of msgpack one after another.

A message is `[tag, [[time, record], ...]]`. What is anything else ends its connection, because nobody knows where the
next message would begin; Envoy connects anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgpack

from sidecar.stream.requests import Requests

LONGEST_MESSAGE = 1 << 20
MOST_ENTRIES = 65_536
MOST_CONNECTIONS = 128
_log = logging.getLogger("sidecar")


class Receiver:
    """What is common to all connections. Give `connection` to `loop.create_server`."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.connections: set[Connection] = set()

    def connection(self) -> Connection:
        return Connection(self)

    def close(self) -> None:
        for each in tuple(self.connections):
            each.close()


class Connection(asyncio.Protocol):
    """One of Envoy's workers."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver, self._take = receiver, receiver.requests.take
        self._transport: asyncio.BaseTransport | None = None
        self._unpacker = msgpack.Unpacker(
            raw=False,
            unicode_errors="replace",
            max_buffer_size=LONGEST_MESSAGE,
            max_array_len=MOST_ENTRIES,
            max_map_len=1,
            max_ext_len=0,
        )
        self.close: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.close = transport.close
        if len(self._receiver.connections) >= MOST_CONNECTIONS:
            self._receiver.requests.refused["connection"] += 1
            transport.close()
            return
        self._receiver.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
            for message in self._unpacker:
                if not isinstance(message, list) or len(message) < 2 or not isinstance(message[1], list):
                    raise ValueError("not a message of the forward protocol")
                self._take(message[1])
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            self._receiver.requests.refused["malformed"] += 1
            self._receiver.connections.discard(self)
            self.close()
            _log.warning("a connection to the request stream was ended: %s", str(error)[:200] or repr(error))
