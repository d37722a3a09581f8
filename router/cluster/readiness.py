"""Whether a Kubernetes object, or a version that consists of several, can serve; and why not, in plain words.

The rules are Iter8's: an object without conditions to wait for is ready when it exists; a condition counts by its type
in any case of letters, its status "True" in any case, and an observedGeneration that has caught up; an object that is
being deleted is never ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.cluster.objects import Object, mapping, mappings, part, text, whole
from router.cluster.resource import Reference, ResourceType, Rule

Find = Callable[[Reference], Object | None]
"""The object behind a reference, as the watch last saw it."""


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    reason: str


def version_readiness(
    resources: Sequence[Reference],
    find: Find,
    types: Mapping[str, ResourceType],
    unseen: Callable[[Reference], bool] = lambda reference: False,
) -> Readiness:
    """All of a version's resources must be ready; the first one that is not gives the reason.

    A version without resources is ready, as in Iter8. Of an `unseen` one nothing is known, least of all that it is not
    there: the others and the version's addresses decide.
    """
    reasons = []
    for one in resources:
        kind = types.get(one.short)
        if kind is None:
            return Readiness(False, f"resource type {one.short!r} of {one} is not configured")
        if one.optional:
            continue
        if unseen(one):
            reasons.append(f"{_title(kind, None, one)} cannot be seen")
            continue
        found = readiness(kind, find(one), one)
        if not found.ready:
            return found
        reasons.append(found.reason)
    return Readiness(True, "; ".join(reasons) or "it has no resources to wait for")


def readiness(kind: ResourceType, obj: Object | None, named: Reference | None = None) -> Readiness:
    """Whether one object is ready; `named` helps to speak of an object that is not there."""
    what = _title(kind, obj, named)
    if obj is None:
        return Readiness(False, f"{what} does not exist")
    if part(obj, "metadata", "deletionTimestamp") is not None:
        return Readiness(False, f"{what} is being deleted")
    match kind.rule:
        case Rule.STATE:
            found = _state(obj)
        case Rule.REPLICAS:
            found = _replicas(obj)
        case _:
            found = _conditions(kind.conditions, obj)
    if found.ready and named is not None and named.inside:
        found = _inside(named.inside, obj) or found
    return Readiness(found.ready, f"{what}{found.reason}" if found.reason[0] == " " else f"{what}: {found.reason}")


def observed_generation(obj: Object, condition: Object) -> Any:
    """The condition's own, else the status's; None when neither says."""
    own = condition.get("observedGeneration")
    return own if own is not None else part(obj, "status", "observedGeneration")


def _title(kind: ResourceType, obj: Object | None, named: Reference | None) -> str:
    # Lists of built-in kinds carry no kind in their items.
    noun = kind.kind or text(obj, "kind") or kind.short
    name = text(obj, "metadata", "name") or (named.name if named else "")
    return f"{noun} {name}" if name else noun


def _conditions(wanted: tuple[str, ...], obj: Object) -> Readiness:
    if not wanted:
        return Readiness(True, " exists")
    entries = part(obj, "status", "conditions")
    if entries is None:
        return Readiness(False, f"no status yet, waiting for condition {wanted[0]}")
    if not isinstance(entries, list):
        return Readiness(False, "status.conditions is not a list")
    if any(not isinstance(one, Mapping) or not isinstance(one.get("type"), str) for one in entries):
        return Readiness(False, "status.conditions is malformed")
    for name in wanted:
        same = [one for one in entries if one["type"].lower() == name.lower()]
        complaints = [_complaint(name, obj, one) for one in same]
        if not same:
            return Readiness(False, f"condition {name} is not reported")
        if all(complaints):
            return Readiness(False, complaints[0])
    return Readiness(True, f"{' and '.join(wanted)}")


def _complaint(name: str, obj: Object, condition: Object) -> str:
    """What keeps this condition from counting; empty when nothing does."""
    status = condition.get("status")
    if not isinstance(status, str):
        return f"condition {name} has no status"
    if status.lower() != "true":
        why = text(condition, "reason") or text(condition, "message")
        return f"condition {name} is {status}" + (f" ({why})" if why else "")
    if behind := _behind(obj, observed_generation(obj, condition)):
        return f"condition {name} is out of date: {behind}"
    return ""


def _behind(obj: Object, observed: Any) -> str:
    """Why a status speaks of an older spec; empty when it is of this one, or does not say."""
    generation = whole(obj, "metadata", "generation")
    if generation is None or observed is None:
        return ""
    if not isinstance(observed, int) or isinstance(observed, bool):
        return f"observedGeneration is malformed ({observed!r})"
    return f"it is of generation {observed}, the spec of {generation}" if observed < generation else ""


def _state(obj: Object) -> Readiness:
    """SeldonDeployment."""
    state = part(obj, "status", "state")
    if not isinstance(state, str) or not state:
        return Readiness(False, "status.state is not reported")
    if state.lower() != "available":
        why = text(obj, "status", "description")
        return Readiness(False, f"state is {state}" + (f" ({why})" if why else ""))
    if behind := _behind(obj, part(obj, "status", "observedGeneration")):
        return Readiness(False, f"the status is out of date: {behind}")
    return Readiness(True, "Available")


def _inside(name: str, obj: Object) -> Readiness | None:
    """A predictor that the spec lacks; None when it is there."""
    known = [text(one, "name") for one in mappings(obj, "spec", "predictors")]
    if name in known:
        return None
    return Readiness(False, f"no predictor is called {name!r} (it has {', '.join(known) or 'none'})")


def _replicas(obj: Object) -> Readiness:
    """StatefulSet: it reports no condition of use, so its replicas are counted."""
    status = mapping(obj, "status")
    if not status:
        return Readiness(False, "no status yet")
    if behind := _behind(obj, status.get("observedGeneration")):
        return Readiness(False, f"the status is out of date: {behind}")
    given = part(obj, "spec", "replicas")
    wanted = 1 if given is None else whole(obj, "spec", "replicas")
    if wanted is None:
        return Readiness(False, "spec.replicas is malformed")
    if wanted == 0:
        return Readiness(False, "it is scaled to 0 replicas")
    ready = whole(status, "readyReplicas") or 0
    if ready < wanted:
        return Readiness(False, f"{ready} of {wanted} replicas are ready")
    new = _updated(obj, wanted)
    updated = whole(status, "updatedReplicas") or 0
    if updated < new:
        return Readiness(False, f"{updated} of {new} replicas are updated")
    return Readiness(True, f"{ready} of {wanted} replicas are ready")


def _updated(obj: Object, wanted: int) -> int:
    """How many replicas an update will reach: none by itself with OnDelete, and not those below a partition."""
    strategy = mapping(obj, "spec", "updateStrategy")
    if strategy.get("type") == "OnDelete":
        return 0
    return max(0, wanted - (whole(strategy, "rollingUpdate", "partition") or 0))
