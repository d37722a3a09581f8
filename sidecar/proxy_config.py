"""What `headgate sidecar --proxy` is configured with, and what it tells of each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sidecar.loading import PluginSpec


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("has to be http://HOST:PORT or https://HOST:PORT, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("has to be HOST:PORT")
    return value


Origin = Annotated[str, AfterValidator(_origin)]
Address = Annotated[str, AfterValidator(_address)]


class ProxyConfig(BaseModel):
    """A reverse proxy in front of one model server."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    upstream: Origin = Field(description="The model server's HTTP/1, http://HOST:PORT.")
    listen: Address = Field("127.0.0.1:8080", description="Where clients connect, HOST:PORT.")
    grpc_upstream: Address | None = Field(None, alias="grpcUpstream", description="The model server's gRPC, HOST:PORT.")
    grpc_listen: Address | None = Field(None, alias="grpcListen", description="Where gRPC clients connect, HOST:PORT.")
    namespace: str = Field("default", description="In metrics, and for plugins.")
    model: str = Field("", description="In metrics, and for plugins.")
    version: str = Field("", description="In metrics, and for plugins.")
    plugins: tuple[PluginSpec, ...] = Field((), description="In the order in which they see requests.")
    folder: Path | None = Field(None, description="Where relative files of plugins are.")
    reload: bool = Field(False, description="Load plugins again when their files change.")
    calls: tuple[Origin, ...] = Field((), description="Whom plugins may call, besides the upstream.")
    connect_timeout: float = Field(5.0, alias="connectTimeout", gt=0, description="Seconds to connect upstream.")
    idle_timeout: float = Field(
        300.0, alias="idleTimeout", gt=0, description="Seconds in which at least something has to move, either way."
    )
    keep_alive: float = Field(
        4.0, alias="keepAlive", ge=0, description="Seconds an idle connection upstream is kept: less than the server's."
    )
    drain: float = Field(10.0, ge=0, description="Seconds that requests under way get at the end.")

    @model_validator(mode="after")
    def _both_or_none(self) -> ProxyConfig:
        if (self.grpc_upstream is None) != (self.grpc_listen is None):
            raise ValueError("grpcUpstream and grpcListen go together: set both or none")
        return self


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it, for metrics."""

    namespace: str
    model: str
    version: str
    protocol: str  # "http" or "grpc"
    method: str
    code: int  # 0: the client went before there was one
    grpc_status: int | None
    shadow: bool
    request_bytes: int
    response_bytes: int
    duration: float
    time_to_first_byte: float | None
    request_id: str
    end: str  # "", "disconnected", "upstream-failed", "aborted", "timeout"
    by_plugin: bool  # answered by a plugin, the model server's answer not used
    said: Mapping[str, Any] = field(default_factory=dict)  # by plugins: dynamic metadata `headgate`


class Recorder(Protocol):
    """Counts. Called once for each request, in the event loop: be quick."""

    def record(self, exchange: Exchange) -> None: ...
