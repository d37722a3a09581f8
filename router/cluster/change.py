"""What an operator's command makes of a rollout: the object goes in; the new spec, or all that speaks against it, out.

Each command is a function from the raw object, as the API server holds it, to a `Change` or to problems. The result
has passed the parser. Nothing here knows whether a version is ready: that is in the object's status, and the caller's.

    weights   the named versions' weights, nothing else
    promote   the version is the primary and gets everything; what other versions ask for by match or mirror stays
    abort     the primary gets everything; candidates get no weight, no match, no mirror
    pause     spec.paused
    traffic   weights, matches and mirrors of versions as given, for an experiment and to put them back
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.hints import nearest
from router.manifests import read
from router.policy import Wish, wishes
from router.problem import Problem
from router.schema import MAX_WEIGHT, ModelRollout
from router.weights import share
from xds.ir import WEIGHT_TOTAL

ANNOTATION = "headgate.dev/change"
"""Who wrote the spec and why, as JSON: by, what, why, at, generation. Written together with the spec."""

ALL = 100
"""The weight of a version that gets everything: easy to read beside the next candidate's."""

_TRAFFIC = ("weight", "match", "mirror")


@dataclass(frozen=True, slots=True)
class Share:
    """What a version gets of the weighted traffic when all versions are ready, in percent."""

    version: str
    before: float
    after: float
    primary: bool


@dataclass(frozen=True, slots=True)
class Change:
    """`spec` is the whole new spec; `patch` only what is different, as a merge patch. `notes` are for the operator."""

    spec: Mapping[str, Any]
    patch: Mapping[str, Any]
    what: str
    shares: tuple[Share, ...]
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """The spec says all this already."""
        return not self.patch


Outcome = Change | tuple[Problem, ...]


def weights(raw: Mapping[str, Any], wanted: Mapping[str, int]) -> Outcome:
    """Give these versions these weights. A version that is not named keeps the weight that it gives itself."""
    rollout = read(raw, _key(raw))
    if isinstance(rollout, tuple):
        return rollout
    problems = [*_unknown(rollout, wanted), *_out_of_range(rollout, wanted), *_silent(rollout, wanted)]
    if problems:
        return tuple(problems)

    def edit(spec: dict[str, Any]) -> None:
        for version in spec["versions"]:
            if version["name"] in wanted:
                version["weight"] = wanted[version["name"]]

    return _changed(raw, rollout, edit, lambda shares: f"weights: {moves(shares) or _settings(wanted)}")


def promote(raw: Mapping[str, Any], name: str | None = None) -> Outcome:
    """Make a candidate the primary and give it everything. Without a name: the only candidate.

    Its match goes too. It has nothing left to select, but would take the test traffic of the next candidate, since
    header routes are tried in the order of the versions.
    """
    rollout = read(raw, _key(raw))
    if isinstance(rollout, tuple):
        return rollout
    if name is None:
        candidates = [one.name for one in rollout.candidates]
        if len(candidates) != 1:
            what = "there is no candidate to promote" if not candidates else f"there are {len(candidates)} candidates"
            hint = f"name one of {', '.join(candidates)}" if candidates else f"{rollout.primary.name} is all there is"
            return (Problem(rollout.key, "", what, hint),)
        [name] = candidates
    if problems := tuple(_unknown(rollout, [name])):
        return problems
    promoted, before = name, rollout.primary.name
    asking = {wish.name for wish in wishes(rollout) if wish.weight > 0}

    def edit(spec: dict[str, Any]) -> None:
        spec["primary"] = promoted
        for version in spec["versions"]:
            if version["name"] == promoted:
                version["weight"] = ALL
                version.pop("mirror", None)
                version.pop("match", None)
            elif version["name"] == before or version["name"] in asking:
                # Only these: with a weight of its own a silent candidate would lose what its strategy gives it.
                version["weight"] = 0

    said = f"promoted {promoted}" + (f", until now {before}" if before != promoted else "")
    return _changed(raw, rollout, edit, lambda shares: said)


