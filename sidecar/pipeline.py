"""The configured plugins in order: what each of them overrides, worked out once, and its health."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import ref

from sidecar.chain import Chain, told
from sidecar.health import Fault, Health, Suspension, families
from sidecar.host import Host
from sidecar.instruments import Family, Instruments, Sample
from sidecar.plugin import Buffered, Entry, HeadersOnly, HttpContext, Level, Log, Need, Plugin, Streamed
from sidecar.shared import SharedData
from sidecar.watch import WATCH

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_log = logging.getLogger("headgate.plugins")
_Returned = TypeVar("_Returned")


@dataclass(frozen=True, slots=True)
class Direction:
    """What a plugin does in one direction. The names are those of its hooks, "" for one that it does not override."""

    headers: str
    body: str
    trailers: str
    need: Need

    def __bool__(self) -> bool:
        return bool(self.headers or self.body or self.trailers)


class Bound:
    """One configured plugin: the root, its name, its place, its policy, its health."""

    def __init__(
        self,
        plugin: Plugin,
        name: str = "",
        *,
        on_failure: Literal["open", "closed"] | None = None,
        budget: float | None = None,
        memory: int | None = None,
        suspension: Suspension | None = None,
        shared: SharedData | None = None,
    ) -> None:
        kind = type(plugin)
        self.plugin = plugin
        self.name = name or kind.name or kind.__name__
        self.index = 0
        self.closed = (on_failure or kind.on_failure) == "closed"
        self.budget = kind.budget if budget is None else budget
        self.patience = kind.patience
        self._memory = memory
        self.health = Health(self.name, suspension or Suspension())
        context = getattr(kind, "context", HttpContext)
        self.make = _shell(context)
        self.request = _direction(context, "request", kind.request_body)
        self.response = _direction(context, "response", kind.response_body)
        self.logs = _overrides(context, HttpContext, "on_log")
        self.edits_log = _overrides(kind, Plugin, "on_log")
        self.ticks = kind.tick if kind.tick > 0 and _overrides(kind, Plugin, "on_tick") else 0.0
        self.next_tick = 0.0
        self.clock = time.monotonic
        self._given = Instruments(), shared or SharedData(), Log(self._write)
        self.equip(plugin)
        self.remake: Callable[[], Plugin] = lambda: self.equip(type(plugin)())
        """A new root, configured as the first; its class is a new one if its module can be loaded again."""
        self.stopped = False  # it could not be started anew: it keeps nothing, and waits for the next try
        self.next_start = 0.0
        self._editors: tuple[Bound, ...] = ()
        self._chains: set[ref[Chain]] = set()

    @property
    def memory(self) -> int:
        """Bytes that it may keep."""
        return self.plugin.memory if self._memory is None else self._memory

    def equip(self, plugin: Plugin) -> Plugin:
        """Give a root what a host gives."""
        plugin.metrics, plugin.shared, plugin.log = self._given
        return plugin

    def stop(self, now: float) -> None:
        """It can be given nothing until it is started anew."""
        self.stopped = True
        self.next_start = now + self.health.policy.rest
        self.health.suspended_until = float("inf")

    def go_on(self, now: float) -> None:
        """It has been started anew."""
        if self.stopped:
            self.stopped = False
            self.health.suspended_until = now

    def open_chains(self) -> list[Chain]:
        """Of requests under way whose bodies are seen."""
        return [chain for one in list(self._chains) if (chain := one()) is not None and not chain.finished]

    def guard(self, hook: str, call: Callable[[], _Returned], now: float) -> tuple[bool, _Returned | None]:
        """Run a hook of the root. False when it failed, which has been counted and told."""
        thread = WATCH.enter(self.budget, hook)
        try:
            try:
                return True, call()
            finally:
                WATCH.leave(thread)
        except BaseException as error:
            self.fault(Fault(self.name, hook, *told(error)), now)
            return False, None

    def fault(self, fault: Fault, now: float) -> None:
        """Count a fault and tell of it, and of the suspension that may follow."""
        suspended = self.health.fault(fault, now)
        _log.log(logging.DEBUG if fault.kind == "body-too-large" else logging.WARNING, "%s", fault)
        if suspended:
            policy = self.health.policy
            why = f"after {policy.faults} faults within {policy.window:g} s"
            if fault.kind == "memory":
                why = "and started anew (if it needs more, say so by `memory`)"
            refused = ": requests are refused" if self.closed else ""
            _log.error("plugin %r: suspended for %g s %s%s", self.name, policy.rest, why, refused)

    def attach(self, index: int, editors: tuple[Bound, ...], chains: set[ref[Chain]]) -> None:
        self.index = index
        self._editors = editors
        self._chains = chains

    def _write(self, level: Level, message: str) -> None:
        entry: Entry = {"plugin": self.name, "level": level, "message": str(message)}
        for one in self._editors:
            _edit(one, entry, one.clock())
        _log.log(_LEVELS.get(level, logging.INFO), "%s: %s", entry.get("plugin"), entry.get("message"))


class Pipeline:
    """Plugins in the order in which they see requests. It does not change: a new configuration is a new one."""

    def __init__(self, plugins: Iterable[Bound] = ()) -> None:
        self.plugins = tuple(plugins)
        names = [one.name for one in self.plugins]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two plugins are called {name!r}: give one of them another name")
        self.editors = tuple(one for one in self.plugins if one.edits_log)
        self.chains: set[ref[Chain]] = set()
        for index, one in enumerate(self.plugins):
            one.attach(index, self.editors, self.chains)
        self.request = tuple(one for one in self.plugins if one.request)
        self.response = tuple(one for one in reversed(self.plugins) if one.response)
        self.loggers = tuple(one for one in self.plugins if one.logs)
        self.request_need = _together(one.request.need for one in self.request if one.request.body)
        self.response_need = _together(one.response.need for one in self.response if one.response.body)
        self.sees_bodies = not isinstance(self.request_need, HeadersOnly) or not isinstance(
            self.response_need, HeadersOnly
        )
        self.properties = frozenset(name for one in self.plugins for name in one.plugin.properties)
        self.wants_request_trailers = any(one.request.trailers for one in self.request)
        self.wants_response_trailers = any(one.response.trailers for one in self.response)

    def open(self, host: Host) -> Chain:
        """The chain of a new request."""
        chain = Chain(self, host)
        if self.sees_bodies:  # what gathers in contexts is looked after: sidecar/memory.py
            self.chains.add(ref(chain, self.chains.discard))
        return chain

    def tick(self, now: float) -> None:
        """Call on_tick of those whose time has come."""
        for one in self.plugins:
            if one.ticks and now >= one.next_tick:
                one.next_tick = now + one.ticks
                if not one.health.suspended(now):
                    one.guard("on_tick", one.plugin.on_tick, now)

    def next_tick(self) -> float:
        """When `tick` is to be called; infinity when never."""
        return min((one.next_tick for one in self.plugins if one.ticks), default=float("inf"))

    def edit_log(self, entry: Entry, now: float) -> None:
        """Let the plugins change a line of the access log."""
        for one in self.editors:
            _edit(one, entry, now)

    def families(self, now: float) -> tuple[Family, ...]:
        """Health of the plugins, and the metrics that they made: `headgate_plugin_<plugin>_<metric>`."""
        own = tuple(
            family
            for one in self.plugins
            for family in one.plugin.metrics.families(f"headgate_plugin_{metric_word(one.name)}_")
        )
        dropped = tuple(Sample("_total", (("plugin", one.name),), one.plugin.metrics.dropped) for one in self.plugins)
        lost = Family("headgate_plugin_dropped_series", "counter", "Series that a plugin had no room for.", dropped)
        return (*families(tuple(one.health for one in self.plugins), now), lost, *own) if self.plugins else ()


def metric_word(name: str) -> str:
    """A plugin's name as a part of the name of a metric."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.lower())


