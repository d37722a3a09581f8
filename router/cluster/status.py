"""What a ModelRollout's status shall say: everything known of the model goes in, the whole new status comes out.

    Accepted    the spec can be used as it is
    Ready       the primary can serve
    Programmed  every Envoy of the gateway, on every replica, has what this generation wants
    Degraded    something that should have traffic cannot get it

Equal knowledge gives an equal status, so that nothing is written when nothing has changed. It is bounded: whatever
users, Envoys and servers say, a status stays below 32 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.cluster.history import MAX_HISTORY_BYTES, JsonObject, Seen, cut, moved, size, told
from router.cluster.objects import mapping, mappings, part, text, whole
from router.engine import ModelStatus
from router.held import held
from router.hints import counted
from router.policy import wishes
from router.problem import Problem
from router.replica import Reports
from router.step import RolloutState
from router.why import percent

MAX_BYTES = 32 * 1024
MAX_MESSAGE = 1024
MAX_REASON = 256
MAX_PROBLEMS = 20
MAX_LAGGING = 5
MAX_DRAINING = 20

ACCEPTED, READY, PROGRAMMED, DEGRADED = "Accepted", "Ready", "Programmed", "Degraded"
PENDING, REJECTED, UNREACHABLE, NO_ENVOYS = "Pending", "Rejected", "ReplicaUnreachable", "NoEnvoys"
INVALID, DELETING, NOT_ACCEPTED = "Invalid", "Deleting", "NotAccepted"
PLUGINS = "PluginsNotAsWanted"

_NACK = "rejected"
"""How the reason begins why an Envoy lags that would not take its resources."""


@dataclass(frozen=True, slots=True)
class Known:
    """`rollout` is the object as the API server has it. `problems` are those told of the model apart from the engine's.

    `identity` names this replica among the `reports`. `drains` are lines of text about traffic that is being drained.
    """

    rollout: Mapping[str, Any]
    model: ModelStatus | None
    reports: Reports
    identity: str
    problems: tuple[Problem, ...] = ()
    state: RolloutState | None = None
    drains: tuple[str, ...] = ()

    @property
    def generation(self) -> int:
        return whole(self.rollout, "metadata", "generation") or 0

    @property
    def previous(self) -> Mapping[str, Any]:
        return mapping(self.rollout, "status")

    @property
    def deleting(self) -> bool:
        return bool(part(self.rollout, "metadata", "deletionTimestamp"))

    @property
    def current(self) -> bool:
        """Whether the engine has seen this very generation."""
        return self.model is not None and self.model.rollout.metadata.generation == self.generation

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        return tuple(dict.fromkeys((*(self.model.problems if self.model else ()), *self.problems)))

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Why the spec cannot be used as it is."""
        return tuple(one for one in self.all_problems if one.severity == "error" and one not in self.plugins)

    @property
    def plugins(self) -> tuple[Problem, ...]:
        """What the model is served in spite of: its plan was made with these problems of its plugins."""
        planned = self.model.planned.problems if self.model is not None and self.model.planned is not None else ()
        found = (one for one in planned if one.severity == "error" and one.field.startswith("spec.plugins["))
        return tuple(found) if self.current else ()


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a model has come among the Envoys of all replicas; `lagging` is (who, why), rejections first.

    `served` is False until this replica itself serves the model.
    """

    total: int
    current: int
    lagging: tuple[tuple[str, str], ...]
    unreachable: tuple[str, ...]
    served: bool

    @property
    def rejected(self) -> tuple[tuple[str, str], ...]:
        return tuple(one for one in self.lagging if one[1].startswith(_NACK))


def status_of(known: Known, now: float) -> JsonObject | None:
    """The new status; None when it is too early to say, as the engine has not looked at this generation yet."""
    if not known.current and not known.errors and not known.deleting:
        return None
    stamp = rfc3339(now)
    past = _past(known, stamp)
    for limit in (MAX_MESSAGE, 512, 256, 128, 64, 32):
        status = _status(known, stamp, limit)
        # Apart from the past, which grows: what is said now must not depend on how much was said before.
        if size(status) + size(past["seen"]) < MAX_BYTES - MAX_HISTORY_BYTES - 64:
            break
    if known.current and known.previous.get("observedGeneration") == known.generation:
        versions = mappings(known.previous, "versions"), status.get("versions", [])
        past["history"] = moved(past["history"], *versions, known.generation, stamp)
    status |= past
    return status


def spread(model: str, gateway: str, reports: Reports, identity: str) -> Spread:
    """Add up what the replicas say. Current is who applied the very resources that this replica serves."""
    ours = next((one.models.get(model) for one in reports.reports if one.identity == identity), None)
    nodes: set[str] = set()
    lagging: dict[str, str] = {}
    untold = 0
    for report in reports.reports:
        theirs = report.models.get(model)
        if theirs is None:
            if count := report.gateways.get(gateway, 0):
                untold += count
                lagging[f"replica {report.identity}"] = f"does not serve it yet, to {counted(count, 'Envoy')}"
            continue
        nodes |= theirs.nodes
        if ours is None or theirs.version != ours.version:
            lagging |= dict.fromkeys(theirs.nodes, f"replica {report.identity} has another version")
        else:
            lagging |= theirs.lagging
    behind = len(nodes & lagging.keys())
    order = sorted(lagging.items(), key=lambda one: (not one[1].startswith(_NACK), one[0]))
    unreachable = tuple(sorted(reports.unreachable))
    return Spread(len(nodes) + untold, len(nodes) - behind, tuple(order), unreachable, ours is not None)


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of a status; empty if it has none of this type."""
    return next((one for one in mappings(status, "conditions") if one.get("type") == kind), {})


