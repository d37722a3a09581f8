"""What each request of a target carries: the body as it goes to the client, and those headers that vary.

Which row, body or random number a request gets follows from its number and the seed, so that processes which share
the numbers out send between them what one would have sent. What does not vary is made before the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loadgen.payload.messages import Messages
from loadgen.payload.templates import Chances, Moment, Template, Unusable
from loadgen.plan import Target

Fields = tuple[tuple[bytes, bytes], ...]

_MOST_MADE: Final = 10_000  # bodies that are made before the load, one for each row
_NOTHING: Final[Mapping[str, str]] = {}


class Requests:
    """`next` makes a request; where nothing varies, `fixed` is what it would return each time.

    The constructor raises ValueError, with a text for the user, for templates and messages that cannot be; `next` does
    so where only some of the requests cannot be made. In gRPC a body is one message or several, framed.
    """

    def __init__(self, target: Target, seed: int = 0) -> None:
        payload = target.payload
        self._seed, self._users = seed, target.users
        self._rows, self._random = payload.rows, payload.order == "random"
        self._messages = Messages(target.grpc.descriptors, target.grpc.method) if target.grpc else None
        self._grpc = target.grpc
        columns = tuple(self._rows[0]) if self._rows else ()
        self._headers = [
            (name.lower().encode("latin-1"), name, _template(value, columns, f"header {name}"))
            for name, value in target.headers
            if "{{" in value
        ]
        self._bodies: tuple[bytes, ...] = ()
        self._template = None
        if payload.template is None:
            self._bodies = tuple(self._body(body) for body in payload.bodies) or (self._body(b""),)
        else:
            self._template = _template(payload.template, columns, "payload")
            if self._template.names <= set(columns) and len(self._rows) <= _MOST_MADE:
                self._bodies = self._made(self._template)
                self._template = None
        self.fixed: tuple[bytes, Fields] | None = None
        if self._template is None and len(self._bodies) == 1 and not self._headers:
            self.fixed = (self._bodies[0], ())
        else:
            self.next(0, 0)  # what is wrong with all of them is better known now

    def next(self, seq: int, user: int) -> tuple[bytes, Fields]:
        """The request number `seq`, from 0, which user number `user` sends: its body, and its headers that vary."""
        if self.fixed is not None:
            return self.fixed
        template = self._template
        if template is None and not self._headers:
            return self._bodies[self._turn(seq, len(self._bodies))], ()
        name = f"user-{user % self._users}" if self._users else f"user-{seq}"
        row = self._rows[self._turn(seq, len(self._rows))] if self._rows else _NOTHING
        moment = Moment(seq, name, self._seed, row)
        if template is None:
            body = self._bodies[self._turn(seq, len(self._bodies))]
        else:
            body = self._body(template.render(moment).encode())
        return body, tuple([(key, _value(name, each, moment)) for key, name, each in self._headers])

    def _turn(self, seq: int, count: int) -> int:
        return Chances(self._seed, ~seq).whole() % count if self._random else seq % count

    def _made(self, template: Template) -> tuple[bytes, ...]:
        made = []
        for at, row in enumerate(self._rows or (_NOTHING,), 1):
            try:
                made.append(self._body(template.render(row).encode()))
            except ValueError as error:
                raise ValueError(f"row {at} of the feed: {error}" if self._rows else str(error)) from None
        return tuple(made)

    def _body(self, payload: bytes) -> bytes:
        if self._messages is None or self._grpc is None:
            return payload
        stream = self._grpc.kind in ("client-stream", "bidi-stream")
        return self._messages.frames(payload, binary=self._grpc.binary, stream=stream, count=self._grpc.stream_count)


def _template(text: str, columns: tuple[str, ...], what: str) -> Template:
    try:
        return Template(text, columns)
    except Unusable as error:
        raise ValueError(f"{what}: {error}") from None


def _value(name: str, template: Template, moment: Moment) -> bytes:
    try:
        value = template.render(moment)
    except Unusable as error:
        raise ValueError(f"header {name}: {error}") from None
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"header {name}: a value holds no line breaks, and this one does: {value!r}")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()
