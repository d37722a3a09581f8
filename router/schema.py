"""The ModelRollout object: the one source of the parser, of the CRD and of docs/reference.md.

Models are frozen and hashable, field names are camelCase in YAML. A rollout that exists is valid: the checks over
several fields (rules.py) run whenever a ModelRollout is made from a mapping, and join the errors of single fields.
Every field carries the description that users read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, Strict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from router.rules import broken_rules
from router.values import (
    Duration,
    EndpointText,
    HeaderMap,
    HeaderName,
    Host,
    Label,
    Method,
    NeededText,
    PathText,
    PositiveDuration,
    Regex,
    ResourceText,
    Settings,
    StringMap,
    Text,
    is_ip,
    shown,
)
from router.words import in_our_words
from xds import ir
from xds.ir import Endpoint, Headers, Protocol, StringMatch

GROUP = "headgate.dev"
API_VERSION = "headgate.dev/v1alpha1"
KIND = "ModelRollout"
MAX_WEIGHT = 1_000_000

Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Count = Annotated[int, Strict(), Field(ge=1, le=100)]


class Strategy(StrEnum):
    """What a version gets that says nothing itself."""

    NONE = "none"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    MIRROR = "mirror"


class Part(BaseModel):
    """The base of every part: frozen, camelCase, no unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )


class PathMatch(Part):
    """Exactly one of prefix, exact, regex."""

    prefix: PathText | None = Field(default=None, description="The path starts with this text.")
    exact: PathText | None = Field(default=None, description="The path, without its query, is this text.")
    regex: Regex | None = Field(
        default=None, description="The whole path, without its query, matches this RE2 expression."
    )

    @property
    def ir(self) -> ir.PathMatch:
        if self.exact is not None:
            return ir.PathMatch(ir.PathKind.EXACT, self.exact)
        if self.regex is not None:
            return ir.PathMatch(ir.PathKind.REGEX, self.regex)
        return ir.PathMatch(ir.PathKind.PREFIX, self.prefix or "/")


class _ValueMatch(Part):
    name: Text = Field(description="Its name.")
    exact: Text | None = Field(default=None, description="The value is this text.")
    prefix: NeededText | None = Field(default=None, description="The value starts with this text.")
    suffix: NeededText | None = Field(default=None, description="The value ends with this text.")
    contains: NeededText | None = Field(default=None, description="The value contains this text.")
    regex: Regex | None = Field(default=None, description="The whole value matches this RE2 expression.")
    present: Literal[True] | None = Field(default=None, description="Only true: it is there, with whatever value.")

    @property
    def test(self) -> tuple[StringMatch, str]:
        """The one comparison that is given."""
        for kind in StringMatch:
            value = getattr(self, kind.value)
            if value is not None:
                return kind, "" if kind is StringMatch.PRESENT else value
        raise ValueError("a match without a comparison")  # rules.py refuses it


class HeaderMatch(_ValueMatch):
    """One request header; exactly one of exact, prefix, suffix, contains, regex, present."""

    name: HeaderName = Field(description="Name of the request header; capitals do not matter.")
    invert: Annotated[bool, Strict()] = Field(
        default=False, description="Turn the comparison round: the header is absent or does not compare."
    )


class QueryMatch(_ValueMatch):
    """One query parameter; exactly one of exact, prefix, suffix, contains, regex, present."""

    name: NeededText = Field(description="Name of the query parameter.")


class Match(Part):
    """Requests that go to this version whatever the weights say. All parts must hold."""

    path: PathMatch | None = Field(default=None, description="Compare the request path; one of prefix, exact, regex.")
    method: Method | None = Field(default=None, description="Compare the request method, such as POST.")
    headers: tuple[HeaderMatch, ...] = Field(
        default=(),
        max_length=16,
        description="Compare request headers, each by exactly one of the tests; all must hold.",
    )
    query: tuple[QueryMatch, ...] = Field(
        default=(),
        max_length=16,
        description="Compare query parameters, each by exactly one of the tests; all must hold.",
    )

    @property
    def ir(self) -> ir.Match:
        return ir.Match(
            path=self.path.ir if self.path else ir.PathMatch(),
            headers=tuple(ir.HeaderMatch(one.name, *one.test, invert=one.invert) for one in self.headers),
            query=tuple(ir.QueryMatch(one.name, *one.test) for one in self.query),
            method=self.method,
        )


