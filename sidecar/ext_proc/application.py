"""What all requests of a server share: the plugins, what Envoy has to send for them, calls that they make, the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sidecar.ext_proc.calls import Calls
from sidecar.ext_proc.choice import Choices, Chosen
from sidecar.ext_proc.host import Exchange
from sidecar.ext_proc.http2 import FAILED_PRECONDITION, Limits, Stream
from sidecar.ext_proc.lean import LeanExchange
from sidecar.loading import PluginSpec
from sidecar.pipeline import Pipeline
from sidecar.reload import Plugins

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHOICE = b"x-headgate-plugins"  # metadata of a stream: a JSON list of plugins, each {name, config}
CHECK = "/grpc.health.v1.Health/Check"


class ExtProcSpec(BaseModel):
    """The server's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugins: tuple[PluginSpec, ...] = ()
    folder: Path | None = Field(None, description="Where relative files of plugins are.")
    reload: bool = Field(False, description="Load plugins again when their files change.")
    calls: tuple[str, ...] = Field((), description="scheme://host:port of servers that plugins may call.")
    buffer: int = Field(1 << 20, ge=1, description="Bytes of a body that Envoy keeps for a plugin.")
    longest: float = Field(
        10.0, gt=0, description="Seconds that Envoy waits for a paused message: max_message_timeout."
    )


class WrongPlugins(Exception):
    """The plugins cannot be loaded; every line says why."""


class Application:
    """`plugins` is loaded; `chosen` is what requests are given for which nobody chose."""

    chosen: Chosen
    choices: Choices

    def __init__(self, spec: ExtProcSpec, plugins: Plugins | None = None) -> None:
        self.spec = spec
        self.longest = spec.longest
        self.plugins = plugins or Plugins(spec.plugins, spec.folder)
        if self.plugins.faults:
            raise WrongPlugins("\n".join(map(str, self.plugins.faults)))
        self.malformed = 0
        self.requests = 0
        self.calls = Calls(spec.calls)
        self.use(self.plugins.pipeline)

    @property
    def pipeline(self) -> Pipeline:
        return self.chosen.pipeline

    def pipelines(self) -> tuple[Pipeline, ...]:
        """All that are in use."""
        return (self.pipeline, *self.choices.pipelines())

    def use(self, pipeline: Pipeline) -> None:
        """Give new requests to these."""
        self.chosen = Chosen.of(pipeline, self.spec.buffer)
        self.choices = Choices(self.spec.plugins, self.spec.folder, self.plugins.shared, self.spec.buffer)

    def reloaded(self, good: bool) -> None:
        """The plugins' files have changed."""
        if good:
            self.use(self.plugins.pipeline)

    def open(self, stream: Stream, path: str, flush: Callable[[], None]) -> Exchange | _Healthy | None:
        """The handler of a new stream."""
        if path == PROCESS:
            self.requests += 1
            chosen = self.chosen if not stream.metadata else self.choices.chosen(stream.metadata)
            if chosen is None:
                stream.finish(FAILED_PRECONDITION, "these plugins cannot be had: see the log of the plugins' server")
                return None
            lane = chosen.lane
            if lane is not None:
                return LeanExchange(self, chosen, lane, stream, flush)
            return Exchange(self, chosen, stream, flush)
        return _Healthy(stream) if path == CHECK else None

    def http2_limits(self) -> Limits:
        """Room for the longest body, and what protobuf puts around it."""
        return Limits(message=max(8 << 20, self.spec.buffer * 2))

    def soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, call)


class _Healthy:
    """gRPC health checking: whoever gets an answer knows that we live."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def message(self, data: bytes) -> None:
        self._stream.send(b"\x08\x01")

    def half_closed(self) -> None:
        self._stream.finish()

    def gone(self) -> None:
        pass