def abort(raw: Mapping[str, Any]) -> Outcome:
    """Give everything back to the primary. It lifts a pause: one that kept the candidates' traffic would defeat it.

    Candidates get `weight: 0` rather than none: a version that says nothing is given traffic by its strategy.
    """
    rollout = read(raw, _key(raw))
    if isinstance(rollout, tuple):
        return rollout
    primary = rollout.primary.name

    def edit(spec: dict[str, Any]) -> None:
        _set_paused(spec, False)
        for version in spec["versions"]:
            if version["name"] != primary:
                version["weight"] = 0
                version.pop("mirror", None)
                version.pop("match", None)
            elif version.get("weight") == 0:
                version["weight"] = ALL

    return _changed(raw, rollout, edit, lambda shares: f"aborted: everything to {primary}")


def pause(raw: Mapping[str, Any], paused: bool) -> Outcome:
    """Hold the traffic as it is, or let the spec decide again."""
    rollout = read(raw, _key(raw))
    if isinstance(rollout, tuple):
        return rollout

    return _changed(
        raw, rollout, lambda spec: _set_paused(spec, paused), lambda shares: "paused" if paused else "resumed"
    )


def traffic(raw: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]], said: str) -> Outcome:
    """Give these versions exactly these weights, matches and mirrors; what is not given is taken out."""
    rollout = read(raw, _key(raw))
    if isinstance(rollout, tuple):
        return rollout
    if problems := tuple(_unknown(rollout, list(wanted))):
        return problems

    def edit(spec: dict[str, Any]) -> None:
        for version in spec["versions"]:
            if version["name"] in wanted:
                for field in _TRAFFIC:
                    version.pop(field, None)
                version.update(wanted[version["name"]])

    return _changed(raw, rollout, edit, lambda shares: said)


def traffic_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each version says of its weight, match and mirror; `traffic` puts it back."""
    return {
        str(one["name"]): {field: one[field] for field in _TRAFFIC if one.get(field) is not None}
        for one in spec.get("versions") or ()
    }


def raced(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What decides about the traffic and was changed by somebody else meanwhile: `spec.primary: v0 -> v1`."""
    old, new = dict(_deciding(before.get("spec") or {})), dict(_deciding(now.get("spec") or {}))
    return tuple(
        f"{path}: {_short(old.get(path))} -> {_short(new.get(path))}"
        for path in dict.fromkeys((*old, *new))
        if old.get(path) != new.get(path)
    )


def moves(shares: tuple[Share, ...]) -> str:
    """`v0 100 % -> 20 %, v1 0 % -> 80 %`: the versions whose share changes."""
    return ", ".join(f"{one.version} {one.before:g} % -> {one.after:g} %" for one in shares if one.before != one.after)


def record(change: Change, raw: Mapping[str, Any], *, by: str, why: str, at: str) -> dict[str, Any]:
    """What the annotation holds. The generation is the one that this change makes of the object as it was read."""
    generation = int(raw["metadata"].get("generation") or 0) + 1
    return {"by": by, "what": change.what, "why": why, "at": at, "generation": generation}


def _changed(
    raw: Mapping[str, Any],
    rollout: ModelRollout,
    edit: Callable[[dict[str, Any]], None],
    what: Callable[[tuple[Share, ...]], str],
) -> Outcome:
    old = raw["spec"]
    spec = copy.deepcopy(dict(old))
    edit(spec)
    made = read({**raw, "spec": spec}, rollout.key)
    if isinstance(made, tuple):
        return made
    shares = tuple(_shares(rollout, made))
    patch = {name: spec.get(name) for name in dict.fromkeys((*old, *spec)) if spec.get(name) != old.get(name)}
    return Change(spec, patch, what(shares), shares, tuple(_notes(rollout, made, patch)))


def _set_paused(spec: dict[str, Any], paused: bool) -> None:
    if bool(spec.get("paused")) != paused:
        spec["paused"] = paused