DEFAULT_CANARY_MATCH = Match(headers=(HeaderMatch(name="traffic", exact="test"),))


class Service(Part):
    """A server found by DNS; exactly one of name, host."""

    name: Label | None = Field(
        default=None, description="Name of a Kubernetes Service: <name>.<namespace>.svc.cluster.local."
    )
    namespace: Label | None = Field(default=None, description="Namespace of the Service. By default the rollout's own.")
    host: Host | None = Field(default=None, description="Any other DNS name.")
    port: Port = Field(description="Port of the server.")

    def endpoint(self, namespace: str) -> Endpoint:
        if self.host is not None:
            return Endpoint(self.host, self.port)
        return Endpoint(f"{self.name}.{self.namespace or namespace}.svc.cluster.local", self.port)


class SharedServer(Part):
    """One server that holds several versions, told apart by request headers, as in ModelMesh."""

    endpoints: tuple[EndpointText, ...] | None = Field(
        default=None, min_length=1, max_length=256, description="Addresses of the server, each as IP:port."
    )
    service: Service | None = Field(default=None, description="The server by DNS name; exactly one of name, host.")
    request_headers: HeaderMap | None = Field(
        default=None, description="Request headers that select the version. By default mm-vmodel-id: <version name>."
    )


class Backend(Part):
    """Where a version is served; exactly one of endpoints, service, shared."""

    endpoints: tuple[EndpointText, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Addresses of the version's own servers, each as IP:port.",
    )
    service: Service | None = Field(
        default=None, description="The version's own server by DNS name; exactly one of name, host."
    )
    shared: SharedServer | None = Field(
        default=None, description="A server that the version shares with others; exactly one of endpoints, service."
    )

    def servers(self, namespace: str) -> tuple[Endpoint, ...]:
        """Every configured endpoint, ready or not; for a service its one DNS name."""
        source: Backend | SharedServer = self.shared or self
        if source.service is not None:
            return (source.service.endpoint(namespace),)
        return source.endpoints or ()

    @property
    def dns(self) -> bool:
        """Whether a name has to be looked up; an IP address under `host` needs none."""
        service = (self.shared or self).service
        return service is not None and not (service.host and is_ip(service.host))


NO_BACKEND = Backend()
"""Of a version that leaves it to its resources where it is served."""


class Rewrite(Part):
    """What a server behind a gateway of its own needs to find the version."""

    host: Host | None = Field(default=None, description="Host header to send instead of the client's.")
    path: PathText | None = Field(default=None, description="Path to send instead of the client's, the whole of it.")


class HttpProbe(Part):
    path: PathText = Field(description="Path to GET; 200-399 means ready. For example /v2/health/ready.")
    port: Port | None = Field(default=None, description="Port to ask. By default the endpoint's own.")
    host: Host | None = Field(default=None, description="Host header to send. By default the endpoint's address.")


class GrpcProbe(Part):
    service: Text = Field(default="", description="Service name for grpc.health.v1; empty asks for the whole server.")
    port: Port | None = Field(default=None, description="Port to ask. By default the endpoint's own.")


class TcpProbe(Part):
    port: Port | None = Field(default=None, description="Port to connect to. By default the endpoint's own.")


