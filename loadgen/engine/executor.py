"""Who sends when: machines without clocks, sockets or greenlets, driven by `wake(now)` and `ended(call, now)`.

Open follows a schedule whatever the answers do; Closed is users that each wait for their answer. Both send through a
client and never slow down in silence: what finds no room waits, and its latency counts from its intended start.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from loadgen.plan import Load
from loadgen.schedule import Chunk, Schedule, Share
from loadgen.wire.call import NOT_SENT, Call, Fields

Prepare = Callable[[int, int], tuple[bytes, Fields]]  # (number, user) -> body and headers


class Sender(Protocol):
    """What an executor needs of a client."""

    def has_room(self) -> bool: ...

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None: ...


@dataclass(slots=True)
class Book:
    """The account of one scenario in one process. All but `warmup` are recorded requests alone.

    `first_*` and `last_*`: intended starts and when the executor came to them, seconds of the clock; they tell whether
    it kept to the schedule.
    """

    asked: int = 0
    sent: int = 0
    ended: int = 0
    dropped: int = 0
    warmup: int = 0
    began: float = 0.0  # the recorded part
    first_intended: float = 0.0
    last_intended: float = 0.0
    last_due: float = 0.0
    last_sent: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended


class Executor(ABC):
    """One scenario in one process. `begin` first, then `wake` when it says so; `finished` when all has ended."""

    def __init__(self, scenario: int, load: Load, share: Share, client: Sender, prepare: Prepare, keys: int = 0):
        """`keys`: how many stable user keys there are, 0 for a new one each time."""
        self.book = Book()
        self.out = 0  # calls in flight, those of the warm-up too
        self._scenario = scenario
        self._load = load
        self._share = share
        self._client = client
        self._prepare = prepare
        self._keys = keys
        self.trouble = ""  # a request that cannot be made; it ends the run of this scenario
        self._stopped = False
        self._limit = max(1, share.of(load.max_in_flight))

    @abstractmethod
    def begin(self, start: float) -> None:
        """The run starts at this moment of the clock."""

    @abstractmethod
    def wake(self, now: float) -> float | None:
        """Send all that is due. Gives the moment of the next wake-up, None where only an answer can move it on."""

    @abstractmethod
    def ended(self, call: Call, now: float) -> float | None:
        """One of ours has ended; may send the next. Gives a moment by which to be woken, if that is due to this."""

    @abstractmethod
    def give_up(self, now: float) -> list[Call]:
        """The grace time is over: what still waits for room, each as a call that has failed."""

    @property
    @abstractmethod
    def schedule_over(self) -> bool:
        """Nothing more falls due."""

    @property
    def done_sending(self) -> bool:
        """Nothing more will be sent."""
        return self.schedule_over and not self.waiting

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Requests that are due and have found no room yet."""

    @abstractmethod
    def planned(self, now: float) -> float:
        """How many seconds of the recorded part have passed, as far as sending goes."""

    @property
    def finished(self) -> bool:
        return self.done_sending and not self.out

    def stop(self) -> None:
        """Start no more."""
        self._stopped = True

    def _room(self) -> bool:
        return self.out < self._limit and self._client.has_room()

    def _send(self, number: int, user: int, intended: float, due: float, now: float, recorded: bool) -> None:
        call = Call(self._scenario, intended, number, user % self._keys if self._keys else user, recorded)
        call.due = due
        try:
            body, headers = self._prepare(number, call.user)
        except ValueError as error:
            self.trouble = f"request {number} cannot be made: {error}"
            self.stop()
            return
        self.out += 1
        if recorded:
            self.book.sent += 1
            self.book.last_sent = now
        else:
            self.book.warmup += 1
        self._client.send(call, body, headers)

    def _count_ended(self, call: Call) -> None:
        self.out -= 1
        if call.recorded:
            self.book.ended += 1