def unsettled(status: Mapping[str, Any]) -> bool:
    """Whether Envoys or replicas are still to be heard from, so that asking again soon makes sense."""
    return condition(status, PROGRAMMED).get("reason") in (PENDING, REJECTED, UNREACHABLE)


def only_counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the two differ in nothing but numbers of Envoys and endpoints, and in wording."""
    return _without_counts(before) == _without_counts(after)


def only_waits(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether nothing is new but that Envoys, which had all of it, are waited for: they may be connecting again."""
    was, now = condition(before, PROGRAMMED), condition(after, PROGRAMMED)
    waits = now.get("reason") in (PENDING, UNREACHABLE, NO_ENVOYS) or _connected(after) < _connected(before)
    if was.get("status") != "True" or now.get("reason") == REJECTED or not waits:
        return False
    others = [
        {**status, "conditions": [one for one in mappings(status, "conditions") if one.get("type") != PROGRAMMED]}
        for status in (before, after)
    ]
    return only_counts(*others)


def _connected(status: Mapping[str, Any]) -> int:
    return sum(whole(one, "envoys") or 0 for one in mappings(status, "gateways"))


def merge_patch(before: Any, after: Mapping[str, Any]) -> JsonObject:
    """What makes `after` of `before` (RFC 7386): fields that are gone become null, lists are replaced."""
    before = before if isinstance(before, Mapping) else {}
    patch: JsonObject = {name: None for name in before if name not in after}
    for name, value in after.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            if inner := merge_patch(was, value):
                patch[name] = inner
        elif name not in before or was != value:
            patch[name] = value
    return patch


@dataclass(frozen=True, slots=True)
class Happening:
    """One change of state, for an Event."""

    reason: str
    message: str
    warning: bool = False


def happenings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Happening]:
    """What is worth an Event between two statuses."""
    for kind, well in ((ACCEPTED, "True"), (READY, "True"), (DEGRADED, "False"), (PROGRAMMED, "True")):
        was, now = condition(before, kind), condition(after, kind)
        same = was.get("status") == now.get("status") and was.get("reason") == now.get("reason")
        if same or not now:
            continue
        if now["status"] == well:
            # The first look at something that is well is no news, except that it is served now.
            if (was and was.get("status") != well) or kind == PROGRAMMED:
                yield Happening(kind if well == "True" else "Recovered", now["message"])
        elif now["reason"] not in (PENDING, DELETING, NOT_ACCEPTED):
            yield Happening(now["reason"], now["message"], warning=now["status"] != "Unknown")
    if before and text(before, "primary") and text(before, "primary") != text(after, "primary"):
        yield Happening("PrimaryChanged", f"primary {before['primary']} -> {after.get('primary') or 'none'}")
    if before and text(before, "traffic") and text(before, "traffic") != text(after, "traffic"):
        yield Happening("TrafficMoved", f"{before['traffic']} -> {after.get('traffic') or 'none'}")


