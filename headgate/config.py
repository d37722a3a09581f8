"""The control plane's configuration: a YAML file in, one frozen `Config` out, or every problem in it at once.

Every key is optional. Paths are relative to the file that names them. docs/configuration.md lists the keys.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from router.cluster import backend
from router.cluster.resource import ResourceType, resource_types
from router.documents import decode, documents
from router.hints import path_text
from router.problem import Problem
from router.rules import Broken
from router.schema import Part
from router.state_file import NAME
from router.values import (
    Duration,
    HeaderName,
    Label,
    PositiveDuration,
    Settings,
    StringMap,
    Text,
    duration_text,
    fault,
    is_ip,
    shown,
)
from router.words import in_our_words
from sidecar.quantity import LEAST_MEMORY, quantity
from xds import ir

DEFAULT_GATEWAY = "default"
PLUGIN_SOCKET = "unix:/run/headgate/plugins.sock"
PLUGIN_TIMEOUT = 0.2
_ANY_ADDRESS = ("0.0.0.0", "::")
MOST_LABELS = 8
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SOURCE = re.compile(r"metadata:[A-Za-z0-9_.-]{1,40}|[A-Za-z0-9-]{1,64}")
_MOST_MEMORY = 64 << 30
_TAKEN_LABELS = ("namespace", "model", "version", "route", "shadow", "code", "le", "job", "instance")


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise fault(f"must be a path, not {shown(value)}", "relative paths start at the folder of this file")
    base: Path = (info.context or {}).get("base", Path())
    return base / Path(value).expanduser()


def _absolute(folder: str) -> str:
    if not folder.startswith("/"):
        raise fault(f"{shown(folder)} does not start with '/'", "it is a folder where Envoy runs: give the whole path")
    return folder


def _memory(value: Any) -> int:
    try:
        size = quantity(value)
    except ValueError:
        raise fault(f"{shown(value)} is no amount of memory", "write for example 64Mi") from None
    if not LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise fault(f"must be 1Mi to 64Gi, not {shown(value)}", "write for example 64Mi")
    return size


def _plugin_address(address: str) -> str:
    path = address.removeprefix("unix:")
    if path != address:
        if not path.startswith("/") or len(path.encode()) > 100:
            raise fault(f"{shown(address)} is no unix socket", "write unix:/PATH, with a path of at most 100 bytes")
        return address
    host, _, port = address.rpartition(":")
    if not is_ip(host.strip("[]")) or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise fault(f"{shown(address)} is no address", "write unix:/PATH, or IP:PORT")
    return address


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise fault(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}", "check the path and its rights"
        ) from None


def _ip(address: str) -> str:
    if not is_ip(address):
        raise fault(f"{shown(address)} is not an IP address", "Envoy listens on IP addresses, such as 0.0.0.0 or ::")
    return address


def _needed(address: str) -> str:
    if not address:
        raise fault("is empty", "write 0.0.0.0 for all addresses, 127.0.0.1 for this machine only")
    return address


def _origin(url: str) -> str:
    hint = "write http://HOST:PORT, where headgate sidecar listens"
    try:
        parts = urlsplit(url)
        right = parts.scheme == "http" and parts.hostname and parts.port and parts.netloc.count("@") == 0
    except ValueError:
        raise fault(f"{shown(url)} is no URL", hint) from None
    if not right or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise fault(f"{shown(url)} is no sidecar's URL", hint)
    return f"http://{parts.netloc}"


def _lease_duration(seconds: float) -> float:
    if not 3 <= seconds <= 300 or seconds != round(seconds):
        raise fault(
            f"must be whole seconds from 3s to 300s, not {duration_text(seconds)}",
            "a Lease holds whole seconds, and has to be renewed several times within them",
        )
    return seconds


Address = Annotated[Text, AfterValidator(_needed)]
AnyPath = Annotated[Path, BeforeValidator(_path)]
File = Annotated[Path, BeforeValidator(_path), AfterValidator(_readable)]
Port = Annotated[int, Strict(), Field(ge=0, le=65535)]
"""0 takes any free port, which only tests and demos want."""


class Tls(Part):
    """A certificate with its key, and the CA whose clients are let in (no CA: any client)."""

    certificate: File
    key: File
    client_ca: Annotated[File | None, Field(alias="clientCA")] = None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            what, hint = _misfit(error)
            raise fault(f"certificate {self.certificate} and key {self.key} {what}", hint) from None
        if self.client_ca is not None:
            try:
                ssl.create_default_context(cafile=str(self.client_ca))
            except ssl.SSLError:
                raise fault(
                    f"clientCA {self.client_ca} holds no certificate in PEM form", "give the CA's certificate"
                ) from None
        return self


class XdsTls(Tls):
    """`check_node`: the client certificate must name the `node.id` that the Envoy claims to be."""

    check_node: Annotated[bool, Strict()] = False

    @model_validator(mode="after")
    def _nodes_need_certificates(self) -> Self:
        if self.check_node and self.client_ca is None:
            raise fault("checkNode needs clientCA", "without it Envoys show no certificate that could be checked")
        return self


class Xds(Part):
    """Where Envoys connect. An idle stream is pinged every `keepalive`, so that a dead Envoy is noticed."""

    address: Address = "127.0.0.1"
    port: Port = 18000
    tls: XdsTls | None = None
    keepalive: PositiveDuration = 30.0


class Http(Part):
    """Where health, status and metrics are."""

    address: Address = "127.0.0.1"
    port: Port = 18001


class Listener(Part):
    """A port that every Envoy of the gateway opens for users."""

    name: Label = "http"
    address: Annotated[Text, AfterValidator(_ip)] = "127.0.0.1"
    port: Port = 10000
    tls: Tls | None = None


class Plugin(Part):
    """One plugin of a gateway. `models`: those that ask for it, all but those that opt out, or always all."""

    name: Label
    plugin: Annotated[Text, Field(min_length=1)] | None = None
    models: ir.PluginModels = ir.PluginModels.ASKING
    config: Settings = "{}"
    on_failure: Literal["open", "closed"] | None = None
    budget: PositiveDuration | None = None
    memory: Annotated[int, BeforeValidator(_memory)] | None = None
    at: ir.PluginPlace = ir.PluginPlace.GATEWAY

    @property
    def as_ir(self) -> ir.Plugin:
        return ir.Plugin(
            name=self.name,
            source=self.plugin or "",
            config=self.config,
            on_failure=self.on_failure or "",
            budget=self.budget or 0.0,
            memory=self.memory or 0,
            models=self.models,
            at=self.at,
        )


PluginProperty = Literal["route", "cluster", "model", "namespace", "version", "source_address", "protocol"]


class PluginHost(StrEnum):
    """Where plugins run. `auto`: inside Envoy if this machine can build what that takes, else beside it."""

    EMBEDDED = ir.PluginHost.EMBEDDED.value
    EXT_PROC = ir.PluginHost.EXT_PROC.value
    AUTO = "auto"


class Plugins(Part):
    """Python on the path of a gateway's requests: inside its Envoys, or beside them."""

    host: PluginHost = PluginHost.EMBEDDED
    chain: Annotated[tuple[Plugin, ...], Field(min_length=1, max_length=16)]
    folder: Annotated[Text, AfterValidator(_absolute)] | None = None
    reload: Annotated[bool, Strict()] | None = None
    calls: StringMap | None = None
    address: Annotated[Text, AfterValidator(_plugin_address)] | None = None
    timeout: PositiveDuration | None = None
    properties: tuple[PluginProperty, ...] | None = None

    @property
    def fallback(self) -> str:
        """Why they run beside Envoy where they would rather run inside, "" when they do not."""
        if self.host is not PluginHost.AUTO:
            return ""
        from headgate import plugin_host

        found = plugin_host.inside()
        return found if isinstance(found, str) else ""

    @property
    def as_ir(self) -> ir.Plugins:
        beside = self.host is PluginHost.EXT_PROC or bool(self.fallback)
        return ir.Plugins(
            host=ir.PluginHost.EXT_PROC if beside else ir.PluginHost.EMBEDDED,
            chain=tuple(one.as_ir for one in self.chain),
            folder=self.folder or "",
            reload=bool(self.reload),
            calls=self.calls or (),
            address=self.address or PLUGIN_SOCKET,
            timeout=self.timeout or PLUGIN_TIMEOUT,
            properties=self.properties,
        )


