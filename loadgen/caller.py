"""Our clients inside a locust User, for scenarios that people write themselves:

    class Shopper(Caller):
        target = Target("http://shop:8080/cart", method="POST")

        @task
        def look(self):
            answer = self.call(b'{"item": 7}')
            if answer.failure is None:
                ...

A call costs about a fifth of what FastHttpUser's does. It is told to locust's `request` event like any other, with
the time since it was sent: users wait for their answers, so there is no intended start to count from.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gevent
from gevent import getcurrent
from locust import User

from loadgen.plan import Load, Scenario, Target
from loadgen.wire.call import Call, Client, Fields
from loadgen.wire.clients import open_client


class CallFailed(Exception):
    """What locust's `request` event gets as the exception of a call that failed; the text is kind and message."""


class Caller(User):
    """`target` is a class attribute; all users of a class share `connections` connections (0: no limit)."""

    abstract = True
    target: ClassVar[Target]
    connections: ClassVar[int] = 0
    _client: ClassVar[Client | None] = None

    def call(self, body: bytes = b"", headers: Fields = (), name: str | None = None) -> Call:
        """Send one request and wait for its end. `headers`: on top of the target's."""
        client = self._shared()
        call = Call()
        waiting[call] = getcurrent()
        client.send(call, body, headers)
        gevent.get_hub().switch()
        failure = call.failure
        self.environment.events.request.fire(
            request_type=self.target.method,
            name=name or self.target.url,
            response_time=(call.ended - call.sent) * 1000,
            response_length=call.received,
            exception=None if failure is None else CallFailed(f"{failure}: {call.message}"),
            context={},
        )
        return call

    @classmethod
    def _shared(cls) -> Client:
        client = cls.__dict__.get("_client")
        if client is None:
            load = Load("users", users=1, duration=1, connections=cls.connections)
            client = cls._client = open_client(Scenario(cls.__name__, cls.target, load), _ended)
        return client


waiting: dict[Call, Any] = {}  # who waits for it


def _ended(call: Call) -> None:
    waiting.pop(call).switch()