def rfc3339(seconds: float) -> str:
    """To the second, as Kubernetes writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _status(known: Known, now: str, limit: int) -> JsonObject:
    """`limit` bounds the length of each text."""
    model, previous = known.model, known.previous
    status: JsonObject = {"observedGeneration": known.generation}
    gateway = model.rollout.spec.gateway if model else ""
    reach = spread(model.rollout.key, gateway, known.reports, known.identity) if model else None
    status["conditions"] = [
        _condition(known, now, *one, limit)
        for one in (_accepted(known), _ready(known), _programmed(known, reach), _degraded(known, reach))
    ]
    if model is not None and model.planned is not None:
        status["primary"] = next((one.name for one in model.versions if one.role == "primary"), "")
        status["traffic"] = cut(_traffic(model), min(limit, 256))
        status["versions"] = [*_versions(model, previous, min(limit, MAX_REASON))]
    if reach is not None:
        status["envoys"] = f"{reach.current}/{reach.total}"
        status["gateways"] = [_gateway(gateway, reach, min(limit, MAX_REASON))]
    if problems := known.all_problems:
        status["problems"] = [_problem(one, min(limit, 512)) for one in problems[:MAX_PROBLEMS]]
    if known.drains:
        status["draining"] = [cut(one, min(limit, MAX_REASON)) for one in known.drains[:MAX_DRAINING]]
    state = known.state.to_json() if known.state is not None else previous.get("state")
    if isinstance(state, Mapping) and state:
        status["state"] = dict(state)
    return status


def _past(known: Known, now: str) -> JsonObject:
    previous = known.previous
    annotated = _annotated(known)
    history, seen = told(previous.get("history"), Seen.from_json(previous.get("seen")), known.rollout, now, annotated)
    return {"history": history, "seen": seen.to_json()}


def _annotated(known: Known) -> str | None:
    """Weights that the versions' resources put in place of the spec's; None while this generation is too new."""
    if known.model is None or not known.current:
        return None
    spec = {text(one, "name"): one for one in mappings(known.rollout, "spec", "versions")}
    found = []
    for one in known.model.rollout.spec.versions:
        raw = spec.get(one.name, {})
        if one.weight is not None and whole(raw, "weight") != one.weight:
            found.append(f"{one.name}={one.weight}")
        elif one.mirror is not None and one.mirror.percent != (part(raw, "mirror", "percent") or 100):
            found.append(f"{one.name}={one.mirror.percent:g} % mirrored")
    return " ".join(found)[:MAX_REASON]


def _condition(known: Known, now: str, kind: str, state: str, reason: str, message: str, limit: int) -> JsonObject:
    before = condition(known.previous, kind)
    same = before.get("status") == state and isinstance(before.get("lastTransitionTime"), str)
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": cut(message, limit),
        "lastTransitionTime": before["lastTransitionTime"] if same else now,
        "observedGeneration": known.generation,
    }


Verdict = tuple[str, str, str, str]
"""Type, status, reason, message of a condition."""


def _accepted(known: Known) -> Verdict:
    if known.errors:
        stays = "" if known.current or known.model is None else "; the last good spec stays in force"
        return ACCEPTED, "False", INVALID, "; ".join(_words(one) for one in known.errors) + stays
    cautions = [_words(one) for one in known.all_problems]
    said = f"the spec is in force, but see: {'; '.join(cautions)}" if cautions else "the spec is in force"
    return ACCEPTED, "True", ACCEPTED, said


def _ready(known: Known) -> Verdict:
    model = known.model
    if known.deleting and model is None:
        return READY, "False", DELETING, "the rollout is being deleted"
    if model is None or model.planned is None:
        return READY, "False", NOT_ACCEPTED, "there is nothing to serve until the spec is accepted"
    unready = [one for one in model.versions if not one.ready]
    primary = next((one for one in model.versions if one.role == "primary"), None)
    why = "; ".join(model.why)
    if len(unready) == len(model.versions):
        return READY, "False", "NoVersionReady", why
    if primary is None or not primary.ready:
        return READY, "False", "PrimaryNotReady", why
    return READY, "True", "PrimaryReady", why


def _programmed(known: Known, reach: Spread | None) -> Verdict:
    model = known.model
    if known.deleting and not known.current:
        return PROGRAMMED, "False", DELETING, "its routes are withdrawn"
    if known.errors or not known.current or model is None:
        return PROGRAMMED, "False", NOT_ACCEPTED, "the spec is not accepted; see the condition Accepted"
    if model.plan is None or not model.plan.hosts:
        return PROGRAMMED, "False", "NotServed", "the rollout holds none of its hosts"
    gateway = model.rollout.spec.gateway
    if reach is None or not reach.served:
        return PROGRAMMED, "Unknown", PENDING, "this replica does not serve it yet"
    have = f"{reach.current} of {counted(reach.total, 'Envoy')}"
    if reach.rejected:
        return PROGRAMMED, "False", REJECTED, f"{have} on gateway {gateway!r} have it; {_who(reach.rejected)}"
    if reach.lagging:
        return PROGRAMMED, "False", PENDING, f"{have} on gateway {gateway!r} have it; {_who(reach.lagging)}"
    if reach.unreachable:
        silent = ", ".join(reach.unreachable[:MAX_LAGGING])
        return PROGRAMMED, "Unknown", UNREACHABLE, f"{have} have it; no answer for its Envoys from replica {silent}"
    if reach.total == 0:
        return PROGRAMMED, "False", NO_ENVOYS, f"no Envoy of gateway {gateway!r} is connected"
    everyone = "the one Envoy" if reach.total == 1 else f"each of the {reach.total} Envoys"
    return PROGRAMMED, "True", PROGRAMMED, f"{everyone} of gateway {gateway!r} has it"


def _degraded(known: Known, reach: Spread | None) -> Verdict:
    said = []
    reason = ""
    if reach is not None and reach.rejected:
        reason = REJECTED
        said.append(_who(reach.rejected))
    model = known.model
    if model is not None and (missing := [*_missing(model, known.state)]):
        reason = reason or "VersionNotReady"
        said += missing
    if known.plugins:
        reason = reason or PLUGINS
        said += [_words(one) for one in known.plugins]
    if said:
        return DEGRADED, "True", reason, "; ".join(said)
    return DEGRADED, "False", "AsWanted", "every version that should have traffic can have it"


def _missing(model: ModelStatus, state: RolloutState | None) -> Iterator[str]:
    """Versions that should have traffic and cannot serve. A candidate that is not deployed, or going, is no trouble."""
    lost = [one for one in model.versions if not one.ready and not (one.gone and one.role == "candidate")]
    reasons = {one.name: one.reason for one in lost}
    for wish in wishes(held(model.rollout, state.held) if state is not None and state.held else model.rollout):
        if wish.name in reasons and (wish.weight > 0 or wish.match or wish.mirror):
            yield f"{wish.name} is not ready ({reasons[wish.name]})"


def _traffic(model: ModelStatus) -> str:
    if model.plan is None or not model.plan.hosts:
        return "none"
    shares = [f"{one.name} {percent(one.weight_bp)}" for one in model.versions if one.weight_bp]
    copies = [f"{one.name} copies {one.mirror_percent:g} %" for one in model.versions if one.mirror_percent]
    return ", ".join((*shares, *copies)) or "none"


def _versions(model: ModelStatus, previous: Mapping[str, Any], limit: int) -> Iterator[JsonObject]:
    was = {text(one, "name"): one for one in mappings(previous, "versions")}
    backends = {one.name: one for one in model.plan.backends} if model.plan is not None else {}
    for one in model.versions:
        before = was.get(one.name, {})
        backend = backends.get(f"{model.rollout.key}/{one.name}")
        # A replica that has just started knows no better than the one before it since when.
        since = text(before, "since") if before.get("ready") == one.ready else ""
        yield {
            "name": one.name,
            "role": one.role,
            "ready": one.ready,
            "reason": cut(one.reason, limit),
            "weight": _number(one.weight_bp / 100),
            **({"mirrorPercent": _number(one.mirror_percent)} if one.mirror_percent else {}),
            "match": one.match,
            **({"endpoints": len(backend.endpoints)} if backend is not None and not backend.dns else {}),
            "since": since or rfc3339(model.since.get(one.name, model.updated_at)),
        }


def _gateway(name: str, reach: Spread, limit: int) -> JsonObject:
    return {
        "name": name,
        "envoys": reach.total,
        "programmed": reach.current,
        "lagging": [{"node": cut(who, 128), "why": cut(why, limit)} for who, why in reach.lagging[:MAX_LAGGING]],
        **({"unreachable": [cut(one, 128) for one in reach.unreachable[:MAX_LAGGING]]} if reach.unreachable else {}),
    }


def _problem(problem: Problem, limit: int) -> JsonObject:
    told = {"where": problem.where, "field": problem.field, "what": problem.what, "hint": problem.hint}
    return {name: cut(value, limit) for name, value in told.items() if value} | {"severity": problem.severity}


def _words(problem: Problem) -> str:
    at = f"{problem.field}: " if problem.field else ""
    return f"{at}{problem.what}" + (f" ({problem.hint})" if problem.hint else "")


def _who(lagging: tuple[tuple[str, str], ...]) -> str:
    named = "; ".join(f"{who}: {why}" for who, why in lagging[:MAX_LAGGING])
    return named + (f"; and {len(lagging) - MAX_LAGGING} more" if len(lagging) > MAX_LAGGING else "")


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _without_counts(status: Mapping[str, Any]) -> JsonObject:
    left = {name: value for name, value in status.items() if name not in ("envoys", "gateways", "draining")}
    for name, counts in (("conditions", ("message",)), ("versions", ("endpoints", "reason"))):
        left[name] = [{k: v for k, v in one.items() if k not in counts} for one in mappings(status, name)]
    return left
