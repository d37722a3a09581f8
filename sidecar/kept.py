"""What a plugin keeps in memory: named objects in, bytes out, in slices so that nobody waits for long.

Followed is what the plugin's own objects lead to. Modules, classes and functions of others, what the interpreter and
the host share, threads' stacks and what libraries keep in C are not; bytes that two names lead to are the first one's.
"""

from __future__ import annotations

import builtins
import functools
import gc
import sys
import types
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sidecar.plugin import HttpContext, Plugin

_SLICE: Final = 500  # objects between two yields: a quarter of a millisecond
_TOLD: Final = 3  # names in a message
_PAGE: Final = 20  # bits of an address within a page of `_Seen`

_SKIPPED, _ATOM, _FOLLOWED, _CONTEXT, _FUNCTION, _CLASS = range(6)
_ATOMS: Final = (str, bytes, bytearray, int, float, complex)
_SHARED: Final = (types.ModuleType, types.CodeType, type(None), bool, type(...), type(NotImplemented))
_STRANGERS: Final = frozenset((
    *("_asyncio", "_frozen_importlib", "_frozen_importlib_external", "_headgate_envoy", "_socket", "_ssl", "_thread"),
    *("aiohttp", "asyncio", "contextvars", "importlib", "logging", "selectors", "socket", "ssl", "threading"),
    *("typing", "uvloop", "zipimport"),
))  # fmt: skip
_HOSTS: Final = frozenset((  # classes of the host, of which one is made for a request or a plugin: kept with it
    *("Body", "Call", "Chain", "Counter", "Gauge", "HeaderList", "Histogram", "HttpRequest", "HttpResponse"),
    *("Instruments", "Out", "Reply", "Step", "WireHeaders", "_Flow", "_Series"),
))  # fmt: skip
_CACHED: Final = type(functools.lru_cache(lambda: None))


@dataclass(frozen=True, slots=True)
class Kept:
    """`most` names what leads to most of it, the largest first. A walk that passed its limit has not seen it all."""

    bytes: int
    over: bool = False
    most: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{mebibytes(size)} by {name}" for name, size in self.most)


Walk = Generator[None, None, Kept]


def mebibytes(size: float) -> str:
    """For people: 71 MiB, 1.5 MiB."""
    return f"{size / 2**20:.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**20:.1f} MiB"


def walk(named: Iterable[tuple[str, object]], own: frozenset[str], limit: int, root: Plugin | None = None) -> Walk:
    """Add up what these objects keep. `own` are the modules whose classes and functions count; of contexts those of
    this root. A root is not followed: its attributes are to be named. Ends past the limit."""
    kinds: dict[type, int] = {}
    seen = _Seen()
    for shared in (vars(builtins), sys.modules):
        seen.add(id(shared))
    total = 0
    left = _SLICE
    sizes: dict[str, int] = {}
    for name, start in named:
        before = total
        stack: list[Any] = []
        found: list[Any] = [start]
        while True:
            for one in found:
                kind = type(one)
                way = kinds.get(kind)
                if way is None:
                    way = kinds[kind] = _way(kind, own)
                if way == _SKIPPED:
                    continue
                # What nothing else refers to is not met again: it need not be remembered.
                if sys.getrefcount(one) > _ALONE and not seen.add(id(one)):
                    continue
                if way != _ATOM:
                    if way == _FOLLOWED:
                        if kind is dict and "__builtins__" in one:
                            continue  # a module's
                    elif way == _CONTEXT:
                        if vars(one).get("root") is not root:
                            continue
                    elif getattr(one, "__module__", None) not in own:
                        continue
                    stack.append(one)
                total += _size(one)
                left -= 1
                if not left:
                    left = _SLICE
                    if total > limit:
                        break
                    yield
            if total > limit or not stack:
                break
            found = _led_to(stack.pop(), kinds)
        del stack, found
        sizes[name] = sizes.get(name, 0) + total - before
        if total > limit:
            break
    most = sorted(sizes.items(), key=lambda item: -item[1])[:_TOLD]
    return Kept(total, total > limit, tuple(item for item in most if item[1] * 10 >= total))


def measured(walked: Walk) -> Kept:
    """Walk in one go."""
    while True:
        try:
            next(walked)
        except StopIteration as end:
            kept: Kept = end.value
            return kept


def _way(kind: type, own: frozenset[str]) -> int:
    """What to do with objects of a type."""
    if issubclass(kind, (*_SHARED, Plugin)):
        return _SKIPPED
    if issubclass(kind, _ATOMS) and kind.__module__ == "builtins":
        return _ATOM
    if issubclass(kind, HttpContext):
        return _CONTEXT
    if issubclass(kind, type):
        return _CLASS
    if kind is types.FunctionType or kind is _CACHED:
        return _FUNCTION
    module = getattr(kind, "__module__", "")
    if type(module) is not str or module in own:
        return _FOLLOWED
    top = module.partition(".")[0]
    if top == "sidecar" and not module.startswith("sidecar.plugins."):
        return _FOLLOWED if kind.__name__ in _HOSTS else _SKIPPED
    return _SKIPPED if top in _STRANGERS else _FOLLOWED


def _led_to(one: Any, kinds: dict[type, int]) -> list[Any]:
    """What an object refers to. One call for the largest container: some 10 ns for each element."""
    if kinds[type(one)] == _CLASS:
        return list(vars(one).values())  # not its bases and all that is made from it
    if not isinstance(one, dict):
        return gc.get_referents(one)
    more = () if type(one) is dict else gc.get_referents(one)
    return [*dict.keys(one), *dict.values(one), *more]  # the garbage collector leaves out keys that are str


def _size(one: Any) -> int:
    try:
        return sys.getsizeof(one)
    except Exception:  # a __sizeof__ of the plugin's
        return object.__sizeof__(one)


class _Seen:
    """Addresses, a bit for each 16 bytes: a set of numbers would take more than what is measured."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, address: int) -> bool:
        """False if it was there."""
        page = self._pages.get(address >> _PAGE)
        if page is None:
            page = self._pages[address >> _PAGE] = bytearray(1 << (_PAGE - 7))
        at = (address & ((1 << _PAGE) - 1)) >> 4
        bit = 1 << (at & 7)
        if page[at >> 3] & bit:
            return False
        page[at >> 3] |= bit
        return True


def _alone() -> int:
    """What getrefcount says in such a loop of an object to which one other refers."""
    holder = [object()]
    found: list[Any] = gc.get_referents(holder)
    for one in found:
        return sys.getrefcount(one)
    raise AssertionError


_ALONE: Final = _alone()
