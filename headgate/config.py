"""The control plane's configuration: a YAML file in, one frozen `Config` out, or every problem in it at once.

Every key is optional. Paths are relative to the file that names them. docs/configuration.md lists the keys.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel

from xds import ir

DEFAULT_GATEWAY = "default"


def _path(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, str) and value:
        value = Path(value)
    if not isinstance(value, Path):
        raise ValueError("must be a path")
    base: Path = (info.context or {}).get("base", Path())
    return base / value.expanduser()


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


AnyPath = Annotated[Path, BeforeValidator(_path)]
File = Annotated[Path, BeforeValidator(_path), AfterValidator(_readable)]
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 takes any free port, which only tests and demos want."""
Seconds = Annotated[float, Field(strict=False, gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class _Strict(BaseModel):
    """Typos are errors, YAML is camelCase, values never change after birth."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Tls(_Strict):
    """A certificate with its key, and the CA whose clients are let in (no CA: any client)."""

    certificate: File
    key: File
    client_ca: Annotated[File | None, Field(alias="clientCA")] = None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"certificate {self.certificate} and key {self.key} {_fault(error)}") from None
        if self.client_ca is not None:
            try:
                ssl.create_default_context(cafile=str(self.client_ca))
            except ssl.SSLError:
                raise ValueError(f"clientCA {self.client_ca} holds no certificate in PEM form") from None
        return self


class XdsTls(Tls):
    """`check_node`: the client certificate must name the `node.id` that the Envoy claims to be."""

    check_node: bool = False

    @model_validator(mode="after")
    def _nodes_need_certificates(self) -> Self:
        if self.check_node and self.client_ca is None:
            raise ValueError("checkNode needs clientCA: without it, Envoys show no certificate to check")
        return self


class Keepalive(_Strict):
    """Pings on an idle xDS stream, so that a dead Envoy or a silent firewall is noticed. In seconds."""

    time: Seconds = 30.0
    timeout: Seconds = 10.0


class Xds(_Strict):
    """Where Envoys connect. 18000 is the port that Envoy's own examples use."""

    address: str = "127.0.0.1"
    port: Port = 18000
    tls: XdsTls | None = None
    keepalive: Keepalive = Keepalive()


class Http(_Strict):
    """Where health, status and metrics are."""

    address: str = "127.0.0.1"
    port: Port = 18001


class Listener(_Strict):
    """A port that every Envoy of the gateway opens for users."""

    name: Name = "http"
    address: str = "127.0.0.1"
    port: Port = 10000
    tls: Tls | None = None


class Gateway(_Strict):
    """A group of Envoys: those whose `node.cluster` is `name`."""

    name: Name = DEFAULT_GATEWAY
    listeners: Annotated[tuple[Listener, ...], Field(strict=False, min_length=1)] = (Listener(),)
    on_demand_above: Annotated[int, Field(ge=0)] = 2_000

    def as_ir(self) -> ir.Gateway:
        return ir.Gateway(self.name, tuple(map(self._listener, self.listeners)), self.on_demand_above)

    def _listener(self, listener: Listener) -> ir.Listener:
        tls, ca = None, None
        if listener.tls is not None:
            tls = certificate_name(self.name, listener.name)
            ca = client_ca_name(self.name, listener.name) if listener.tls.client_ca is not None else None
        return ir.Listener(listener.name, listener.address, listener.port, tls, ca)


class Probes(_Strict):
    """How many readiness probes may be under way at once."""

    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 256


class Log(_Strict):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(_Strict):
    """All of it. The default serves one gateway on loopback."""

    xds: Xds = Xds()
    http: Http = Http()
    manifests: AnyPath | None = None
    state_file: AnyPath | None = None
    mass_deletion_hold: Annotated[float, Field(strict=False, ge=0, allow_inf_nan=False)] = 10.0
    gateways: Annotated[tuple[Gateway, ...], Field(strict=False, min_length=1)] = (Gateway(),)
    probes: Probes = Probes()
    log: Log = Log()

    @property
    def state_path(self) -> Path | None:
        """Rollout state lives beside the manifests unless told otherwise; no manifests, no state."""
        if self.state_file is not None or self.manifests is None:
            return self.state_file
        folder = self.manifests.resolve()
        return folder.parent / f".{folder.name}.headgate-state.json"

    def gateway(self, name: str) -> Gateway | None:
        return next((gateway for gateway in self.gateways if gateway.name == name), None)


def certificate_name(gateway: str, listener: str) -> str:
    """The SDS name of a listener's certificate."""
    return f"{gateway}/{listener}"


def client_ca_name(gateway: str, listener: str) -> str:
    """The SDS name of the CA that a listener's clients are checked against."""
    return f"{gateway}/{listener}/client-ca"


def _fault(error: Exception) -> str:
    text = str(error)
    if "KEY_VALUES_MISMATCH" in text:
        return "do not belong together"
    return "cannot be loaded: one of them is not in PEM form, is empty, or the key has a password"
