"""What a plugin is written with: a root `Plugin` for each configuration, an `HttpContext` for each request.

The names are proxy-wasm's. A plugin decides and returns; the host acts:

    class Greeting(HttpContext["Greet"]):
        def on_response_headers(self, headers: Headers) -> Result:
            headers.set("x-greeting", self.root.word)
            return CONTINUE

    class Greet(Plugin):
        context = Greeting

        def on_configure(self, config: Mapping[str, Any]) -> None:
            self.word = str(config.get("word", "hello"))

Override only what you need: a hook that is not overridden costs nothing. A hook may be `async def`; the only thing
it can await is `self.call(...)`, and the message waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import BaseModel

from sidecar.headers import HeaderList, Headers, Pairs, checked_name, checked_value
from sidecar.instruments import Instruments
from sidecar.places import PLACES, Place
from sidecar.shared import SharedData

if TYPE_CHECKING:
    from sidecar.chain import Chain, Step

__all__ = [
    "CONTINUE",
    "HEADERS",
    "PAUSE",
    "STREAMED",
    "Body",
    "Buffered",
    "Call",
    "Entry",
    "Headers",
    "HttpContext",
    "HttpRequest",
    "HttpResponse",
    "Plugin",
    "Reply",
    "Result",
    "Streamed",
]


class Action(Enum):
    """What becomes of the message that a hook was given."""

    CONTINUE = "continue"
    PAUSE = "pause"


CONTINUE: Final = Action.CONTINUE
PAUSE: Final = Action.PAUSE


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client instead of the model server, or instead of what the model server answered."""

    status: int
    body: bytes = b""
    headers: Pairs = ()
    grpc_status: int | None = None

    def __post_init__(self) -> None:
        if type(self.status) is not int or not 200 <= self.status <= 599:
            raise ValueError(f"a reply's status is 200 to 599, not {self.status!r}")
        if not isinstance(self.body, bytes):
            raise TypeError(f"a reply's body is bytes, not {type(self.body).__name__}")
        if self.grpc_status is not None and (type(self.grpc_status) is not int or not 0 <= self.grpc_status <= 16):
            raise ValueError(f"a reply's grpc_status is 0 to 16, not {self.grpc_status!r}")
        checked = tuple((checked_name(name), checked_value(name, value)) for name, value in self.headers)
        if any(name[0] == ":" for name, _ in checked):
            raise ValueError("a reply's status is not a header: give it as status")
        object.__setattr__(self, "headers", checked)


Result = Action | Reply | None  # None: CONTINUE
Hook = Result | Awaitable[Result]


@dataclass(frozen=True, slots=True)
class HeadersOnly:
    """The body goes by unseen: the cheapest."""


@dataclass(frozen=True, slots=True)
class Buffered:
    """The hook gets the whole body at once, at most `limit` bytes; the headers wait for it and can be changed then.

    A longer body goes by unseen (policy open) or is refused with 413 (policy closed).
    """

    limit: int = 1 << 20

    def __post_init__(self) -> None:
        if type(self.limit) is not int or self.limit < 1:
            raise ValueError(f"a body is buffered up to at least 1 byte, not {self.limit!r}")


@dataclass(frozen=True, slots=True)
class Streamed:
    """The hook gets each piece as it comes. PAUSE keeps it, at most `limit` bytes, and the next call has both.

    Only with `rewrites` may it replace pieces: the length told in the headers is then taken away.
    """

    rewrites: bool = False
    limit: int = 1 << 20


PROPERTIES: Final = (
    *("route", "cluster", "model", "namespace", "version"),
    *("source_address", "protocol", "request_time"),
)
Need = HeadersOnly | Buffered | Streamed
HEADERS: Final = HeadersOnly()
STREAMED: Final = Streamed()


class Body:
    """The body, or a piece of it: `data` is what there is, `end` whether more will come."""

    __slots__ = ("data", "end", "replaced")

    def __init__(self, data: bytes, end: bool) -> None:
        self.data = data
        self.end = end
        self.replaced = False

    def replace(self, data: bytes) -> None:
        """Send this instead."""
        if not isinstance(data, bytes):
            raise TypeError(f"a body is bytes, not {type(data).__name__}")
        self.data = data
        self.replaced = True


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that a plugin makes itself. Which URLs are allowed is the host's configuration."""

    url: str
    method: str = "GET"
    headers: Pairs = ()
    body: bytes = b""
    timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back; status 0 when nothing did, then `error` tells why."""

    status: int
    headers: Pairs = ()
    body: bytes = b""
    error: str = ""

    def header(self, name: str) -> str:
        """The first value of a header, or ""."""
        return HeaderList(self.headers).get(name)


Callback = Callable[[HttpResponse], Result]


class Call:
    """A request under way. `await` it in an async hook, or give a callback and return PAUSE."""

    __slots__ = ("request", "then")

    def __init__(self, request: HttpRequest, then: Callback | None) -> None:
        self.request = request
        self.then = then

    def __await__(self) -> Generator[Call, HttpResponse, HttpResponse]:
        if self.then is not None:
            raise TypeError("a call has a callback or is awaited, not both")
        return (yield self)


Level = Literal["debug", "info", "warning", "error"]
Value = str | int | float | bool | bytes | None
Entry = dict[str, Any]  # a line of the access log, or {"plugin", "level", "message"} for what a plugin logs


class Log:
    """What a plugin says. The host writes it, after every plugin's `on_log` has seen it."""

    __slots__ = ("_write",)

    def __init__(self, write: Callable[[Level, str], None]) -> None:
        self._write = write

    def debug(self, message: str) -> None:
        self._write("debug", message)

    def info(self, message: str) -> None:
        self._write("info", message)

    def warning(self, message: str) -> None:
        self._write("warning", message)

    def error(self, message: str) -> None:
        self._write("error", message)


