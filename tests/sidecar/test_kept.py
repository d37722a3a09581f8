"""What a plugin keeps is measured truly, once, and without what is everybody's."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
import threading
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_host import Exchange

from sidecar.freed import freed
from sidecar.kept import Kept, measured, mebibytes, walk
from sidecar.pipeline import Bound, Pipeline
from sidecar.plugin import HttpContext, Plugin

OWN = frozenset({__name__})
NO_LIMIT = 1 << 60
MEBIBYTE = 1 << 20


def kept(*objects: object, limit: int = NO_LIMIT, root: Plugin | None = None) -> Kept:
    return measured(walk([(str(at), one) for at, one in enumerate(objects)], OWN, limit, root))


def blob(size: int = MEBIBYTE) -> bytes:
    return os.urandom(1) * size


@dataclass
class Entry:
    data: Any


@dataclass(slots=True)
class Slotted:
    data: Any


class Holder:
    seen: Any = ()


def _cached() -> Any:
    @functools.cache
    def work(at: int) -> bytes:
        return blob()

    work(1)
    return work


def _closure() -> Any:
    data = blob()
    return lambda: data


def _default() -> Any:
    def add(one: Any, seen: Any = [blob()]) -> None:  # noqa: B006, B008
        seen.append(one)

    return add


def _generator() -> Any:
    def numbers() -> Any:
        data = blob()
        yield 1
        yield data

    made = numbers()
    next(made)
    return made


def _error() -> Any:
    def fails() -> None:
        data = blob()
        raise ValueError(len(data))

    try:
        fails()
    except ValueError as error:
        return error


def _class() -> Any:
    return type("Own", (), {"__module__": __name__, "seen": [blob()]})


@pytest.mark.parametrize("make", [
    lambda: [blob()],
    lambda: (1, (2, (3, blob()))),
    lambda: {blob()},
    lambda: {"a": {"b": blob()}},
    lambda: {blob(): None},
    lambda: deque([blob()]),
    lambda: OrderedDict(a=blob()),
    lambda: defaultdict(list, a=[blob()]),
    lambda: bytearray(MEBIBYTE),
    lambda: Entry(blob()),
    lambda: Slotted(blob()),
    lambda: [Entry([Slotted(blob())])],
    lambda: memoryview(blob()),
    lambda: [blob()].append,
    lambda: Entry(blob()).__eq__,
    lambda: functools.partial(print, blob()),
    _cached, _closure, _default, _generator, _error, _class,
])  # fmt: skip
def test_whatever_holds_it_it_is_found(make: Callable[[], Any]) -> None:
    held = make()
    assert MEBIBYTE <= kept(held).bytes < MEBIBYTE + 20_000


@pytest.mark.parametrize("shared", [
    json, json.loads, sys.modules, Exception, OrderedDict, logging.getLogger("x"), logging.getLogger().manager, None,
    threading.current_thread(), threading.Lock(), os.environ.__class__, vars(json), pytest, types.MappingProxyType,
    functools.lru_cache, object, type, __builtins__, HttpContext, Plugin,
])  # fmt: skip
def test_what_is_everybodys_is_not_counted(shared: object) -> None:
    assert kept(shared).bytes < 50_000
    assert kept(Entry([shared, {"a": shared}])).bytes < 50_000


def test_objects_are_counted_once() -> None:
    one = blob()
    together = kept([one] * 1000, {"a": one}, one)
    assert MEBIBYTE < together.bytes < MEBIBYTE + 20_000
    circle: list[Any] = [one]
    circle.append(circle)
    assert MEBIBYTE < kept(circle).bytes < MEBIBYTE + 1000


trees = st.recursive(
    st.none() | st.booleans() | st.binary(max_size=50) | st.text(max_size=20) | st.integers() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner) | st.tuples(inner, inner),
    max_leaves=40,
)


def plainly(one: Any, seen: set[int]) -> int:
    """The same, in the plainest way."""
    if isinstance(one, bool | None) or id(one) in seen:
        return 0
    seen.add(id(one))
    parts: Any = ()
    if isinstance(one, dict):
        parts = [*one.keys(), *one.values()]
    elif isinstance(one, list | tuple):
        parts = one
    return sys.getsizeof(one) + sum(plainly(part, seen) for part in parts)


@given(trees)
def test_it_adds_up(tree: Any) -> None:
    assert kept(tree).bytes == plainly(tree, set())


@given(trees, st.integers(0, 3000))
def test_a_walk_ends_past_its_limit_and_says_so(tree: Any, limit: int) -> None:
    whole = plainly(tree, set())
    got = kept(tree, limit=limit)
    assert got.over == (whole > limit)
    assert got.bytes == whole or limit < got.bytes <= whole


def test_a_walk_takes_many_short_turns_and_stops_early() -> None:
    many = [str(at) for at in range(100_000)]
    turns = sum(1 for _ in walk([("many", many)], OWN, NO_LIMIT))
    assert turns == 100_001 // 500
    assert sum(1 for _ in walk([("many", many)], OWN, sys.getsizeof(many) + 100_000)) < 10


def test_what_keeps_most_is_named() -> None:
    got = measured(
        walk([("self.small", blob(100)), ("self.table", blob()), ("SEEN", blob(3 * MEBIBYTE))], OWN, NO_LIMIT)
    )
    assert str(got) == "3.0 MiB by SEEN, 1.0 MiB by self.table"
    assert (mebibytes(71.4 * MEBIBYTE), mebibytes(MEBIBYTE * 1.26)) == ("71 MiB", "1.3 MiB")


def test_a_wrong_sizeof_is_not_believed() -> None:
    class Wrong:
        def __sizeof__(self) -> int:
            raise RuntimeError

    assert 0 < kept([Wrong()]).bytes < 10_000


class Keeps(HttpContext["KeepsRequests"]):
    def on_request_headers(self, headers: Any) -> None:
        self.root.requests.append(self)
        headers.set("x-large", "x" * MEBIBYTE)


class KeepsRequests(Plugin):
    context = Keeps

    def on_configure(self, config: Any) -> None:
        self.requests: list[Any] = []


def test_of_a_context_that_is_kept_its_request_is_counted_but_neither_the_host_nor_another_plugin() -> None:
    plugin, other = KeepsRequests(), KeepsRequests()
    pipeline = Pipeline([Bound(plugin, "one"), Bound(other, "other")])
    for one in (plugin, other):
        one.requests = []
        one.table = blob()  # type: ignore[attr-defined]
    Exchange(pipeline).send()
    other.requests.append(blob())
    assert MEBIBYTE < kept(plugin.requests, root=plugin).bytes < MEBIBYTE + 20_000
    assert kept(plugin, other).bytes == 0


@given(trees)
def test_letting_go_leaves_what_others_hold(tree: Any) -> None:
    before = plainly(tree, set())
    for _ in freed([tree]):
        pass
    assert plainly(tree, set()) == before


def test_letting_go_frees_all_of_it_in_turns() -> None:
    class Marked:
        pass

    made = [{"a": [Marked(), (Marked(), {at})], at: deque([Marked()])} for at in range(2000)]
    large = OrderedDict((at, Marked()) for at in range(2000))
    left: list[Any] = [{"made": made, "large": large, "numbers": set(range(5000))}]
    del made, large
    gc.disable()
    try:
        turns = sum(1 for _ in freed(left))
        assert left == []
        assert [one for one in gc.get_objects() if type(one) is Marked] == []
    finally:
        gc.enable()
    assert turns > 20