class Open(Executor):
    """Requests by schedule."""

    def __init__(self, scenario: int, load: Load, share: Share, client: Sender, prepare: Prepare, keys: int = 0):
        super().__init__(scenario, load, share, client, prepare, keys)
        self.schedule = Schedule(load)
        self._chunks: Iterator[Chunk] = self.schedule.chunks(share)
        self._chunk: Chunk | None = None
        self._at = 0
        self._start = 0.0
        self._waiting: deque[tuple[int, float, float, bool]] = deque()  # number, intended, due, recorded

    def begin(self, start: float) -> None:
        self._start = start
        self.book.began = start + self.schedule.warmup
        self._turn()

    def wake(self, now: float) -> float | None:
        chunk = self._chunk
        while chunk is not None and not self._stopped:
            intended = self._start + chunk.times[self._at]
            if intended > now:
                break
            self._take(chunk.first + self._at * chunk.step, intended, now, chunk.recorded)
            self._at += 1
            if self._at == len(chunk.times):
                self._turn()
                chunk = self._chunk
        if self._waiting:
            self._flush(now)
        return self._start + chunk.times[self._at] if chunk is not None and not self._stopped else None

    def _turn(self) -> None:
        self._chunk = next(self._chunks, None)
        self._at = 0

    def _take(self, number: int, intended: float, now: float, recorded: bool) -> None:
        if recorded:
            book = self.book
            if not book.asked:
                book.first_intended = intended
            book.asked += 1
            book.last_intended, book.last_due = intended, now
        if not self._waiting and self._room():
            self._send(number, number, intended, now, now, recorded)
        elif self._load.on_limit == "drop" and self.out + len(self._waiting) >= self._limit:
            self.book.dropped += recorded
        else:
            self._waiting.append((number, intended, now, recorded))

    def ended(self, call: Call, now: float) -> float | None:
        self._count_ended(call)
        if self._waiting:
            self._flush(now)
        return None

    def _flush(self, now: float) -> None:
        while self._waiting and self._room():
            number, intended, due, recorded = self._waiting.popleft()
            self._send(number, number, intended, due, now, recorded)

    def planned(self, now: float) -> float:
        book = self.book
        if self._stopped:
            return max(0.0, min(book.last_due - book.began, self.schedule.duration))
        if self._chunk is not None:
            return max(0.0, min(now - book.began, self.schedule.duration))
        if self._load.requests is not None and book.asked > 1:  # they ended it before its time: as long as their gaps
            spaced = (book.last_intended - book.first_intended) * book.asked / (book.asked - 1)
            return min(spaced, self.schedule.duration)
        return self.schedule.duration

    def give_up(self, now: float) -> list[Call]:
        lost = []
        for number, intended, due, recorded in self._waiting:
            if recorded:
                self.book.sent += 1
                self.book.ended += 1
                lost.append(_never_sent(Call(self._scenario, intended, number, number), due, now))
        self._waiting.clear()
        return lost

    @property
    def schedule_over(self) -> bool:
        return self._chunk is None or self._stopped

    @property
    def waiting(self) -> int:
        return len(self._waiting)


