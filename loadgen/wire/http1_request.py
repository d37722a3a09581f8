"""A target and a body -> the bytes of an HTTP/1.1 request."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote, unquote, urlsplit

from loadgen.plan import Target
from loadgen.wire.call import Fields

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS = ("content-length", "transfer-encoding", "connection")  # how a message is framed is not the target's to say
_MAY_HAVE_BODY = ("POST", "PUT", "PATCH")


class Requests:
    """Renders the requests of one target. What stays the same is rendered once, the last body's request included."""

    def __init__(self, target: Target, close: bool) -> None:
        """`close`: each connection serves one request. Raises ValueError: what cannot be sent, all of it at once."""
        parts = urlsplit(target.url)
        fields = {name.lower(): value for name, value in _defaults(target, close)}
        wrong = [] if _TOKEN.fullmatch(target.method) else [f"the method {target.method!r} is none"]
        own = []
        for name, value in target.headers:
            if not _TOKEN.fullmatch(name):
                wrong.append(f"the header's name {name!r} is none")
            elif name.lower() in _OURS:
                wrong.append(f"the header {name} is made from the body: leave it out")
            elif "{{" in value:
                fields.pop(name.lower(), None)  # comes with each request
            elif "\r" in value or "\n" in value or "\0" in value:
                wrong.append(f"the header {name} holds a line break or a NUL")
            else:
                fields.pop(name.lower(), None)
                own.append((name, value))
        if wrong:
            raise ValueError(f"{target.url}: {'; '.join(wrong)}")
        lines = [f"{target.method} {_path(parts.path, parts.query)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*fields.items(), *own)]
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


def _defaults(target: Target, close: bool) -> list[tuple[str, str]]:
    parts = urlsplit(target.url)
    host = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii").decode()
    found = [
        ("host", host),
        ("user-agent", "headgate-load"),
        ("accept", "text/event-stream" if target.stream else "*/*"),
    ]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        found.append(("authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
    if close:
        found.append(("connection", "close"))
    return found


def _path(path: str, query: str) -> str:
    """Escape what may not stand there; what is escaped already stays."""
    quoted = quote(path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{quoted}?{quote(query, safe='/%:@!$&()*+,;=~-._?[]')}" if query else quoted
