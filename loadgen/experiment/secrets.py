"""What of an experiment is nobody's business: left out of what is kept and shown, and of messages that repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

HIDDEN = "***"
_SHORTEST = 6
"""Characters: whatever is shorter is no secret, and would be found everywhere."""

_NAME = re.compile(r"auth|token|secret|passw|api[-_]?key|credential|cookie|signature|private|^key$|^sig$", re.I)
_OPEN = ("host", "accept", "accept-encoding", "content-type", "content-length", "user-agent")
_HOLDERS = ("headers", "params", "metadata", "reflect-metadata", "values", "versionValues", "environment")
_ADDRESSES = ("url", "payloadURL", "payloadTemplateURL", "protoURL", "dataURL", "binaryDataURL", "metadataURL")
_TELLING = ("notify", "slack")
"""Their address is itself a secret: whoever knows the path of a webhook may write to it."""

Tasks = Iterable[Mapping[str, Any]]


def redacted(tasks: Tasks) -> tuple[dict[str, Any], ...]:
    """The tasks as they may be kept and shown. Two that differ in their secrets only become the same."""
    found: set[str] = set()
    kept = [_task(one, found) for one in tasks]
    hidden = to_mask(found)
    return tuple({name: _masked(value, hidden) for name, value in one.items()} for one in kept)


def secrets(tasks: Tasks) -> tuple[str, ...]:
    """What `redacted` leaves out."""
    found: set[str] = set()
    for one in tasks:
        _task(one, found)
    return to_mask(found)


def to_mask(values: Iterable[str]) -> tuple[str, ...]:
    """Those that can be looked for, the longest first; `Bearer abc` also as `abc` alone."""
    whole = {each for value in values for each in (value, value.partition(" ")[2].strip())}
    return tuple(sorted((one for one in whole if len(one) >= _SHORTEST), key=len, reverse=True))


def masked(text: str, values: Iterable[str]) -> str:
    """`values` as to_mask gives them."""
    for one in values:
        text = text.replace(one, HIDDEN)
    return text


def bare(url: str) -> str:
    """An address without its password, and without the keys and tokens in its query."""
    return _address(url, set())


def _masked(value: Any, hidden: tuple[str, ...]) -> Any:
    """A script, or a body, may have it once more."""
    if isinstance(value, Mapping):
        return {name: _masked(each, hidden) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(each, hidden) for each in value]
    return masked(value, hidden) if isinstance(value, str) else value


def _task(task: Mapping[str, Any], found: set[str]) -> dict[str, Any]:
    kind = str(task.get("task", ""))
    return {name: _value(name, value, kind, "", found) if name == "with" else value for name, value in task.items()}


def _value(name: str, value: Any, kind: str, holder: str, found: set[str]) -> Any:
    if isinstance(value, Mapping):
        below = name if name in _HOLDERS else holder
        return {key: _value(str(key), each, kind, below, found) for key, each in value.items()}
    if isinstance(value, list | tuple):
        below = name if name in _HOLDERS else holder
        return [_value(name, each, kind, below, found) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and not holder and name in _ADDRESSES:
        return _address(value, found, closed=kind in _TELLING and name == "url")
    if not _is_secret(name, kind, holder):
        return value
    found.add(str(value))
    return HIDDEN


def _is_secret(name: str, kind: str, holder: str) -> bool:
    if not holder:
        return name == "token"
    if holder in ("headers", "params") and kind in (*_TELLING, "custommetrics"):
        return name.lower() not in _OPEN
    return _NAME.search(name) is not None


def _address(url: str, found: set[str], *, closed: bool = False) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    if parts.password:
        found |= {parts.password, unquote(parts.password)}
    asked = []
    for each in parts.query.split("&"):
        name, same, value = each.partition("=") if "=" in each else ("", "", each)
        if value and (closed or _NAME.search(unquote(name))):
            found |= {value, unquote(value), quote(unquote(value))}
            value = HIDDEN
        asked.append(f"{name}{same}{value}")
    path = parts.path
    if closed and len(path) > 1:
        found.add(path)
        path = f"/{HIDDEN}"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, path=path, query="&".join(asked)))
