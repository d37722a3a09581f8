"""Headers as Envoy sent them. Most of them nobody looks at, so they are read one by one until somebody wants all."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sidecar.ext_proc import wire
from sidecar.headers import HeaderList, checked_name, checked_value, is_forbidden


class WireHeaders(HeaderList):
    """A HeaderMap, whose names are in lower case already, and what plugins have set over it."""

    __slots__ = ("_over", "_raw")

    def __init__(self, raw: Any) -> None:
        self._raw = raw  # None when all have been read: then they are in _pairs
        self._over: dict[str, str] = {}
        self._touched = {}

    def __getattr__(self, name: str) -> list[tuple[str, str]]:
        """Read all; reached for `_pairs` once, when it is not there yet."""
        if name != "_pairs":
            raise AttributeError(name)
        self._pairs, self._raw = wire.pairs(self._raw), None
        touched, self._touched = self._touched, {}
        for one, value in self._over.items():
            super()._set(one, value)
        self._touched = touched
        return self._pairs

    def get(self, name: str, default: str = "") -> str:
        if self._raw is None:
            return super().get(name, default)
        key = _key(name)
        if self._over and (name := name.lower()) in self._over:
            return self._over[name]
        for one in self._raw.headers:
            if one.key == key:
                return str(one.raw_value or one.value, "utf-8", "surrogateescape")
        return default

    def set(self, name: str, value: str) -> None:
        name = checked_name(name)
        if self._raw is None:
            super().set(name, value)
            return
        if type(value) is not str or is_forbidden(value):
            value = checked_value(name, value)
        self._touched[name] = None
        self._over[name] = value

    def changes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        touched = self._touched
        if not touched:
            return ()
        self._touched = {}
        if self._raw is not None:
            return tuple([(name, (self._over[name],)) for name in touched])
        pairs = self._pairs
        return tuple([(name, tuple([value for one, value in pairs if one == name])) for name in touched])

    def mutation(self) -> bytes:
        """`changes`, encoded."""
        if not self._touched or self._raw is None:
            return wire.mutation(self.changes())
        touched, over = self._touched, self._over
        self._touched = {}
        text = b""
        for name in touched:
            text += wire.put(name, over[name])
        return text


@lru_cache(1024)
def _key(name: str) -> bytes:
    return name.lower().encode("utf-8", "surrogateescape")