class Readiness(Part):
    """How to find out whether an endpoint can serve; exactly one of http, grpc, tcp."""

    http: HttpProbe | None = Field(default=None, description="Ask by HTTP GET.")
    grpc: GrpcProbe | None = Field(default=None, description="Ask the gRPC health service.")
    tcp: TcpProbe | None = Field(
        default=None, description="See whether a TCP connection opens. Write {} for the defaults."
    )
    interval: PositiveDuration = Field(
        default=5.0, description="Time between two probes.", json_schema_extra={"default": "5s"}
    )
    timeout: PositiveDuration = Field(
        default=1.0, description="A probe that takes longer has failed.", json_schema_extra={"default": "1s"}
    )
    success_threshold: Count = Field(default=1, description="Successes in a row until an endpoint counts as ready.")
    failure_threshold: Count = Field(
        default=3, description="Failures in a row until a ready endpoint counts as not ready."
    )


class Mirror(Part):
    """A copy of the traffic; the version's answers to it never reach the user."""

    percent: Annotated[float, Strict()] = Field(
        default=100.0, gt=0, le=100, allow_inf_nan=False, description="Part of the requests that is copied, in percent."
    )
    request_headers: HeaderMap = Field(default=(), description="Request headers to set on the copies.")


class Version(Part):
    """One version of the model."""

    name: Label = Field(description="Name of the version, unique in the rollout; answers carry it as app-version.")
    backend: Backend = Field(
        default=NO_BACKEND,
        description=(
            "Where the version is served; exactly one of endpoints, service, shared. "
            "In Kubernetes it may be left out: it is found by the kind of the resources."
        ),
        json_schema_extra={"default": None},
    )
    resources: tuple[ResourceText, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description=(
            "Kubernetes resources that the version consists of, each as TYPE/NAME or TYPE/NAMESPACE/NAME, such as "
            "isvc/iris-v2; all must be ready. By default the Service that the backend names."
        ),
    )
    rewrite: Rewrite | None = Field(default=None, description="Change the Host or path of what this version receives.")
    protocol: Protocol | None = Field(
        default=None, description="What Envoy speaks to this version. By default spec.protocol."
    )
    readiness: Readiness | None = Field(
        default=None,
        description="How to find out whether it can serve, one of http, grpc, tcp. Without it: assumed ready.",
    )
    weight: Annotated[int, Strict()] | None = Field(
        default=None,
        ge=0,
        le=MAX_WEIGHT,
        description="Share of the traffic relative to the other versions; by default what spec.strategy says.",
    )
    match: tuple[Match, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Requests that go to this version whatever the weights say; any one of the list suffices.",
    )
    mirror: Mirror | None = Field(default=None, description="Send this version a copy of the traffic.")
    request_headers: HeaderMap = Field(default=(), description="Request headers to set on what this version receives.")

    @property
    def selecting_headers(self) -> Headers:
        """Everything set on a request to this version: what selects it on a shared server, then its own."""
        shared = self.backend.shared
        if shared is None:
            return self.request_headers
        selecting = shared.request_headers if shared.request_headers is not None else (("mm-vmodel-id", self.name),)
        return tuple(sorted((dict(selecting) | dict(self.request_headers)).items()))


class Sticky(Part):
    """Keep every user on one version, without cookies."""

    header: HeaderName = Field(description="Request header that names the user, such as x-user-id.")


class Timeouts(Part):
    """How long to wait."""

    request: Duration = Field(
        default=0.0, description="For a whole answer; 0s waits for ever.", json_schema_extra={"default": "0s"}
    )
    idle: Duration = Field(
        default=300.0,
        description="For the next byte of a stream; 0s waits for ever.",
        json_schema_extra={"default": "300s"},
    )
    connect: PositiveDuration = Field(
        default=1.0, description="For a connection to an endpoint.", json_schema_extra={"default": "1s"}
    )
    drain: Duration = Field(
        default=300.0,
        description="For the requests in flight of a version that is deleted from Kubernetes.",
        json_schema_extra={"default": "300s"},
    )