def _labels(sources: dict[str, str]) -> dict[str, str]:
    if len(sources) > MOST_LABELS:
        raise fault(f"has {len(sources)} labels", f"use at most {MOST_LABELS}: each of them multiplies the series")
    for name, source in sources.items():
        if not _LABEL.fullmatch(name) or name in _TAKEN_LABELS:
            raise fault(
                f"label {shown(name)} is taken, or no name of a label",
                f"use small letters, digits and _, and none of {', '.join(_TAKEN_LABELS)}",
            )
        if not _SOURCE.fullmatch(source):
            raise fault(
                f"label {name!r} has the source {shown(source)}",
                "write the name of a request header, or metadata: and the key that a plugin sets",
            )
    return sources


class StreamRequests(Part):
    """What Envoys tell the sidecar of each single request, if they do."""

    enabled: Annotated[bool, Strict()] = False
    client_header: HeaderName | None = None
    labels: Annotated[dict[str, Text], AfterValidator(_labels)] = Field(default_factory=dict)

    @property
    def as_ir(self) -> ir.Stream | None:
        return ir.Stream(self.client_header or "", tuple(sorted(self.labels.items()))) if self.enabled else None


class Gateway(Part):
    """A group of Envoys: those whose `node.cluster` is `name`."""

    name: Label = DEFAULT_GATEWAY
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)] = (Listener(),)
    on_demand_above: Annotated[int, Strict(), Field(ge=0)] = 2_000
    count_requests: Annotated[bool, Strict()] = True
    count_copies: Annotated[bool, Strict()] = True
    stream_requests: StreamRequests = StreamRequests()
    plugins: Plugins | None = None

    def as_ir(self) -> ir.Gateway:
        return ir.Gateway(
            self.name,
            tuple(map(self._listener, self.listeners)),
            self.on_demand_above,
            self.count_requests,
            self.plugins.as_ir if self.plugins is not None else None,
            stream=self.stream_requests.as_ir,
            count_copies=self.count_copies,
        )

    def _listener(self, listener: Listener) -> ir.Listener:
        tls, ca = None, None
        if listener.tls is not None:
            tls = certificate_name(self.name, listener.name)
            ca = client_ca_name(self.name, listener.name) if listener.tls.client_ca is not None else None
        return ir.Listener(listener.name, listener.address, listener.port, tls, ca)


