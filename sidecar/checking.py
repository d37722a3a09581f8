"""What can be said about a plugin's class without running it: a list of what is wrong, each with what to do."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from sidecar.places import PLACES
from sidecar.plugin import PROPERTIES, Buffered, HeadersOnly, HttpContext, Plugin, Streamed
from sidecar.quantity import LEAST_MEMORY

_CONTEXT_HOOKS = tuple(name for name in vars(HttpContext) if name.startswith("on_"))
_ROOT_HOOKS = tuple(name for name in vars(Plugin) if name.startswith("on_") and callable(getattr(Plugin, name)))


def check(plugin: type[Plugin]) -> list[str]:
    """Everything that is wrong with it."""
    problems: list[str] = []
    context: Any = getattr(plugin, "context", None)
    if context is None:
        if plugin.on_log is Plugin.on_log and plugin.on_tick is Plugin.on_tick:
            problems.append(f"{plugin.__name__}.context is not set (name the HttpContext of a request)")
    elif not (isinstance(context, type) and issubclass(context, HttpContext)):
        problems.append(f"{plugin.__name__}.context is {context!r}, not a class made from HttpContext")
        context = None
    problems += _hooks(plugin, _ROOT_HOOKS)
    if context is not None:
        problems += _hooks(context, _CONTEXT_HOOKS)
        problems += _needs(plugin, context)
    for name, least in (("budget", 0.0), ("patience", 0.0), ("tick", -1.0)):
        value = getattr(plugin, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > least:
            problems.append(f"{plugin.__name__}.{name} is {value!r}, not a number of seconds")
    problems += wrong_memory(plugin, plugin.__name__)
    properties: Any = plugin.properties
    if not isinstance(properties, tuple) or not set(properties) <= set(PROPERTIES):
        known = ", ".join(PROPERTIES)
        problems.append(f"{plugin.__name__}.properties is {properties!r}, not a tuple of some of {known}")
    places: Any = plugin.places
    if not isinstance(places, tuple) or not places or not set(places) <= set(PLACES):
        known = ", ".join(PLACES)
        problems.append(f"{plugin.__name__}.places is {places!r}, not a tuple of some of {known}")
    policy: Any = plugin.on_failure
    if policy not in ("open", "closed"):
        problems.append(f"{plugin.__name__}.on_failure is {plugin.on_failure!r}, not 'open' or 'closed'")
    model: Any = plugin.config_model
    if model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
        problems.append(f"{plugin.__name__}.config_model is {model!r}, not a pydantic model")
    return problems


def wrong_memory(plugin: type[Plugin] | Plugin, name: str) -> list[str]:
    """What is wrong with the `memory` of a class, or of a root that has been configured."""
    memory: Any = plugin.memory
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < LEAST_MEMORY:
        return [f"{name}.memory is {memory!r}, not a number of bytes, at least {LEAST_MEMORY}"]
    return []


def _hooks(kind: type, known: tuple[str, ...]) -> list[str]:
    problems = []
    for name in sorted({name for one in kind.__mro__ for name in vars(one) if name.startswith("on_")}):
        method = getattr(kind, name)
        if name not in known:
            if callable(method):
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                problems.append(f"{kind.__name__}.{name} is no hook ({hint})")
            continue
        base = HttpContext if known is _CONTEXT_HOOKS else Plugin
        if not callable(method):
            problems.append(f"{kind.__name__}.{name} is not a method")
            continue
        wanted = list(inspect.signature(getattr(base, name)).parameters)
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError:
            problems.append(f"{kind.__name__}.{name} has to be callable as {name}({', '.join(wanted)})")
        if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
            problems.append(f"{kind.__name__}.{name} yields: a hook returns")
        only_sync = known is _ROOT_HOOKS or name == "on_log"
        if only_sync and inspect.iscoroutinefunction(method):
            problems.append(f"{kind.__name__}.{name} is async: only hooks of a message can wait")
    return problems


def _needs(plugin: type[Plugin], context: type[HttpContext[Plugin]]) -> list[str]:
    problems = []
    for way in ("request", "response"):
        need = getattr(plugin, f"{way}_body")
        name = f"on_{way}_body"
        hooked = getattr(context, name) is not getattr(HttpContext, name)
        if not isinstance(need, HeadersOnly | Buffered | Streamed):
            problems.append(f"{plugin.__name__}.{way}_body is {need!r}, not HEADERS, Buffered(...) or STREAMED")
        elif hooked and isinstance(need, HeadersOnly):
            hint = f"set {plugin.__name__}.{way}_body to Buffered() or STREAMED"
            problems.append(f"{context.__name__}.{name} is never called ({hint})")
        elif not hooked and not isinstance(need, HeadersOnly):
            problems.append(
                f"{plugin.__name__}.{way}_body asks for the body, but {context.__name__} has no {name}"
                " (bodies cost time: leave it out)"
            )
    return problems
