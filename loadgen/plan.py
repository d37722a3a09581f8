"""What the engine is asked to do: scenarios, each a target under a load. Plain values that travel as JSON.

Everything that comes from files, addresses or servers (payloads, descriptors, certificates' paths) has been read and
checked before a plan exists: workers on other machines get the plan and nothing else. Times are in seconds, rates in
requests per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Base64Bytes, TypeAdapter

Executor = Literal["arrivals", "users", "max"]
Protocol = Literal["http1", "http2", "grpc"]
CallKind = Literal["unary", "client-stream", "server-stream", "bidi-stream"]
GrpcClient = Literal["own", "grpcio"]

MAX_DURATION = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a schedule: `duration` seconds in which the rate goes from `start` to `end`, in a straight line."""

    duration: float
    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.duration <= MAX_DURATION:
            raise ValueError(f"a stage lasts {self.duration:g} s: more than 0 s and at most 7 days are possible")
        if self.start < 0 or self.end < 0:
            raise ValueError("a rate cannot be negative")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests are meant to start. `trace`, seconds since the start in ascending order, replaces `stages`."""

    stages: tuple[Stage, ...] = ()
    spacing: Literal["constant", "poisson"] = "constant"
    seed: int = 0
    trace: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.stages) == bool(self.trace):
            raise ValueError("arrivals need stages or a trace, and not both")


@dataclass(frozen=True, slots=True)
class Load:
    """How much, how long.

    `executor`: "arrivals" starts requests by schedule, whatever the answers do (open loop); "users" is `users`
    greenlets that each send, wait for the answer, think `think_time` seconds and send again; "max" is the same without
    thinking, one for each connection. `requests` ends the run after so many, `duration` after so long, whichever comes
    first; with "arrivals" the schedule's end ends it too. The warm-up comes on top of both. Several processes share
    rate, users, connections and limits among them. When `connections` are all taken, requests queue (their
    latency counts from the intended start all the same); more than `max_in_flight` waiting and sent requests are queued
    or dropped, by `on_limit`.
    """

    executor: Executor = "arrivals"
    arrivals: Arrivals | None = None
    users: int = 0
    staged_users: tuple[Stage, ...] = ()  # how many of them are at work over time; in the end as the last one ends
    think_time: float = 0.0
    requests: int | None = None
    duration: float | None = None
    warmup: float = 0.0  # seconds, before all that is asked for, in which requests are sent and not recorded
    warmup_requests: int = 0  # as many more, at the rate that the schedule opens with
    grace: float = 30.0  # how long requests may still end after the last one has started
    connections: int = 16  # 0: as many as it takes
    streams_per_connection: int = 100  # HTTP/2 and gRPC
    max_in_flight: int = 20_000
    on_limit: Literal["queue", "drop"] = "queue"
    reuse: Literal["reuse", "per-request"] = "reuse"  # connections

    def __post_init__(self) -> None:
        if self.executor == "arrivals" and self.arrivals is None:
            raise ValueError("the executor 'arrivals' needs arrivals")
        if self.executor == "users" and self.users < 1:
            raise ValueError("the executor 'users' needs at least one user")
        if self.executor != "arrivals" and self.requests is None and self.duration is None:
            raise ValueError("nothing ends this load: it needs requests or a duration")


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server's certificate is checked; files are PEM."""

    verify: bool = True
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent: one of `bodies` in turn (or at random), or `template` rendered for each request.

    Templates, here and in headers' values, take {{ seq }}, {{ user }}, {{ uuid }}, {{ random }}, {{ now }} and the
    columns of `rows`, whose rows are taken in turn (or at random).
    """

    bodies: tuple[Base64Bytes, ...] = ()
    template: str | None = None
    rows: tuple[Mapping[str, str], ...] = ()
    order: Literal["cycle", "random"] = "cycle"


@dataclass(frozen=True, slots=True)
class Grpc:
    """One method, "pkg.Service/Method", and the serialized google.protobuf.FileDescriptorSet that holds it.

    Payloads are then JSON in protobuf's JSON mapping (a list is a stream of messages), or messages in wire format where
    `binary`. `stream_count` and `stream_interval`: how many messages a client stream sends, how many seconds apart.
    """

    method: str
    descriptors: Base64Bytes
    kind: CallKind = "unary"
    binary: bool = False
    stream_count: int | None = None
    stream_interval: float = 0.0
    client: GrpcClient = "own"
    max_message: int = 64 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Range:
    """Both ends belong to it; None is no end."""

    lower: int | None = None
    upper: int | None = None

    def __contains__(self, code: object) -> bool:
        return (
            isinstance(code, int)
            and (self.lower is None or code >= self.lower)
            and (self.upper is None or code <= self.upper)
        )


@dataclass(frozen=True, slots=True)
class Goodput:
    """A request is good when it succeeded and each metric stayed within its seconds: {"ttft": 0.4, "latency": 5}."""

    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, and how its answers are read.

    `url`: http(s)://host:port/path for HTTP, and http(s)://host:port for gRPC (https is TLS). `version` pins what
    answers to one version; otherwise `attribution` is tried in turn: "header:NAME" (gRPC: initial or trailing metadata)
    or "body:model_version". `stream` reads the answer as server-sent events, in `dialect`.
    """

    url: str
    protocol: Protocol = "http1"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    payload: Payload = Payload()
    grpc: Grpc | None = None
    tls: Tls = Tls()
    timeout: float = 20.0
    connect_timeout: float = 10.0
    stream: bool = False
    dialect: Literal["openai", "plain"] = "openai"
    version: str | None = None
    attribution: tuple[str, ...] = ("header:app-version", "body:model_version")
    errors: tuple[Range, ...] = (Range(lower=400),)  # HTTP statuses that are errors; in gRPC everything but OK is one
    goodput: Goodput | None = None
    users: int = 0  # how many stable keys {{ user }} goes round; 0: a new one for each request


@dataclass(frozen=True, slots=True)
class Scenario:
    """A target under a load; scenarios of a plan run at the same time. `name` labels its figures."""

    name: str
    target: Target
    load: Load


@dataclass(frozen=True, slots=True)
class Bounds:
    """Past these a run says something about the generator, not about its target: it is invalid."""

    lag_p99: float = 0.010  # seconds between the intended start and the real one, by our own fault
    rate_error: float = 0.01  # share of the requests asked for that were not sent
    cpu: float = 0.95  # share of one core that a process of the engine uses
    unknown_versions: float = 0.001  # share of answers that name no version, where any does


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the engine. `processes` share the load on this machine; `workers` more are expected from elsewhere."""

    name: str
    scenarios: tuple[Scenario, ...]
    processes: int = 1
    workers: int = 0
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        names = [each.name for each in self.scenarios]
        if not names or len(set(names)) != len(names):
            raise ValueError("a plan needs scenarios, each with a name of its own")

    def to_json(self) -> bytes:
        return _ADAPTER.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Plan:
        """Raises pydantic.ValidationError."""
        return _ADAPTER.validate_json(data)


_ADAPTER = TypeAdapter(Plan)