class ModelMesh(Part):
    """The server that ModelMesh's models share, where their own status does not name one."""

    service: Label = "modelmesh-serving"
    namespace: Label = "modelmesh-serving"
    port: Annotated[int, Strict(), Field(ge=1, le=65535)] = 8033

    @property
    def found(self) -> backend.ModelMesh:
        return backend.ModelMesh(self.service, self.namespace, self.port)


class Kubernetes(Part):
    """Which cluster is followed, and how this replica takes part in it.

    `namespace`: only this one, which needs no ClusterRole. `lease_namespace`: where replicas meet, by default the
    pod's. `lease_duration`: how long a replica that died without a word is waited for. `advertise`: the IP address
    under which other replicas reach this one's HTTP.
    """

    enabled: Annotated[bool, Strict()] = False
    namespace: Label | None = None
    kubeconfig: AnyPath | None = None
    context: Text | None = None
    lease_namespace: Label | None = None
    lease_name: Label = "headgate"
    lease_duration: Annotated[PositiveDuration, AfterValidator(_lease_duration)] = 15.0
    advertise: Annotated[Text, AfterValidator(_ip)] | None = None
    watch_timeout: PositiveDuration = 60.0
    modelmesh: ModelMesh = ModelMesh()
    resource_types: dict[str, Any] = Field(default_factory=dict)

    @property
    def types(self) -> Mapping[str, ResourceType]:
        """The built-in resource types and those of the configuration."""
        return resource_types(self.resource_types)[0]


