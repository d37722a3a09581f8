"""Header maps as plugins see them: names in any case, several values, and a note of what was changed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import lru_cache

Pairs = tuple[tuple[str, str], ...]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_PSEUDO = frozenset({":method", ":path", ":authority", ":scheme", ":status"})
is_forbidden = re.compile(r"[\x00\r\n]").search  # in a value


class Headers(ABC):
    """What every host gives to plugins. A host with live header maps overrides the five primitives.

    Names are told in lower case. Writing checks first: a wrong type raises TypeError, a name or value that could
    break out of its line raises ValueError, and nothing has changed.
    """

    __slots__ = ()

    @abstractmethod
    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in order; () when it is not there."""

    @abstractmethod
    def items(self) -> Pairs:
        """All headers, in order, repeated ones repeated."""

    @abstractmethod
    def _set(self, name: str, value: str) -> None: ...

    @abstractmethod
    def _add(self, name: str, value: str) -> None: ...

    @abstractmethod
    def _remove(self, name: str) -> None: ...

    def get(self, name: str, default: str = "") -> str:
        """The first value, or the default."""
        values = self.get_all(name)
        return values[0] if values else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def set(self, name: str, value: str) -> None:
        """Make this the header's only value."""
        self._set(checked_name(name), checked_value(name, value))

    def add(self, name: str, value: str) -> None:
        """Add a value and keep those that are there."""
        name = checked_name(name)
        if name[0] == ":":
            raise ValueError(f"{name!r} can have one value only: use set")
        self._add(name, checked_value(name, value))

    def remove(self, name: str) -> None:
        """Remove every value; nothing happens when there is none."""
        name = checked_name(name)
        if name[0] == ":":
            raise ValueError(f"{name!r} cannot be removed")
        self._remove(name)


class HeaderList(Headers):
    """Headers in memory. `changes()` tells a host that sends mutations what has become of the touched names."""

    __slots__ = ("_pairs", "_touched")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]
        self._touched: dict[str, None] = {}

    def get(self, name: str, default: str = "") -> str:
        name = name.lower()
        for one, value in self._pairs:
            if one == name:
                return value
        return default

    def get_all(self, name: str) -> tuple[str, ...]:
        name = name.lower()
        return tuple(value for one, value in self._pairs if one == name)

    def items(self) -> Pairs:
        return tuple(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(tuple(self._pairs))

    def __repr__(self) -> str:
        return f"HeaderList({self._pairs!r})"

    def changes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each name touched since the last call with its values now, () when removed. Calling it starts afresh."""
        if not self._touched:
            return ()
        touched, self._touched = self._touched, {}
        return tuple((name, self.get_all(name)) for name in touched)

    def _set(self, name: str, value: str) -> None:
        self._touched[name] = None
        for at, (one, _) in enumerate(self._pairs):
            if one == name:
                rest = [pair for pair in self._pairs[at + 1 :] if pair[0] != name]
                self._pairs[at:] = [(name, value), *rest]
                return
        if name[0] == ":":
            self._pairs.insert(0, (name, value))  # HTTP/2 wants them in front
        else:
            self._pairs.append((name, value))

    def _add(self, name: str, value: str) -> None:
        self._touched[name] = None
        self._pairs.append((name, value))

    def _remove(self, name: str) -> None:
        kept = [pair for pair in self._pairs if pair[0] != name]
        if len(kept) != len(self._pairs):
            self._touched[name] = None
            self._pairs = kept


def checked_name(name: str) -> str:
    """The name in lower case, or why it cannot be one."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name is a str, not {type(name).__name__}")
    return _lower(name)


@lru_cache(1024)  # plugins use the same few names again and again
def _lower(name: str) -> str:
    name = name.lower()
    if name not in _PSEUDO and not _NAME.match(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    return name


def checked_value(name: str, value: str) -> str:
    """The value, or why it cannot be one."""
    if not isinstance(value, str):
        raise TypeError(f"header {name!r}: a value is a str, not {type(value).__name__}")
    if is_forbidden(value):
        raise ValueError(f"header {name!r}: a value holds no line break and no NUL")
    return value
