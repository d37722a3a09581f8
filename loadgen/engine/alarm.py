"""Wakes a callback of gevent's loop at a moment of time.perf_counter(), to some ten microseconds where Linux helps."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent

_MONOTONIC, _ABSOLUTE = 1, 1  # CLOCK_MONOTONIC is perf_counter()'s clock on Linux; TFD_TIMER_ABSTIME
_NANOSECONDS = 1_000_000_000
_READ, _FIRST = 1, 2  # libev's: events, and its highest priority


class Alarm:
    """One moment at a time: setting it anew replaces the last. The loop's own timers are whole milliseconds apart."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at: float | None = None
        self._loop = gevent.get_hub().loop
        self._file = _timerfd()
        self._watcher: Any = None
        if self._file is not None:
            self._watcher = self._loop.io(self._file, _READ, priority=_FIRST)
            self._watcher.start(self._expired)

    def set(self, at: float) -> None:
        self._at = at
        if self._file is not None:
            _arm(self._file, max(int(at * _NANOSECONDS), 1))
        else:
            self._loop_timer(at)

    def by(self, at: float) -> None:
        """At this moment, or earlier if it is set so."""
        if self._at is None or at < self._at:
            self.set(at)

    def close(self) -> None:
        self._at = None
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _loop_timer(self, at: float) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self._watcher = self._loop.timer(max(at - perf_counter(), 0.0))
        self._watcher.start(self._fire)

    def _expired(self) -> None:
        if self._file is None:
            return
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # set anew between expiry and now
        self._fire()

    def _fire(self) -> None:
        self._at = None
        self._ring()


if sys.version_info >= (3, 13):

    def _timerfd() -> int | None:
        if not hasattr(os, "timerfd_create"):
            return None
        return os.timerfd_create(_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _arm(file: int, at: int) -> None:
        os.timerfd_settime_ns(file, flags=_ABSOLUTE, initial=at)

else:

    class _Times(ctypes.Structure):
        """struct itimerspec: the interval, then the moment; each seconds and nanoseconds."""

        _fields_ = (
            ("every_s", ctypes.c_long),
            ("every_ns", ctypes.c_long),
            ("at_s", ctypes.c_long),
            ("at_ns", ctypes.c_long),
        )

    _libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    _times = _Times()
    _pointer = ctypes.byref(_times)

    def _timerfd() -> int | None:
        if _libc is None:
            return None
        file: int = _libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        return file if file >= 0 else None

    def _arm(file: int, at: int) -> None:
        assert _libc is not None
        _times.at_s, _times.at_ns = divmod(at, _NANOSECONDS)
        _libc.timerfd_settime(file, _ABSOLUTE, _pointer, None)