class Probes(Part):
    """How many readiness probes may be under way at once."""

    concurrency: Annotated[int, Strict(), Field(ge=1, le=10_000)] = 256


class Telemetry(Part):
    """The sidecars that are asked every second what users get."""

    sidecars: Annotated[tuple[Annotated[Text, AfterValidator(_origin)], ...], Field(max_length=1_000)] = ()


class Log(Part):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Part):
    """All of it. The default serves one gateway on loopback."""

    xds: Xds = Xds()
    http: Http = Http()
    manifests: AnyPath | None = None
    state_file: AnyPath | None = None
    mass_deletion_hold: Duration = 60.0
    gateways: Annotated[tuple[Gateway, ...], Field(min_length=1)] = (Gateway(),)
    probes: Probes = Probes()
    kubernetes: Kubernetes = Kubernetes()
    telemetry: Telemetry = Telemetry()
    log: Log = Log()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Join what is wrong with single fields and between fields, so that users mend everything in one go."""
        broken = [*_clashes(raw), *_odd_resource_types(raw)]
        try:
            config = handler(raw)
        except ValidationError as error:
            raise in_our_words(cls, error, broken) from None
        if broken:
            raise in_our_words(cls, None, broken)
        return config

    @property
    def state_path(self) -> Path | None:
        """Rollout state lives among the manifests, hidden, unless told otherwise; no manifests, no state."""
        if self.state_file is not None or self.manifests is None:
            return self.state_file
        folder = self.manifests.parent if self.manifests.is_file() else self.manifests
        return folder / NAME

    def gateway(self, name: str) -> Gateway | None:
        return next((gateway for gateway in self.gateways if gateway.name == name), None)


def gateway_owner(gateway: str) -> str:
    """The owner under which a gateway's own resources (listeners, secrets) are in its cache."""
    return f"gateway/{gateway}"


def certificate_name(gateway: str, listener: str) -> str:
    """The SDS name of a listener's certificate."""
    return f"{gateway}/{listener}"


def client_ca_name(gateway: str, listener: str) -> str:
    """The SDS name of the CA that a listener's clients are checked against."""
    return f"{gateway}/{listener}/client-ca"


def _misfit(error: Exception) -> tuple[str, str]:
    if "KEY_VALUES_MISMATCH" in str(error):
        return "do not belong together", "take the key that the certificate was made with"
    return "cannot be loaded", "both must be in PEM form, the key without a password"


def _clashes(raw: Any) -> Iterator[Broken]:
    """Names and ports used twice, over whatever has the right shape."""
    names: dict[str, int] = {}
    for index, gateway in enumerate(_items(raw, "gateways")):
        at = ("gateways", index)
        name = _field(gateway, "name", DEFAULT_GATEWAY)
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield Broken((*at, "name"), f"gateway {name!r} is already gateways[{names[name]}]", "give it another name")
        yield from _listener_clashes(gateway, at)
        yield from _odd_plugins(_field(gateway, "plugins", None), (*at, "plugins"))


def _odd_resource_types(raw: Any) -> Iterator[Broken]:
    section = _field(raw, "kubernetes", None)
    for problem in resource_types(_field(section, "resourceTypes", None))[1] if isinstance(section, dict) else ():
        yield Broken(("kubernetes", *problem.field.split(".")), problem.what, problem.hint)


_FOR_HOST = {
    PluginHost.EMBEDDED.value: ("folder", "reload", "calls"),
    PluginHost.EXT_PROC.value: ("address", "timeout", "properties"),
}


