"""One answer of Envoy's /stats in, a `Reading` out: counters and histograms by whose requests they count.

Envoy joins the labels of a request into one tag (headgate's control plane asks for it), whose parts are

    requests, answered, flagged: code|grpc-status|flags|route|cluster|app-version
    the others:                                       route|cluster|app-version

The route is `primary@model@name` (see `sidecar.route_name`). Where there was an answer the cluster is left out.
`requests` counts what was not answered, and copies; what was is in `answered`, times to the first byte, or if it ended
otherwise than well in `flagged`, whether or not it has such a time.

Mirrored copies never pass a listener: their route is `~copy`, and what is known of them is the cluster that gets them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

from sidecar import route_name
from sidecar.cluster_name import is_shared

PATH = "/stats?format=json&histogram_buckets=cumulative&filter=" + quote(r"^headgate\.|^server\.uptime$")
"""Where all that is found, and little else."""

UPTIME = "server.uptime"
_OURS = "headgate."
_TAG = ".by."
_COPY = "~copy"
_SHADOW = re.compile(r"(.*)~shadow(-grpc)?", re.DOTALL)
_FLAGS = re.compile(r"[A-Z0-9]+(,[A-Z0-9]+)*")
_NOTHING = "-"
"""What Envoy writes where there is nothing: no name of a version begins so."""
_BY_OUTCOME = ("requests", "answered", "flagged")
_PARTS_OF_A_REQUEST = 6
_MOST_LABEL = 200
_GRPC_STATUSES = 16


class Key(NamedTuple):
    """Whose requests. All parts are empty, and `route` is "unmatched", for requests that no route took."""

    namespace: str
    model: str
    version: str
    route: str
    """`primary`, `candidate`, `header`, `mirror` or `unmatched`."""


class Outcome(NamedTuple):
    """What the client got: `code` 0 if it left before an answer; `grpc` is the grpc-status, empty without gRPC."""

    code: str
    grpc: str
    flags: str = ""
    """Envoy's response flags, with commas: how it ended when it did not end well."""

    @property
    def failed(self) -> bool:
        """The server's fault: 5xx, the gRPC statuses that mean the same, an answer that broke off after a good start.

        Clients' own mistakes are not, nor is their leaving.
        """
        return self.code.startswith("5") or self.grpc in _GRPC_FAILURES or not _BROKEN.isdisjoint(self.flags.split(","))


# The upstream's connection ended, reset, broke the protocol or timed out; ours timed out or was reset.
_BROKEN = frozenset({"UC", "UR", "UPE", "UT", "LR", "SI", "UMSDR"})
# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
_GRPC_FAILURES = frozenset({"2", "4", "12", "13", "14", "15"})
UNMATCHED = Key("", "", "", "unmatched")


@dataclass(slots=True)
class Reading:
    """Cumulative figures as Envoy has them now, under Envoy's own names: one name is one unbroken line of counting."""

    counters: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Cumulative counts, one for each bound."""
    bounds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Upper bounds of a histogram's buckets, in seconds."""


class Malformed(ValueError):
    """What Envoy answered is not what /stats answers."""


def read(body: bytes) -> Reading:
    """Parse one answer."""
    try:
        entries = json.loads(body)["stats"]
        reading = Reading()
        for entry in entries:
            if "value" in entry:
                reading.counters[_name(entry)] = int(entry["value"])
            else:
                for histogram in entry["histograms"]:
                    _histogram(reading, histogram)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Malformed(f"the answer is not one of /stats: {error!r}") from None
    return reading


def _histogram(reading: Reading, histogram: Mapping[str, Any]) -> None:
    name, buckets = _name(histogram), histogram["buckets"]
    reading.histograms[name] = tuple([int(bucket["cumulative"]) for bucket in buckets])
    reading.bounds[name] = _in_seconds(tuple([bucket["upper_bound"] for bucket in buckets]))


def _name(entry: Mapping[str, Any]) -> str:
    name = entry["name"]
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name")
    return name


@lru_cache(maxsize=64)
def _in_seconds(bounds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(bound) / 1e6 for bound in bounds)


class Stat(NamedTuple):
    """What one of Envoy's names says."""

    kind: str
    """`requests`, `answered`, `flagged`, `request_bytes`, `response_bytes`, `duration_us`, `first_byte_us`, `duration`
    or `first_byte`.
    """
    key: Key
    outcome: Outcome | None = None


@lru_cache(maxsize=100_000)
def stat(name: str) -> Stat | None:
    """Take one of Envoy's names apart; None if it is nothing of ours."""
    if name.startswith(_OURS):
        kind, tag, rest = name[len(_OURS) :].partition(_TAG)
        if not tag:
            return None
        outcome = None
        if kind in _BY_OUTCOME:
            parts = rest.split("|", _PARTS_OF_A_REQUEST - 1)
            if len(parts) != _PARTS_OF_A_REQUEST:
                return None
            outcome, parts = Outcome(_code(parts[0]), _grpc(parts[1]), _flags(parts[2])), parts[3:]
        else:
            parts = rest.split("|", _PARTS_OF_A_REQUEST - 3 - 1)
            if len(parts) != _PARTS_OF_A_REQUEST - 3:
                return None
        key = _key(*parts)
        return None if key is None else Stat(kind, key, outcome)
    return None


def _key(route: str, cluster: str, told: str) -> Key | None:
    """The cluster is there even if the client left before the answer, the answer's header even without a cluster."""
    if route == _COPY:
        return _mirror(cluster)
    primary, model, name = route_name.read(route)
    if not model:
        return UNMATCHED
    owner, _, version = cluster.rpartition("/")
    version = version if owner == model else told.removeprefix(_NOTHING)
    namespace, _, short = model.rpartition("/")
    by_default = "primary" if version == primary or not primary else "candidate"
    kind = "header" if "/match-" in name else by_default
    return Key(_short(namespace), _short(short), _short(version), kind)


def _mirror(cluster: str) -> Key | None:
    """A cluster that several models share says no name of a model. Only what went to a copies' cluster was a copy."""
    found = _SHADOW.fullmatch(cluster)
    if found is None:
        return None
    parts = found[1].split("/")
    if len(parts) != 3 or is_shared(cluster):
        return Key("", "", "", "mirror")
    namespace, model, version = map(_short, parts)
    return Key(namespace, model, version, "mirror")


def outcome(code: str, grpc: str = "", flags: str = "") -> Outcome:
    """What somebody else has seen, in words that Envoy's figures have, and no more of them than those."""
    return Outcome(_code(code), _grpc(grpc), _flags(flags))


def _code(text: str) -> str:
    """Codes that nobody has defined are told by their class, so that no server can make up ever more of them."""
    if text in _CODES or text == "0":
        return text
    return f"{text[0]}xx" if len(text) == 3 and text[0] in "12345" and text.isdecimal() else "other"


def _grpc(text: str) -> str:
    if not text or (text.isdecimal() and len(text) < 3 and int(text) <= _GRPC_STATUSES):
        return text
    return "other"


def _flags(text: str) -> str:
    if text in ("", "-"):
        return ""
    return text if len(text) <= 40 and _FLAGS.fullmatch(text) else "other"


def _short(text: str) -> str:
    return text[:_MOST_LABEL]


def _known() -> Iterable[str]:
    from http import HTTPStatus

    return (str(status.value) for status in HTTPStatus)


_CODES = frozenset({*_known(), "499"})
