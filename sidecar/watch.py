"""Cuts off a hook that does not end: an exception is put into its thread once its time is up.

It works on Python code. A hook that is stuck inside one call into C (`time.sleep(3600)`) is cut off when that returns.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Protocol

_LOOK = 0.02  # seconds between two looks; a hook is cut off this much late at most, plus Python's switch interval

Running = tuple[float, str]  # when it has to be over; what it is


class Overrun(BaseException):
    """Raised inside a hook whose time is up. Not an Exception: `except Exception` in a loop must not catch it."""


class Elsewhere(Protocol):
    """Hooks that are not entered here: the C module's inside Envoy."""

    def at_work(self) -> list[tuple[int, float, int]]:
        """(thread, when it has to be over, number) of each that runs."""

    def is_at_work(self, thread: int, turn: int) -> bool:
        """Whether that one still runs."""


class Watch:
    """One for a process. A thread of its own looks at what each other thread is running; it starts when needed."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}
        self._fired: set[int] = set()  # threads into which an exception may be on its way
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._elsewhere: Elsewhere | None = None

    def look_at(self, elsewhere: Elsewhere) -> None:
        """Look there as well. Who runs hooks there ends one before it looks whether it was cut off."""
        self._elsewhere = elsewhere

    def enter(self, seconds: float, what: str) -> int:
        """A hook begins in this thread. Returns what `leave` wants."""
        if self._thread is None:
            self._start()
        thread = threading.get_ident()
        self._running[thread] = (time.monotonic() + seconds, what)
        return thread

    def leave(self, thread: int) -> None:
        """The hook is over, and no exception of ours can come any more."""
        while True:
            try:
                self._running.pop(thread, None)
                if thread in self._fired:
                    with self._lock:  # whoever fires holds it
                        self._fired.discard(thread)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
                return
            except Overrun:  # it came while we were at it
                continue

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="headgate-plugin-watch", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK):
            now = time.monotonic()
            for thread, running in list(self._running.items()):
                if now > running[0]:
                    self._fire(thread, lambda: self._running.get(thread) is running)  # noqa: B023
            if (elsewhere := self._elsewhere) is not None:
                for thread, until, turn in elsewhere.at_work():
                    if now > until:
                        self._fire(thread, lambda: elsewhere.is_at_work(thread, turn))  # noqa: B023

    def _fire(self, thread: int, still: Callable[[], bool]) -> None:
        with self._lock:
            # Told first, then looked at again: either `leave` has not begun and will see it, or we see that.
            self._fired.add(thread)
            if still():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Overrun))
            else:
                self._fired.discard(thread)


WATCH = Watch()
