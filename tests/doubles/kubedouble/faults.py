"""Switches that make the server misbehave the way real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kubedouble import errors

_REASONS = {
    409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
    401: "Unauthorized", 403: "Forbidden",
}  # fmt: skip


class Asked(Protocol):
    """What a fault may look at to decide whether it applies."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...


Matches = Callable[[Asked], bool]


def everything(_: Asked) -> bool:
    return True


def writes(asked: Asked) -> bool:
    return asked.method in ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class _Answer:
    code: int
    left: int
    retry_after: int | None
    matches: Matches


@dataclass
class Faults:
    """What goes wrong now. All off at the start; `clear()` turns all off again."""

    silent: bool = False
    """Watches stay open and say nothing; what happens meanwhile is lost to them, as behind a dead proxy."""
    lost_answers: int = 0
    """So many writes are carried out, and their connection is reset instead of answered."""
    _late: list[Matches] = field(default_factory=list)
    _delays: list[tuple[float, Matches]] = field(default_factory=list)
    _answers: list[_Answer] = field(default_factory=list)

    def answer(
        self, code: int, times: int = 1, *, retry_after: int | None = None, matches: Matches = everything
    ) -> None:
        """Answer the next `times` matching requests with this code instead of serving them."""
        self._answers.append(_Answer(code, times, retry_after, matches))

    def conflict(self, times: int = 1) -> None:
        """Answer the next writes with 409."""
        self.answer(409, times, matches=writes)

    def delay(self, seconds: float, *, matches: Matches = everything) -> None:
        """Make matching requests slow until `clear()`."""
        self._delays.append((seconds, matches))

    def late(self, matches: Matches) -> None:
        """Until `clear()` matching watches tell nothing, and then all of it; and what is done is not answered."""
        self._late.append(matches)

    async def deliver(self, asked: Asked) -> None:
        """Return when this request's answer, or what its watch has to tell, may be sent."""
        while any(matches(asked) for matches in self._late):  # noqa: ASYNC110 - `clear` may come from any thread
            await asyncio.sleep(0.005)

    def clear(self) -> None:
        self.silent = False
        self._late.clear()
        self.lost_answers = 0
        self._delays.clear()
        self._answers.clear()

    async def meet(self, asked: Asked) -> None:
        """Delay or refuse one request, as switched on."""
        for seconds, matches in list(self._delays):
            if matches(asked):
                await asyncio.sleep(seconds)
        for answer in list(self._answers):
            if answer.left > 0 and answer.matches(asked):
                answer.left -= 1
                if not answer.left:
                    self._answers.remove(answer)
                headers = {"Retry-After": str(answer.retry_after)} if answer.retry_after is not None else {}
                details = {"retryAfterSeconds": answer.retry_after} if answer.retry_after is not None else {}
                reason = _REASONS.get(answer.code)
                raise errors.ApiError(answer.code, reason, "switched on by the test", details, headers)