def _shares(before: ModelRollout, after: ModelRollout) -> Iterator[Share]:
    was, will = _points(before), _points(after)
    for version in after.spec.versions:
        name = version.name
        yield Share(name, was.get(name, 0) / 100, will.get(name, 0) / 100, name == after.primary.name)


def _points(rollout: ModelRollout) -> dict[str, int]:
    wanted = {wish.name: wish.weight for wish in wishes(rollout)}
    points = share(wanted, wanted, rollout.primary.name)
    assert sum(points.values()) == WEIGHT_TOTAL
    return points


def _notes(before: ModelRollout, after: ModelRollout, patch: Mapping[str, Any]) -> Iterator[str]:
    """What the percentages do not tell."""
    strategy = before.spec.strategy.value
    if before.spec.paused and not after.spec.paused and len(patch) > 1:
        yield "the pause ends with it"
    was = {wish.name: wish for wish in wishes(before)}
    now = wishes(after)
    for wish in now:
        old = was[wish.name]
        if old.match and not wish.match:
            yield _lost(old, bool(old.version.match), "requests by header", "match", strategy)
        elif wish.match and not wish.primary:
            yield f"requests that match {wish.name}'s match go to it whatever the weights say"
        if old.mirror and not wish.mirror:
            yield _lost(old, old.version.mirror is not None, "copies of the traffic", "mirror", strategy)
        elif wish.mirror and wish.weight > 0:
            yield (
                f"{wish.name} answers its share and still receives copies of {wish.mirror.percent:g} % of all "
                "requests as well; remove its mirror if that is not wanted"
            )
    if all(wish.weight == 0 for wish in now):
        yield f"all weights are 0: the primary, {after.primary.name}, gets everything"
    if patch and after.spec.paused and "paused" not in patch:
        yield "the rollout is paused: its traffic stays as it is until 'headgate resume'"


def _lost(wish: Wish, own: bool, what: str, field: str, strategy: str) -> str:
    if own:
        return f"{wish.name} gets no {what} any more: its {field} is removed"
    return (
        f"{wish.name} gets no {what} any more: strategy {strategy} gives them only to versions without a weight "
        f"(give it a {field} of its own to keep them)"
    )


def _unknown(rollout: ModelRollout, names: Mapping[str, int] | list[str]) -> Iterator[Problem]:
    known = [one.name for one in rollout.spec.versions]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"versions are {', '.join(known)}"
            yield Problem(rollout.key, "", f"no version is called {name!r}", hint)


def _out_of_range(rollout: ModelRollout, wanted: Mapping[str, int]) -> Iterator[Problem]:
    for name, weight in wanted.items():
        if not 0 <= weight <= MAX_WEIGHT:
            hint = f"weights are whole numbers from 0 to {MAX_WEIGHT:,}"
            yield Problem(rollout.key, name, f"weight {weight} is out of range", hint)


def _silent(rollout: ModelRollout, wanted: Mapping[str, int]) -> Iterator[Problem]:
    """`weights v1=20` beside a primary without a weight, which counts as 1, would give v1 95 %."""
    for wish in wishes(rollout):
        if wish.name not in wanted and wish.version.weight is None and wish.weight > 0:
            what = f"{wish.name} has no weight of its own and would count as {wish.weight} beside these"
            yield Problem(rollout.key, "", what, f"name it too, such as {wish.name}={_rest(wanted)}")


def _rest(wanted: Mapping[str, int]) -> int:
    return max(0, ALL - sum(wanted.values()))


def _settings(wanted: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={weight}" for name, weight in wanted.items())


def _deciding(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("primary", "strategy", "paused"):
        yield f"spec.{name}", spec.get(name)
    for version in spec.get("versions") or ():
        name = version.get("name")
        yield f"spec.versions[{name}]", "there"
        for field in _TRAFFIC:
            yield f"spec.versions[{name}].{field}", version.get(field)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _key(raw: Mapping[str, Any]) -> str:
    metadata = raw.get("metadata") or {}
    return f"{metadata.get('namespace') or 'default'}/{metadata.get('name')}"
