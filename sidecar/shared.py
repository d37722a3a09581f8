"""Data that all requests and plugins of a process share: bytes by key, changed by compare-and-set, bounded."""

from __future__ import annotations

import threading


class SharedFull(ValueError):
    """There is no room for this value; nothing has been stored."""


class SharedData:
    """`get` tells a value with its mark; `set` with that mark succeeds only if nobody was faster."""

    def __init__(self, max_bytes: int = 16 << 20, max_keys: int = 10_000) -> None:
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._values: dict[str, tuple[bytes, int]] = {}
        self._bytes = 0
        self._mark = 0
        self._lock = threading.Lock()  # Envoy's workers share one of us

    def get(self, key: str) -> tuple[bytes, int]:
        """The value and its mark; (b"", 0) when there is none."""
        return self._values.get(key, (b"", 0))

    def set(self, key: str, value: bytes, mark: int | None = None) -> bool:
        """Store it. With a mark (0: only when absent) False means that it has changed since, and nothing is stored."""
        if not isinstance(key, str) or not isinstance(value, bytes):
            raise TypeError("shared data are bytes under a str key")
        with self._lock:
            old, present = self._values.get(key, (b"", 0))
            if mark is not None and mark != present:
                return False
            size = self._bytes + len(value) - len(old) + (0 if present else len(key))
            if size > self._max_bytes or (not present and len(self._values) >= self._max_keys):
                raise SharedFull(f"no room for {key!r}: at most {self._max_keys} keys and {self._max_bytes} bytes")
            self._mark += 1
            self._values[key] = (value, self._mark)
            self._bytes = size
            return True

    def remove(self, key: str) -> None:
        """Forget a key; nothing happens when it is not there."""
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self._bytes -= len(old[0]) + len(key)
