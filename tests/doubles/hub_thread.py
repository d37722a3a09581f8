"""Run what needs gevent's loop in a thread of its own, with a hub of its own: nothing is patched, no test notices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from loadgen.plan import Scenario
from loadgen.wire.call import Call, Client, Fields

T = TypeVar("T")


def on_hub(act: Callable[[], T], limit: float = 60.0) -> T:
    """What `act` returns or raises; it may wait as greenlets do. After `limit` seconds it is given up."""
    import gevent

    answer: list[T] = []
    trouble: list[BaseException] = []

    def run() -> None:
        hub = gevent.get_hub()
        hub.print_exception = lambda context, kind, value, trace: trouble.append(value)  # of callbacks: our bugs
        try:
            with gevent.Timeout(limit, TimeoutError(f"not done within {limit:g} s")):
                answer.append(act())
        except BaseException as error:
            trouble.append(error)
        finally:
            hub.destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(limit + 30)
    if trouble:
        raise trouble[0]
    return answer[0]


class Exchange:
    """A client and what it has done so far; make it on a hub. `then` runs after each call, in the hub."""

    def __init__(self, scenario: Scenario, then: Callable[[Call], None] | None = None) -> None:
        from gevent.event import Event

        from loadgen.wire.clients import open_client

        self.done: list[Call] = []
        self.sent = 0
        self._idle = Event()
        self._then = then
        self.client: Client = open_client(scenario, self._ended)

    def send(self, body: bytes = b"", headers: Fields = ()) -> Call:
        call = Call(seq=self.sent)
        self.sent += 1
        self._idle.clear()
        self.client.send(call, body, headers)
        return call

    def wait(self) -> list[Call]:
        """Until every call that was sent is done: once each, in the order in which they ended."""
        while len(self.done) < self.sent:
            self._idle.wait()
            self._idle.clear()
        assert len({id(call) for call in self.done}) == len(self.done) == self.sent
        return self.done

    def _ended(self, call: Call) -> None:
        self.done.append(call)
        if self._then is not None:
            self._then(call)
        self._idle.set()


def exchange(scenario: Scenario, bodies: Sequence[bytes] = (b"",), one_by_one: bool = True) -> list[Call]:
    """Send `bodies` over one client, each after the answer to the last one or all at once; the calls by number."""

    def act() -> list[Call]:
        mine = Exchange(scenario)
        for body in bodies:
            mine.send(body)
            if one_by_one:
                mine.wait()
        mine.wait()
        mine.client.close()
        return sorted(mine.done, key=lambda call: call.seq)

    return on_hub(act)
