"""One entry of Envoy's in, what it says of a request out.

An entry is a map with one key and one string (headgate's control plane asks for it). The key is the layout's number and
the names of the labels; the string has, between line ends, which no header can hold,

    outcome and version (see sidecar.metrics.stats)  client  metadata  `NUMBERS` and the method  path  id  agent  labels

Entries come by the ten thousand: only what is counted is looked at then, the rest when somebody wants to see it.
Whatever is in a label, which may be a plugin's, it cannot be taken for another part.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from sidecar.metrics.stats import Key, Outcome, stat

LAYOUT = "2"
BETWEEN, WITHIN, ALONG = "\n", "\r", "|"
NOTHING = "-"
NUMBERS = ("time", "duration_us", "first_byte_us", "request_bytes", "response_bytes")
AFTER_COUNTED = 4
"""Parts of what follows the metadata, before the labels: numbers and method, path, id, user agent."""
MOST_LABELS = 8
_LONGEST = 2_000
_ID = re.compile(r"[\w.:/+=@-]{1,64}", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Malformed(ValueError):
    """What came is not what headgate's control plane has Envoy send."""


@lru_cache(maxsize=64)
def names(layout: str) -> tuple[str, ...]:
    """The names of the labels, of an entry's key."""
    number, *found = layout.split(" ")
    if number != LAYOUT:
        raise Malformed(f"layout {number[:20]!r} is not {LAYOUT!r}: sidecar and control plane differ in version")
    if len(found) > MOST_LABELS or len(set(found)) != len(found) or not all(map(_NAME.fullmatch, found)):
        raise Malformed("labels have bad names")
    return tuple(found)


@lru_cache(maxsize=4_096)
def whose(by: str) -> tuple[Key, Outcome]:
    """The version and the outcome, in the words of Envoy's counters: those leave out what here is a dash."""
    if len(by) > _LONGEST:
        raise Malformed("an entry does not say whose request it was")
    parts = ("" if part == NOTHING else part for part in by.split("|"))
    found = stat.__wrapped__(f"headgate.requests.by.{'|'.join(parts)}")
    if found is None or found.outcome is None:
        raise Malformed("an entry does not say whose request it was")
    return found.key, found.outcome


def anonymous(client: str) -> int:
    """A number that tells clients apart while this process lives, and from which nobody gets back to the client."""
    return hash(client) & 0xFFFF_FFFF_FFFF_FFFF


def labels(known: tuple[str, ...], said: str) -> dict[str, str]:
    """Values by name; a request without one has an empty one."""
    values = said.split(WITHIN, len(known) - 1) if known else []
    if len(values) != len(known):
        raise Malformed("an entry has more or fewer labels than it names")
    return {name: "" if value == NOTHING else value for name, value in zip(known, values, strict=True)}


def metadata(said: str) -> dict[str, Any]:
    """What plugins have said of the request; Malformed if it is cut off or no object."""
    if said == NOTHING:
        return {}
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Malformed("metadata are no object, or longer than 2,000 bytes")
    return found


def document(layout: str, text: str) -> dict[str, Any]:
    """All of an entry, for people and programs."""
    known = names(layout)
    try:
        by, client, extra, numbers, path, request_id, agent, said = text.split(BETWEEN, 3 + AFTER_COUNTED)
        *numbers_of_it, method = numbers.split(ALONG, len(NUMBERS))
        told = dict(zip(NUMBERS, numbers_of_it, strict=True))
    except ValueError:
        raise Malformed("an entry has parts too few") from None
    key, outcome = whose(by)
    try:
        figures = metadata(extra)
    except Malformed:
        figures = {}
    return {
        "time": _number(told["time"]),
        "namespace": key.namespace,
        "model": key.model,
        "version": key.version,
        "route": key.route,
        "code": outcome.code,
        "grpc_status": outcome.grpc,
        "flags": outcome.flags,
        "error": outcome.failed,
        "method": _text(method),
        "path": _text(path),
        "id": _text(request_id),
        "user_agent": _text(agent),
        "client": None if client in ("", NOTHING) else f"{anonymous(client):016x}",
        "duration_seconds": _seconds(told["duration_us"]),
        "time_to_first_byte_seconds": _seconds(told["first_byte_us"]),
        "request_bytes": _number(told["request_bytes"]),
        "response_bytes": _number(told["response_bytes"]),
        "labels": labels(known, said),
        "metadata": figures,
    }


class Times(NamedTuple):
    """When it began, in seconds since 1970, and how long it took, in seconds."""

    request_id: str
    at: float
    duration: float | None
    first_byte: float | None


def times(text: str) -> Times | None:
    """An entry's id and times; None if it lacks an id that can be told anywhere, or cannot be read."""
    parts = text.split(BETWEEN, 3 + AFTER_COUNTED)
    numbers = parts[3].split(ALONG, 3) if len(parts) > 3 + AFTER_COUNTED - 1 else []
    at = _number(numbers[0]) if len(numbers) > 3 else None
    if at is None or parts[5] == NOTHING or not _ID.fullmatch(parts[5]):
        return None
    return Times(parts[5], float(at), _seconds(numbers[1]), _seconds(numbers[2]))


def _text(value: str) -> str | None:
    return None if value == NOTHING else value


def _number(value: str) -> float | int | None:
    """Digits only: a peer that is no Envoy may write nan."""
    whole, _, rest = value.partition(".")
    if len(value) > 20 or not whole.isdecimal() or (rest and not rest.isdecimal()):
        return None
    return float(value) if rest else int(whole)


def _seconds(value: str) -> float | None:
    number = _number(value)
    return None if number is None else number / 1e6