def _odd_plugins(plugins: Any, at: tuple[int | str, ...]) -> Iterator[Broken]:
    """Names used twice, and what belongs to the other host: a server beside Envoy loads its plugins itself."""
    host = str(_field(plugins, "host", PluginHost.EMBEDDED.value))
    if plugins is None or host not in tuple(PluginHost):
        return
    for other, fields in _FOR_HOST.items():
        for name in fields if host not in (other, PluginHost.AUTO) else ():
            if _field(plugins, name, None) is not None:
                yield Broken((*at, name), f"goes with host: {other}, not with {host}", "leave it out")
    names: dict[str, int] = {}
    for index, plugin in enumerate(_items(plugins, "chain")):
        here = (*at, "chain", index)
        name = _field(plugin, "name", None)
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield Broken((*here, "name"), f"plugin {name!r} is already chain[{names[name]}]", "give it another name")
        if host != PluginHost.EXT_PROC:
            if _field(plugin, "plugin", None) is None:
                yield Broken((*here, "plugin"), "is missing", "write module:Class, or a file")
            yield from _misplaced_plugin(plugin, here)
            continue
        for field in ("plugin", "budget", "memory"):
            if _field(plugin, field, None) is not None:
                what = f"goes with host: {PluginHost.EMBEDDED}, not with {host}"
                yield Broken((*here, field), what, "give it to headgate plugin serve")


def _misplaced_plugin(plugin: Any, here: tuple[int | str, ...]) -> Iterator[Broken]:
    """Of those that we ship; the code of others is Envoy's to load, and says it there."""
    name, at = _field(plugin, "plugin", None), _field(plugin, "at", ir.PluginPlace.GATEWAY)
    if not isinstance(name, str) or not name.startswith("sidecar.plugins.") or at not in tuple(ir.PluginPlace):
        return
    from sidecar.loading import find
    from sidecar.places import misplaced, rather

    kind = find(name)
    if isinstance(kind, type) and (what := misplaced(kind, ir.PluginPlace(at).value)):
        yield Broken((*here, "at"), what, rather(kind))


def _listener_clashes(gateway: Any, at: tuple[int | str, ...]) -> Iterator[Broken]:
    names: dict[str, int] = {}
    taken: list[tuple[str, int]] = []
    for index, listener in enumerate(_items(gateway, "listeners")):
        here = (*at, "listeners", index)
        name = _field(listener, "name", "http")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield Broken(
                (*here, "name"), f"listener {name!r} is already listeners[{names[name]}]", "give it another name"
            )
        address, port = _field(listener, "address", "127.0.0.1"), _field(listener, "port", 10000)
        if not isinstance(address, str) or not isinstance(port, int) or port == 0:
            continue
        for other, (used, number) in enumerate(taken):
            if number == port and (used == address or used in _ANY_ADDRESS or address in _ANY_ADDRESS):
                what = f"port {port} is already taken by listeners[{other}]"
                yield Broken((*here, "port"), what, "every listener needs its own port")
                break
        taken.append((address, port))


def _field(part: Any, name: str, default: Any) -> Any:
    return part.get(name, default) if isinstance(part, dict) else getattr(part, name, default)


def _items(part: Any, name: str) -> list[Any]:
    found = _field(part, name, ())
    return list(found) if isinstance(found, list | tuple) else []


def read(path: Path) -> Config | tuple[Problem, ...]:
    """Read a configuration file; an empty one is the default configuration."""
    where = str(path)
    try:
        text = decode(path.read_bytes(), where)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return (Problem(where, "", f"cannot be read: {why}", "give the path of a YAML file with --config"),)
    if isinstance(text, Problem):
        return (text,)
    found = list(documents(text, where))
    if len(found) > 1 and not any(isinstance(one, Problem) for one in found):
        return (Problem(where, "", "holds several YAML documents", "one file is one configuration: remove the '---'"),)
    document = found[-1] if found else None
    if document is None:
        return Config()
    if isinstance(document, Problem):
        return (document,)
    raw, faults = document.build()
    problems = [Problem(f"{where}:{line}", field, what, hint) for line, field, what, hint in faults]
    try:
        config = Config.model_validate({} if raw is None else raw, context={"base": path.parent})
    except ValidationError as error:
        for one in error.errors(include_url=False):
            at = f"{where}:{document.line(one['loc'])}"
            problems.append(Problem(at, path_text(one["loc"]), one["ctx"]["what"], one["ctx"]["hint"]))
        return tuple(sorted(problems, key=lambda one: int(one.where.rpartition(":")[2])))
    return tuple(problems) or config
