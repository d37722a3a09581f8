"""A target and a body -> the bytes of an HTTP/1.1 request."""

from __future__ import annotations

import re

from loadgen.plan import Target
from loadgen.target_fields import default_fields, fields_of, host_of, path_of
from loadgen.wire.call import Fields

_MAY_HAVE_BODY = ("POST", "PUT", "PATCH")


class Requests:
    """Renders the requests of one target. What stays the same is rendered once, the last body's request included."""

    def __init__(self, target: Target, close: bool) -> None:
        """`close`: each connection serves one request. Raises ValueError: what cannot be sent, all of it at once."""
        defaults = [("host", host_of(target)), *default_fields(target)]
        if close:
            defaults.append(("connection", "close"))
        lines = [f"{target.method} {path_of(target)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields_of(target, defaults)]
        self._head = "".join(f"{line}\r\n" for line in lines).encode()
        self._sends_length = target.method in _MAY_HAVE_BODY
        self._last_body: bytes | None = None
        self._last = b""

    def render(self, body: bytes, fields: Fields = ()) -> bytes:
        """Raises ValueError if a field's value cannot be sent."""
        if not fields and body is self._last_body:
            return self._last
        length = b"content-length: %d\r\n\r\n" % len(body) if body or self._sends_length else b"\r\n"
        if not fields:
            self._last_body = body
            self._last = self._head + length + body
            return self._last
        extra = b"".join(b"%b: %b\r\n" % field for field in fields)
        if extra.count(b"\n") != len(fields) or extra.count(b"\r") != len(fields) or b"\0" in extra:
            broken = next(name for name, value in fields if re.search(rb"[\r\n\0]", value))
            raise ValueError(f"the value of the header {broken.decode()} holds a line break or a NUL")
        return b"%b%b%b%b" % (self._head, extra, length, body)