def _edit(one: Bound, entry: Entry, now: float) -> None:
    """A line that a plugin failed to redact is not written as it is: its texts are left out, whatever the policy."""
    done = False
    if not one.health.suspended(now):
        done, _ = one.guard("on_log", lambda: one.plugin.on_log(entry), now)
    if not done:
        for key, value in entry.items():
            if key not in ("plugin", "level") and not isinstance(value, int | float | None):
                entry[key] = f"(left out: plugin {one.name!r} failed)"


def _direction(context: type, way: str, need: Need) -> Direction:
    def hook(part: str) -> str:
        name = f"on_{way}_{part}"
        return name if _overrides(context, HttpContext, name) else ""

    body = "" if isinstance(need, HeadersOnly) else hook("body")
    return Direction(hook("headers"), body, hook("trailers"), need)


def _shell(context: type[HttpContext[Any]]) -> type[HttpContext[Any]] | None:
    """A class that is nothing but that one, whose place another can take: see sidecar/anew.py. None if it objects."""
    try:
        names = {"__module__": context.__module__, "__qualname__": context.__qualname__, "__slots__": ()}
        kind: Any = type(context)
        made: type[HttpContext[Any]] = kind(context.__name__, (context,), names)
        return made
    except Exception:
        return None


def _overrides(kind: type, base: type, name: str) -> bool:
    return getattr(kind, name) is not getattr(base, name)


def _together(needs: Iterable[Need]) -> Need:
    """What a host has to give so that all get what they need; pieces will do when one of them wants pieces."""
    found = list(needs)
    limits = [one.limit for one in found if isinstance(one, Buffered)]
    if any(isinstance(one, Streamed) for one in found):
        return Streamed(rewrites=any(isinstance(one, Streamed) and one.rewrites for one in found))
    return Buffered(max(limits)) if limits else HeadersOnly()


def bind(*plugins: tuple[Plugin, Any] | Plugin) -> Pipeline:
    """Configure plugins by hand, as tests do: a plugin, or a plugin with its configuration."""
    bounds = []
    for one in plugins:
        plugin, config = one if isinstance(one, tuple) else (one, {})
        bound = Bound(plugin)
        bounds.append(bound)
        _configure(plugin, config)
        bound.remake = partial(remade, bound, type(plugin), config)
    return Pipeline(bounds)


def _configure(plugin: Plugin, config: Any) -> None:
    plugin.on_configure(plugin.config_model.model_validate(config) if plugin.config_model else config)


def remade(bound: Bound, kind: type[Plugin], config: Any) -> Plugin:
    """A new root for it, of this class, configured as the first one was."""
    plugin = bound.equip(kind())
    _configure(plugin, config)
    return plugin
