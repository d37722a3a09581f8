"""A target -> the path and the header fields of its requests, in whichever version of HTTP."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote, unquote, urlsplit

from loadgen.plan import Target

Pairs = list[tuple[str, str]]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS = ("content-length", "transfer-encoding", "connection")  # how a message is framed is not the target's to say


def fields_of(target: Target, defaults: Pairs) -> Pairs:
    """Those that are the same in each request: `defaults`, their names in lower case, where the target says nothing.

    Raises ValueError: what cannot be sent, all of it at once.
    """
    fields = dict(defaults)
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