class Closed(Executor):
    """Users (or, for "max", one for each connection) that each send, wait for the answer, think, and send again."""

    def __init__(self, scenario: int, load: Load, share: Share, client: Sender, prepare: Prepare, keys: int = 0):
        super().__init__(scenario, load, share, client, prepare, keys)
        self._think = load.think_time if load.executor == "users" else 0.0
        everybody = load.users if load.executor == "users" else (load.users or load.connections or 1)
        self.users = share.of(everybody)
        self._thinking: list[tuple[float, int]] = []  # (when it sends, user), a heap
        self._ready: deque[tuple[float, float, int]] = deque()  # (when it wanted to send, when we saw that, user)
        self._user_of: dict[int, int] = {}  # by the number of the call in flight
        self._started = 0
        busy = Share(share.index, min(share.count, everybody))  # those without a user send nothing
        self._warm = busy.of(load.warmup_requests)
        self._requests = math.inf if load.requests is None else busy.of(load.requests)
        self._warm_until = 0.0
        self._until = math.inf
        self._timed_out = False  # it was its duration that ended it
        self._last_ended = 0.0
        self._staged = load.staged_users if load.executor == "users" else ()
        self._opened: float | None = None

    def begin(self, start: float) -> None:
        self._warm_until = start + self._load.warmup
        if not self._warm:
            self._open_book(self._warm_until)
        self._stopped = not self.users
        for each in range(self.users):
            user = self._share.index + each * self._share.count
            # spread over the first thinking time: users that begin together would go on together
            self._thinking.append((start + self._think * each / self.users, user))
        heapq.heapify(self._thinking)

    def _open_book(self, now: float) -> None:
        self.book.began = self.book.first_intended = now
        self._opened = now if self._opened is None else self._opened
        if self._load.duration is not None:
            self._until = now + self._load.duration

    def wake(self, now: float) -> float | None:
        while self._thinking and self._thinking[0][0] <= now:
            wanted, user = heapq.heappop(self._thinking)
            self._ready.append((wanted, now, user))
        self._flush(now)
        if self._over(now):
            return None
        return min(self._thinking[0][0] if self._thinking else math.inf, self._until) if self._waits() else None

    def _waits(self) -> bool:
        return bool(self._thinking) or self._until < math.inf

    def _over(self, now: float) -> bool:
        if not self._stopped and (self.book.sent >= self._requests or now >= self._until):
            self._stopped = True
            self._timed_out = self.book.sent < self._requests
        return self._stopped

    def ended(self, call: Call, now: float) -> float | None:
        self._count_ended(call)
        if call.recorded:
            self._last_ended = now
        user = self._user_of.pop(call.seq)
        if self._think:
            heapq.heappush(self._thinking, (now + self._think, user))
        else:
            self._ready.append((now, now, user))
        self._flush(now)
        return self._thinking[0][0] if self._thinking and not self._stopped else None

    def _flush(self, now: float) -> None:
        while self._ready and not self._over(now) and self._room():
            wanted, due, user = self._ready.popleft()
            if self._staged and (joins := self._joins(user, now)) > now:
                if joins < math.inf:
                    heapq.heappush(self._thinking, (joins, user))
                continue
            recorded = self._started >= self._warm and now >= self._warm_until
            if recorded and not self.book.began:
                self._open_book(now)
            number = self._share.index + self._started * self._share.count
            self._started += 1
            self._user_of[number] = user
            if recorded:
                self.book.asked += 1
                self.book.last_intended, self.book.last_due = wanted, due
            self._send(number, user, wanted, due, now, recorded)
        self._over(now)

    def _joins(self, user: int, now: float) -> float:
        """When this user is at work next: now, later, or never."""
        at = self._opened if self._opened is not None else now
        for stage in self._staged:
            end = at + stage.duration
            if now < end:
                begin = max(at, now)
                slope = (stage.end - stage.start) / stage.duration
                if stage.start + slope * (begin - at) >= user + 1:
                    return begin
                if slope > 0 and stage.end >= user + 1:
                    return at + (user + 1 - stage.start) / slope
            at = end
        return max(at, now) if self._staged[-1].end >= user + 1 else math.inf

    def planned(self, now: float) -> float:
        book = self.book
        if not book.began:
            return 0.0
        if self._timed_out:
            return self._until - book.began
        # without a schedule only the answers tell how long so many requests took
        return max(0.0, (max(book.last_sent, self._last_ended) if self._stopped else now) - book.began)

    def give_up(self, now: float) -> list[Call]:
        self._ready.clear()
        return []

    @property
    def schedule_over(self) -> bool:
        return self._stopped

    @property
    def waiting(self) -> int:
        return 0 if self._stopped else len(self._ready)


def _never_sent(call: Call, due: float, now: float) -> Call:
    call.due, call.ended = due, now
    call.failure, call.message = NOT_SENT, "no connection was free for it until the end of the grace time"
    return call


def executor(scenario: int, load: Load, share: Share, client: Sender, prepare: Prepare, keys: int = 0) -> Open | Closed:
    """The one that the load asks for."""
    kind = Open if load.executor == "arrivals" else Closed
    return kind(scenario, load, share, client, prepare, keys)
