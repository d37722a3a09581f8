"""A target -> the path and the header fields of its requests, in whichever version of HTTP."""

from __future__ import annotations

import base64
import re
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from loadgen.plan import Target

Pairs = list[tuple[str, str]]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS = ("content-length", "transfer-encoding", "connection")  # how a message is framed is not the target's to say


def misfits(target: Target) -> list[tuple[Literal["method", "headers"], str]]:
    """What of a target no request can carry: the field of Target, and what is wrong with it."""
    wrong: list[tuple[Literal["method", "headers"], str]] = []
    if not _TOKEN.fullmatch(target.method):
        wrong.append(("method", f"the method {target.method!r} is none"))
    for name, value in target.headers:
        if not _TOKEN.fullmatch(name):
            wrong.append(("headers", f"the header's name {name!r} is none"))
        elif name.lower() in _OURS:
            wrong.append(("headers", f"the header {name} is made from the body: leave it out"))
        elif "{{" not in value and any(each in value for each in "\r\n\0"):
            wrong.append(("headers", f"the header {name} holds a line break or a NUL"))
    return wrong


def fields_of(target: Target, defaults: Pairs) -> Pairs:
    """Those that are the same in each request: `defaults`, their names in lower case, where the target says nothing.

    Raises ValueError: what cannot be sent, all of it at once.
    """
    if wrong := misfits(target):
        raise ValueError(f"{target.url}: {'; '.join(what for _, what in wrong)}")
    fields = dict(defaults)
    own = []
    for name, value in target.headers:
        fields.pop(name.lower(), None)
        if "{{" not in value:  # the others come with each request
            own.append((name, value))
    return [*fields.items(), *own]


def default_fields(target: Target) -> Pairs:
    """What a request says about us and about who asks, if the target's headers do not."""
    found = [("user-agent", "headgate-load"), ("accept", "text/event-stream" if target.stream else "*/*")]
    parts = urlsplit(target.url)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        found.append(("authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
    return found


def host_of(target: Target) -> str:
    """With its port, if the URL has one."""
    host = urlsplit(target.url).netloc.rpartition("@")[2]
    return host.encode("ascii" if host.isascii() else "idna").decode()


def path_of(target: Target) -> str:
    """With its query. What may not stand there is escaped, what is escaped already stays."""
    parts = urlsplit(target.url)
    quoted = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{quoted}?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?[]')}" if parts.query else quoted
