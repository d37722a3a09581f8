"""Starts a plugin anew in its place: code, classes and root are made again, and what refers to the old root goes on
with the new one's state.

Requests, the pipeline and the C module know a root and a class of contexts by identity. So these two stay, as shells:
the root takes the new root's class and attributes, the class of contexts the new one as its base.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import OrderedDict, deque
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from sidecar.plugin import HttpContext, Plugin

if TYPE_CHECKING:
    from sidecar.pipeline import Bound

GIVEN: Final = ("metrics", "shared", "log")  # attributes of a root that are the host's
_CONTAINERS: Final = (list, dict, set, deque, OrderedDict)
_LARGE: Final = 1_000  # elements


def fresh(kind: type[Plugin]) -> type[Plugin]:
    """The same class from its module, loaded once more as it was read; the class itself where that cannot be."""
    old = sys.modules.get(kind.__module__)
    spec = getattr(old, "__spec__", None)
    if old is None or spec is None or not isinstance(vars(old).get(kind.__qualname__), type):
        return kind
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        if isinstance(spec.loader_state, CodeType):  # of a file: sidecar/loading.py
            exec(spec.loader_state, module.__dict__)
        elif spec.loader is not None:
            spec.loader.exec_module(module)
        found: type[Plugin] = vars(module)[kind.__qualname__]
    except BaseException:
        sys.modules[spec.name] = old
        raise
    package, _, name = spec.name.rpartition(".")
    if package in sys.modules:  # which would keep the old one, by its name and by what it has imported from it
        names = vars(sys.modules[package])
        for key, one in list(names.items()):
            if key in vars(module) and one is vars(old).get(key) and not key.startswith("__"):
                names[key] = vars(module)[key]
        names[name] = module
    return found


def take_over(bound: Bound, root: Plugin | None) -> list[Any]:
    """Put a new root's state in the place of the old one's, None: nothing but what the host gave. Returns what the
    plugin kept, to be let go. TypeError if classes of contexts or roots are too unlike, then nothing has changed."""
    plugin = bound.plugin
    kind, old = type(plugin), vars(plugin)
    left: list[Any] = [old]
    if root is None:
        plugin.__dict__ = {name: old[name] for name in GIVEN if name in old}
        return left
    if type(root) is not kind:
        if bound.make is not None:
            bound.make.__bases__ = (getattr(root, "context", HttpContext),)
        plugin.__class__ = type(root)
        names = home(kind)
        if isinstance(getattr(names.get("__spec__"), "loader_state", None), CodeType):  # nobody else runs in it
            left += _emptied(names)
    plugin.__dict__ = vars(root)
    return left


def home(kind: type) -> dict[str, Any]:
    """The names of the module in which a class was made. Of two that were loaded from one file, its own."""
    for one in list(vars(kind).values()):
        names = getattr(one, "__globals__", None)
        if type(names) is dict and names.get("__name__") == kind.__module__:
            return names
    module = sys.modules.get(kind.__module__)
    return vars(module) if isinstance(module, ModuleType) else {}


def _emptied(names: dict[str, Any]) -> list[Any]:
    """Take large containers out of an old module and its classes; a request that still runs in it finds empty ones."""
    left: list[Any] = []
    name = names.get("__name__")
    for key, one in list(names.items()):
        if type(one) in _CONTAINERS and len(one) > _LARGE:
            names[key] = type(one)()
            left.append(one)
        elif isinstance(one, type) and one.__module__ == name:
            for attribute, value in list(vars(one).items()):
                if type(value) in _CONTAINERS and len(value) > _LARGE:
                    setattr(one, attribute, type(value)())
                    left.append(value)
    return left
