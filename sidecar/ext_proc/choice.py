"""Which plugins a request is given to: all of the server's, or those that the control plane chose for its model."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sidecar.ext_proc import wire
from sidecar.lean import Lane
from sidecar.loading import PluginSpec, find, load
from sidecar.pipeline import Pipeline
from sidecar.places import Place, misplaced, rather
from sidecar.plugin import Buffered, HeadersOnly, Plugin
from sidecar.shared import SharedData

REQUEST, RESPONSE = 0, 1
_KEPT = 512  # lists; one that is not used for long is made again when it is
_log = logging.getLogger("headgate.plugins")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Plugins, and what Envoy has to send for them."""

    pipeline: Pipeline
    modes: tuple[int, int]
    limits: tuple[int, int]  # bytes of a body that they can get whole
    mode_override: bytes
    always: bool  # whether Envoy is to be told the mode for each request: it was not configured for these plugins
    last: int  # the question after which there is none, when that can be told beforehand
    lane: Lane | None  # when nothing but headers is wanted
    cluster: str = ""  # to which the request goes, where the list says so because Envoy cannot

    @classmethod
    def of(cls, pipeline: Pipeline, buffer: int, always: bool = False) -> Chosen:
        modes = (body_mode(pipeline, REQUEST), body_mode(pipeline, RESPONSE))
        trailers = (pipeline.wants_request_trailers, pipeline.wants_response_trailers)
        needs = (pipeline.request_need, pipeline.response_need)
        request, response = (min(one.limit, buffer) if isinstance(one, Buffered) else buffer for one in needs)
        override = wire.mode(*modes, bool(pipeline.response), trailers)
        always = always and (any(trailers) or not pipeline.response)
        headers_only = modes == (wire.NONE, wire.NONE) and not any(trailers)
        last = wire.RESPONSE_HEADERS if headers_only and pipeline.response else 0
        lane = Lane(pipeline) if pipeline.plugins and Lane.fits(pipeline) else None
        return cls(pipeline, modes, (request, response), override, always, last, lane)

    def expects(self, told: Any) -> bool:
        """Whether Envoy was configured to send what these plugins want. `told`: its ProtocolConfiguration."""
        return not self.always and (told.request_body_mode, told.response_body_mode) == self.modes


class Wanted(BaseModel):
    """One plugin of a list that comes with a stream."""

    model_config = ConfigDict(extra="forbid")

    name: str
    config: dict[str, Any] | None = None


class Choices:
    """The server's plugins by name, and the lists of them that were asked for. Code comes from the server's own
    configuration only: a list can leave plugins out and configure them."""

    def __init__(self, specs: tuple[PluginSpec, ...], folder: Path | None, shared: SharedData, buffer: int) -> None:
        self._specs = {name_of(spec, folder): spec for spec in specs}
        self._folder = folder
        self._shared = shared
        self._buffer = buffer
        self._made: OrderedDict[str, Chosen | None] = OrderedDict()
        self._lists: OrderedDict[str, Chosen | None] = OrderedDict()  # the same list is the same plugins everywhere

    def chosen(self, text: str) -> Chosen | None:
        """The plugins of a list, None when it cannot be had: the log says why, once."""
        if text in self._made:
            self._made.move_to_end(text)
            return self._made[text]
        made = self._made[text] = self._read(text)
        if len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return made

    def pipelines(self) -> tuple[Pipeline, ...]:
        return tuple(one.pipeline for one in self._lists.values() if one is not None)

    def _read(self, text: str) -> Chosen | None:
        """The list alone, or {cluster, plugins}."""
        try:
            document = json.loads(text)
            at = (
                _At.model_validate(document)
                if isinstance(document, dict)
                else _At(plugins=_LIST.validate_python(document))
            )
        except (ValueError, ValidationError, RecursionError) as error:
            _log.error("Envoy asks for plugins in a way that is not understood: %s", " ".join(str(error).split())[:300])
            return None
        place: Place = "backend" if at.cluster else "gateway"
        key = json.dumps([place, *(one.model_dump() for one in at.plugins)], sort_keys=True)
        if key not in self._lists:
            self._lists[key] = self._make(at.plugins, place)
            if len(self._lists) > _KEPT:
                self._lists.popitem(last=False)
        self._lists.move_to_end(key)
        made = self._lists[key]
        return replace(made, cluster=at.cluster) if made is not None and at.cluster else made

    def _make(self, wanted: list[Wanted], place: Place) -> Chosen | None:
        missing = [one.name for one in wanted if one.name not in self._specs]
        if missing:
            there = ", ".join(self._specs) or "none"
            _log.error("Envoy asks for plugins that are not here: %s (there are %s)", ", ".join(missing), there)
            return None
        entries = []
        for one in wanted:
            spec = self._specs[one.name]
            kind = find(spec.plugin, self._folder)
            if isinstance(kind, type) and (told := misplaced(kind, place)):
                closed = (spec.on_failure or kind.on_failure) == "closed"
                then = "requests are refused" if closed else "the others run without it"
                _log.error("plugin %r: %s; %s (%s)", one.name, told, then, rather(kind))
                if closed:
                    return None
                continue
            config = spec.config | one.config if one.config is not None else spec.config
            entries.append(spec.model_copy(update={"config": config, "name": one.name}))
        loaded = load(entries, self._folder, self._shared)
        for fault in loaded.faults:
            _log.error("plugins of a model: %s", fault)
        return Chosen.of(loaded.pipeline, self._buffer, always=True) if loaded.pipeline is not None else None


class _At(BaseModel):
    """A list for one cluster."""

    model_config = ConfigDict(extra="forbid")

    cluster: str = ""
    plugins: list[Wanted]


_LIST = TypeAdapter(list[Wanted])


def name_of(spec: PluginSpec, folder: Path | None) -> str:
    """What the plugin is called in metrics, and in lists."""
    found = find(spec.plugin, folder)
    return spec.name or (found.name or found.__name__ if isinstance(found, type) and issubclass(found, Plugin) else "")


def body_mode(pipeline: Pipeline, way: int) -> int:
    """How Envoy has to send the bodies of one direction. Whatever one plugin keeps back is kept back for all."""
    steps = pipeline.response if way else pipeline.request
    found = [(one, one.response if way else one.request) for one in steps]
    buffered = [one for one, direction in found if direction.body and isinstance(direction.need, Buffered)]
    if buffered:
        # BUFFERED refuses a longer body; what may go by unseen is sent as far as Envoy keeps it.
        return wire.BUFFERED if any(one.closed for one in buffered) else wire.BUFFERED_PARTIAL
    if any(direction.body and not isinstance(direction.need, HeadersOnly) for _, direction in found):
        return wire.STREAMED
    return wire.NONE