class Plugin(Part):
    """One plugin of the gateway, for this model."""

    name: Label = Field(description="Name of a plugin of the gateway.")
    enabled: Annotated[bool, Strict()] = Field(
        default=True, description="Whether it runs for this model. Say false to do without one that runs for all."
    )
    config: Settings = Field(
        default="{}",
        description=(
            "Settings for this model, in place of those of the same names that the gateway gives. "
            "At most 4096 characters as JSON."
        ),
        json_schema_extra={"default": None},
    )
    required: Annotated[bool, Strict()] = Field(
        default=False,
        description=(
            "What to do when the gateway has no such plugin. false: serve the model without it, and report a problem. "
            "true: leave the model's traffic as it was; a new model is not served."
        ),
    )


class Spec(Part):
    """What is wanted."""

    hosts: tuple[Host, ...] = Field(
        min_length=1,
        max_length=64,
        description="Host names under which clients reach the model: no port, no wildcard, each used by one rollout.",
    )
    gateway: Label = Field(default="default", description="Name of the group of Envoys that serves the model.")
    protocol: Protocol = Field(
        default=Protocol.AUTO,
        description="What Envoy speaks to the versions; auto follows the protocol of the request.",
    )
    strategy: Strategy = Field(
        default=Strategy.NONE,
        description=(
            "What a version gets that says nothing itself. none: all traffic to the primary; blue-green: equal "
            "weights; canary: candidates get requests with the header traffic: test; mirror: candidates get a copy "
            "of all traffic."
        ),
    )
    primary: Label | None = Field(default=None, description="Name of the stable version. By default the first one.")
    versions: tuple[Version, ...] = Field(
        min_length=1,
        max_length=32,
        description="The versions; the first is the primary unless spec.primary says otherwise.",
    )
    sticky: Sticky | None = Field(default=None, description="Keep every user on one version.")
    plugins: tuple[Plugin, ...] = Field(
        default=(),
        max_length=16,
        description="Plugins of the gateway to run, or not to run, for this model. They run in the gateway's order.",
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="How long to wait.")
    paused: Annotated[bool, Strict()] = Field(
        default=False,
        description=(
            "Keep primary, weights, header routes and mirrors as they are, whatever else is edited. "
            "A version that stops being ready still loses its traffic."
        ),
    )


class Metadata(Part):
    """Name and namespace. Other standard Kubernetes fields may be there and are not read."""

    model_config = ConfigDict(extra="ignore")

    name: Label = Field(description="Name of the rollout, unique in its namespace.")
    namespace: Label = Field(default="default", description="Namespace of the rollout.")
    labels: StringMap = Field(default=(), description="Labels; not read.")
    annotations: StringMap = Field(default=(), description="Annotations; not read.")
    generation: int = Field(default=0, description="Set by Kubernetes.")


class ModelRollout(Part):
    """How the versions of one model share its traffic."""

    model_config = ConfigDict(extra="forbid")

    api_version: Literal["headgate.dev/v1alpha1"] = Field(description="Always headgate.dev/v1alpha1.")
    kind: Literal["ModelRollout"] = Field(description="Always ModelRollout.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: Spec = Field(description="What is wanted.")

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Join what is wrong with single fields and between fields, so that users mend everything in one go."""
        if isinstance(raw, dict) and "status" in raw:
            raw = {key: value for key, value in raw.items() if key != "status"}  # Kubernetes sends it along
        broken = broken_rules(raw)
        try:
            rollout = handler(raw)
        except ValidationError as error:
            raise in_our_words(cls, error, broken) from None
        if broken:
            raise in_our_words(cls, None, broken)
        return rollout

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def primary(self) -> Version:
        return next((one for one in self.spec.versions if one.name == self.spec.primary), self.spec.versions[0])

    @property
    def candidates(self) -> tuple[Version, ...]:
        primary = self.primary
        return tuple(one for one in self.spec.versions if one is not primary)

    def __str__(self) -> str:
        return f"{self.key} ({', '.join(shown(one.name) for one in self.spec.versions)})"
