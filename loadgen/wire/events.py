"""Bytes of a body -> server-sent events -> when tokens came, how many there were, and what went wrong."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

_BOM = b"\xef\xbb\xbf"
_ALONE = re.compile(rb"data: [^\r\n]*\n\n")
_JSON = json.JSONDecoder()
_TOKENS_OF_DELTA = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio")


class Event(NamedTuple):
    """`name`: "" where the server gave none."""

    name: str
    data: bytes


class EventReader:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, however it is cut."""

    __slots__ = ("_beginning", "_data", "_name", "_plain", "_rest", "_skip_line_feed")

    def __init__(self) -> None:
        self._rest = b""
        self._plain = False  # nothing is open
        self._beginning = True
        self._skip_line_feed = False  # the last line ended in a carriage return: its line feed may be about to come
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> list[Event]:
        """Those that `part` completes."""
        if not part:
            return []
        if self._plain and _ALONE.fullmatch(part):  # most come alone and whole
            return [Event("", part[6:-2])]
        if self._skip_line_feed:
            self._skip_line_feed = False
            part = part.removeprefix(b"\n")
        part = self._rest + part
        if self._beginning:
            if len(part) < len(_BOM) and _BOM.startswith(part):
                self._rest = part
                return []
            self._beginning = False
            part = part.removeprefix(_BOM)
        lines = part.splitlines()  # of bytes: at \n, \r and \r\n only
        self._rest = b"" if part.endswith((b"\n", b"\r")) or not lines else lines.pop()
        self._skip_line_feed = part.endswith(b"\r")
        found = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    found.append(Event(self._name, b"\n".join(self._data)))
                    self._data = []
                self._name = ""
            elif line.startswith(b"event:"):
                self._name = line[6:].decode(errors="replace").removeprefix(" ")
            elif line == b"data":
                self._data.append(b"")
        self._plain = not (self._rest or self._data or self._name or self._skip_line_feed)
        return found


class Tokens:
    """What the events of one answer say. `stamps`: when each token came; `trouble`: why the stream failed, if it did.

    `output`: tokens that the server counted (reasoning included), None where it did not. `first`: the first
    event's data, for attribution.
    """

    __slots__ = ("_dialect", "_finished", "_reader", "first", "output", "stamps", "trouble")

    def __init__(self, dialect: Literal["openai", "plain"]) -> None:
        self._dialect = dialect
        self._reader = EventReader()
        self._finished = False
        self.stamps: list[float] = []
        self.output: int | None = None
        self.trouble: str | None = None
        self.first = b""

    def feed(self, part: bytes, stamp: float) -> None:
        """`stamp`: when the last byte of `part` was read."""
        for event in self._reader.feed(part):
            if not self.first:
                self.first = event.data
            if event.name == "error":
                self._fail(event.data.decode(errors="replace"))
            elif self._dialect == "plain":
                self.stamps.append(stamp)
            elif event.data == b"[DONE]":
                self._finished = True
            else:
                self._openai(event.data, stamp)

    def end(self) -> None:
        """The answer is complete."""
        if self._dialect == "openai" and not self._finished:
            self._fail("the stream ended without [DONE] and without a finish_reason")

    def _fail(self, why: str) -> None:
        if self.trouble is None:
            self.trouble = why[:500]

    def _openai(self, data: bytes, stamp: float) -> None:
        try:
            text = data.decode().strip()
            chunk, end = _JSON.raw_decode(text)  # a third of what json.loads takes
            if end < len(text):
                raise ValueError("there is more than one value")
        except (ValueError, RecursionError):
            self._fail(f"an event is not JSON: {data[:100]!r}")
            return
        if not isinstance(chunk, dict):
            self._fail(f"an event is not an object: {data[:100]!r}")
            return
        if chunk.get("error"):
            self._fail(_message(chunk["error"]))
            return
        choices = chunk.get("choices")
        arrived = False
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                arrived = arrived or _has_token(choice)
                if choice.get("finish_reason"):
                    self._finished = True
        if arrived:
            self.stamps.append(stamp)
        usage = chunk.get("usage")
        if usage and isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.output = usage["completion_tokens"]


def _has_token(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return bool(delta.get("content")) or any(delta.get(name) for name in _TOKENS_OF_DELTA)
    return bool(choice.get("text"))


def _message(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return error if isinstance(error, str) else json.dumps(error)
