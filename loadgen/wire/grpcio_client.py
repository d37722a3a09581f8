"""gRPC by grpcio, for servers that our own HTTP/2 does not get on with: a dozen times the CPU, the same contract.

grpcio tells of calls in threads of its own (greenlets, where gevent has patched the process); what they have to say is
handed to the hub's loop. It does not tell when a connection was made or when the first byte came.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import gevent.monkey
import grpc

from loadgen.attribution import Attribution
from loadgen.plan import Scenario, Tls
from loadgen.target_fields import default_fields, fields_of
from loadgen.wire.call import (
    CANCELLED,
    CLOSED_EARLY,
    NO_ROOM,
    NOT_RESOLVED,
    PROTOCOL,
    REFUSED,
    RESET,
    TIMEOUT,
    Call,
    Done,
    Fields,
)
from loadgen.wire.endpoint import Endpoint
from loadgen.wire.grpc_client import grpc_of, split

_OWN = ("te", "content-type", "grpc-timeout", "host", "user-agent", "accept")
_REASONS = (  # what grpcio says of a call that is UNAVAILABLE to it
    ("Connection refused", REFUSED),
    ("DNS resolution failed", NOT_RESOLVED),
    ("Connection reset", RESET),
    ("Socket closed", CLOSED_EARLY),
)


class GrpcioClient:
    """See loadgen.wire.call.Client. `opened` counts channels; each has a connection of its own."""

    def __init__(self, scenario: Scenario, done: Done) -> None:
        """Raises ValueError: what of the target cannot be used."""
        if gevent.monkey.is_module_patched("threading"):
            from grpc.experimental.gevent import init_gevent

            init_gevent()
        target, load = scenario.target, scenario.load
        self.in_flight = self.opened = self.retried = 0
        self.done = done
        self._target = target
        self._grpc = grpc_of(scenario)
        self._attribution = Attribution.of(target)
        self._endpoint = Endpoint.of(target, ("h2",))
        self._metadata = [
            _metadatum(name.lower(), value)
            for name, value in fields_of(target, default_fields(target))
            if name.lower() not in _OWN
        ]
        self._credentials = _credentials(target.tls) if self._endpoint.tls else None
        self._options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", self._grpc.max_message),
            ("grpc.max_send_message_length", -1),
            ("grpc.primary_user_agent", "headgate-load"),
        ]
        if target.tls.server_name:
            self._options.append(("grpc.ssl_target_name_override", target.tls.server_name))
        self._most = load.connections or 1
        self._streams = self._most * load.streams_per_connection
        self._channels: list[Any] = []
        self._methods: list[Any] = []
        self._turn = 0
        self._calls: dict[Call, Any] = {}  # with what cancels them
        self._news: deque[Callable[[], None]] = deque()
        self._loop = gevent.get_hub().loop
        self._bell = self._loop.async_()
        self._bell.start(self._hear)
        self._closed = False
        self._lock = threading.Lock()

    def has_room(self) -> bool:
        return self.in_flight < self._streams

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None:
        call.sent = perf_counter()
        call.written = len(body)
        full = not self.has_room()
        self.in_flight += 1
        self._calls[call] = None
        if full:
            self._loop.run_callback(self._end, call, NO_ROOM, f"{self._streams} calls are in flight")
            return
        messages = [each[5:] for each in split(body)]
        gevent.spawn(self._start, call, messages, headers)  # grpcio waits for things, which the hub must not do

    def close(self) -> None:
        cancels = [cancel for cancel in self._calls.values() if cancel is not None]
        for call in list(self._calls):
            self._end(call, CANCELLED, "the run ended")
        with self._lock:
            self._closed = True
            self._bell.stop()
            self._bell.close()
        if gevent.getcurrent() is gevent.get_hub():
            gevent.spawn(self._hang_up, cancels)
        else:
            self._hang_up(cancels)

    def _hang_up(self, cancels: list[Callable[[], object]]) -> None:
        for cancel in cancels:
            cancel()
        for channel in self._channels:
            channel.close()

    def _start(self, call: Call, messages: list[bytes], headers: Fields) -> None:
        if call not in self._calls:
            return  # closed in the meantime
        try:
            more = [_metadatum(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
            self._call(call, messages, [*self._metadata, *more])
        except (ValueError, TypeError) as error:  # of metadata that cannot be sent
            self._end(call, PROTOCOL, str(error))

    def _call(self, call: Call, messages: list[bytes], metadata: list[tuple[str, str | bytes]]) -> None:
        method, kind, timeout = self._method(), self._grpc.kind, self._target.timeout
        request: Any = messages[0] if messages else b""
        if kind in ("client-stream", "bidi-stream"):
            request = self._paced(messages)
        if kind in ("unary", "client-stream"):
            future = method.future(request, timeout=timeout, metadata=metadata)
            self._calls[call] = future.cancel
            future.add_done_callback(lambda ended: self._tell(self._answered, call, ended, perf_counter()))
        else:
            call.tokens = []
            answer = method(request, timeout=timeout, metadata=metadata)
            self._calls[call] = answer.cancel
            threading.Thread(target=self._read, args=(call, answer), daemon=True).start()

    def _method(self) -> Any:
        """Of the channel whose turn it is."""
        if len(self._channels) < self._most:
            address = self._endpoint.label
            if self._credentials is None:
                channel = grpc.insecure_channel(address, self._options)
            else:
                channel = grpc.secure_channel(address, self._credentials, self._options)
            kinds = {
                "unary": channel.unary_unary,
                "client-stream": channel.stream_unary,
                "server-stream": channel.unary_stream,
                "bidi-stream": channel.stream_stream,
            }
            self._channels.append(channel)
            self._methods.append(kinds[self._grpc.kind](f"/{self._grpc.method}"))
            self.opened += 1
        self._turn = (self._turn + 1) % len(self._methods)
        return self._methods[self._turn]

    def _paced(self, messages: list[bytes]) -> Iterator[bytes]:
        for at, message in enumerate(messages):
            if at and self._grpc.stream_interval:
                time.sleep(self._grpc.stream_interval)  # of a thread of grpcio's
            yield message

    def _read(self, call: Call, answer: Any) -> None:
        """A stream of messages, in a thread of its own."""
        stamps: list[float] = []
        size, first = 0, b""
        try:
            for message in answer:
                stamps.append(perf_counter())
                size += len(message)
                first = first or message
        except grpc.RpcError:
            pass  # the answer knows its status
        self._tell(self._streamed, call, answer, stamps, size, first, perf_counter())

    def _tell(self, then: Callable[..., None], *told: Any) -> None:
        """From whichever thread, to the hub."""
        with self._lock:  # nobody rings a bell that has been closed
            if not self._closed:
                self._news.append(lambda: then(*told))
                self._bell.send()

    def _hear(self) -> None:
        while self._news:
            self._news.popleft()()

    # ------------------------------------------------------------------ in the hub

    def _answered(self, call: Call, future: Any, now: float) -> None:
        if call in self._calls:
            message = b"" if future.cancelled() or future.exception() is not None else future.result()
            call.received = len(message)
            self._judge(call, future, message, now)

    def _streamed(self, call: Call, answer: Any, stamps: list[float], size: int, first: bytes, now: float) -> None:
        if call in self._calls:
            call.tokens, call.output_tokens, call.received = stamps, len(stamps), size
            call.first = stamps[0] if stamps else 0.0
            self._judge(call, answer, first, now)

    def _judge(self, call: Call, answer: Any, message: bytes, now: float) -> None:
        metadata = [*(answer.trailing_metadata() or ()), *(answer.initial_metadata() or ())]
        fields = {key: value for key, value in metadata if isinstance(value, str)}
        call.version = self._attribution.version(fields, message, protobuf=True)
        name, said = answer.code().name, answer.details() or ""
        call.first = call.first or now
        call.code = name
        if name == "OK":
            self._end(call, None, "", now)
            return
        kind = f"grpc {name}"
        if name == "DEADLINE_EXCEEDED" and now - call.sent >= 0.9 * self._target.timeout:
            kind = TIMEOUT
        elif name == "UNAVAILABLE" and not fields:
            kind = next((kind for words, kind in _REASONS if words in said), kind)
            call.code = "" if kind in dict.fromkeys(kind for _, kind in _REASONS) else name
        self._end(call, kind, said, now)

    def _end(self, call: Call, kind: str | None, message: str, now: float = 0.0) -> None:
        if call not in self._calls:
            return
        del self._calls[call]
        call.ended = now or perf_counter()
        call.failure, call.message = kind, message
        call.version = call.version or self._attribution.pinned
        self.in_flight -= 1
        self.done(call)


def _metadatum(name: str, value: str) -> tuple[str, str | bytes]:
    """grpcio encodes what is binary itself; we have it as it goes over the wire. Raises ValueError."""
    if not name.endswith("-bin"):
        return name, value
    try:
        return name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        raise ValueError(f"the metadata {name} are binary, which is written in base64, and {value!r} is not") from None


def _credentials(tls: Tls) -> Any:
    if not tls.verify:
        raise ValueError("the client grpcio cannot leave certificates unchecked: name a CA, or take our own client")
    return grpc.ssl_channel_credentials(_pem(tls.ca), _pem(tls.key), _pem(tls.certificate))


def _pem(value: str | None) -> bytes | None:
    if value is None:
        return None
    return value.encode() if "-----BEGIN" in value else Path(value).read_bytes()