class Plugin:
    """The root: one for each entry in the configuration, alive as long as it. Keep what requests share in it."""

    context: ClassVar[type[HttpContext[Any]]]
    name: ClassVar[str] = ""  # in metrics and messages; by default the class's, the configuration can give another
    request_body: ClassVar[Need] = HEADERS
    response_body: ClassVar[Need] = HEADERS
    properties: ClassVar[tuple[str, ...]] = PROPERTIES  # that it asks for; to name them spares Envoy telling the others
    on_failure: ClassVar[Literal["open", "closed"]] = "open"
    budget: ClassVar[float] = 0.05  # seconds a hook may take; then it is cut off
    memory: int = 64 << 20  # bytes it may keep; then it is suspended and started anew. on_configure may set it
    patience: ClassVar[float] = 5.0  # seconds a message may be paused
    places: ClassVar[tuple[Place, ...]] = PLACES  # where it can do its work
    elsewhere: ClassVar[str] = ""  # why it cannot elsewhere
    tick: ClassVar[float] = 0.0  # seconds between two on_tick, 0: never
    config_model: ClassVar[type[BaseModel] | None] = None  # on_configure then gets an instance of it

    # Given by the host before on_configure.
    metrics: Instruments
    shared: SharedData
    log: Log

    def on_configure(self, config: Any) -> None:
        """Take the configuration: a mapping, or an instance of `config_model`. Raise ValueError if it cannot be."""

    def on_tick(self) -> None:
        """Called every `tick` seconds."""

    def on_log(self, entry: Entry) -> None:
        """Change a line before it is written. Called for lines of the access log and for what plugins log."""

    def create_context(self) -> HttpContext[Any]:
        """The context of a new request."""
        return self.context(self)


Root = TypeVar("Root", bound=Plugin)


class HttpContext(Generic[Root]):
    """One request and its response. Hooks are called in this order, each plugin's after that of the one before it;
    on the way back in reverse order."""

    def __init__(self, root: Root) -> None:
        self.root = root

    _chain: Chain
    _step: Step

    def on_request_headers(self, headers: Headers) -> Hook:
        """The request has begun. `:method`, `:path` and `:authority` are among the headers."""
        return CONTINUE

    def on_request_body(self, body: Body) -> Hook:
        """The body, whole or in pieces, as `request_body` of the plugin says."""
        return CONTINUE

    def on_request_trailers(self, trailers: Headers) -> Hook:
        """The end of a request that has trailers."""
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Hook:
        """The response has begun. `:status` is among the headers."""
        return CONTINUE

    def on_response_body(self, body: Body) -> Hook:
        """The body, whole or in pieces, as `response_body` of the plugin says."""
        return CONTINUE

    def on_response_trailers(self, trailers: Headers) -> Hook:
        """The end of a response that has trailers: for gRPC with `grpc-status`."""
        return CONTINUE

    def on_log(self, entry: Entry) -> None:
        """All is over, also when the client has gone. What is put into the entry is logged."""

    # Host calls

    @property
    def request_headers(self) -> Headers:
        """The request's headers; changes after they were sent on have no effect."""
        return self._chain.request_headers_seen

    @property
    def response_headers(self) -> Headers:
        """The response's headers; empty before they have come."""
        return self._chain.response_headers_seen

    @property
    def end_of_stream(self) -> bool:
        """Whether nothing comes after what this hook was given."""
        return self._step.end

    def get_property(self, name: str) -> Value:
        """What the host knows: "route", "cluster", "model", "namespace", "version", "source_address" (without
        its port), "protocol", "request_time" (seconds since 1970). None when it does not."""
        properties = self.root.properties
        if properties is not PROPERTIES and name not in properties:
            raise ValueError(f"property {name!r} is not among the plugin's `properties`")
        return self._chain.host.property(name)

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""
        return self._chain.host.now()

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        """Dynamic metadata: for what comes after us in the host, and for its access log."""
        if not isinstance(namespace, str) or not isinstance(key, str):
            raise TypeError("metadata have a namespace and a key, both str")
        if not isinstance(value, str | int | float | bool | bytes | None):
            raise TypeError(f"metadata {key!r}: {type(value).__name__} is not str, int, float, bool or bytes")
        self._chain.host.set_metadata(namespace, key, value)

    def call(self, request: HttpRequest, then: Callback | None = None) -> Call:
        """Make a request: `response = await self.call(...)`, or with a callback that returns what a hook returns."""
        call = Call(request, then)
        if then is not None:
            self._chain.begin_call(self._step, call)
        return call

    def resume(self) -> None:
        """Let a message go on that a hook paused. Does nothing when none is."""
        self._chain.wish_resume(self)

    @property
    def log(self) -> Log:
        """The plugin's log."""
        return self.root.log
