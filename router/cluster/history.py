"""What happened to a rollout, for its status: the object and what was known of it go in, the longer list comes out.

One entry per change of the spec, in words ("weight v1 50 -> 80"), with who made it and why. To find out what changed, a
short digest of the spec last seen is kept beside the list. Traffic that moved because a version became ready, or is so
no longer, is told too, by headgate, and never pushes out what people did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from router.cluster.change import ANNOTATION
from router.cluster.objects import part

MOST = 20
MAX_HISTORY_BYTES = 10 * 1024
OURS = 8
"""Entries by headgate itself that are kept at most."""
BY_RESOURCES = "resources"
"""Who changes weights by an annotation of a version's resources, or in a SeldonDeployment."""
BY_HEADGATE = "headgate"
_TEXT = 256
_COLLAPSE = 60.0
_REST = ("backend", "readiness", "resources", "rewrite", "protocol", "requestHeaders")

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """Of the spec last told: its generation, its digest, and that of the change annotation that came with it.

    `annotated` are the weights that the versions' resources put in place of the spec's.
    """

    generation: int = 0
    facts: Mapping[str, str] | None = None
    change: str = ""
    annotated: str = ""

    def to_json(self) -> JsonObject:
        told = {"generation": self.generation, "facts": dict(self.facts or {})}
        rest = {"change": self.change, "annotated": self.annotated}
        return {**told, **{name: one for name, one in rest.items() if one}}

    @classmethod
    def from_json(cls, raw: Any) -> Seen:
        """What `to_json` wrote; anything else counts as never seen."""
        generation, facts, change = part(raw, "generation"), part(raw, "facts"), part(raw, "change")
        if not isinstance(generation, int) or not isinstance(facts, Mapping):
            return cls()
        kept = {str(name): str(value) for name, value in facts.items()}
        annotated = part(raw, "annotated")
        return cls(
            generation,
            kept,
            change if isinstance(change, str) else "",
            annotated if isinstance(annotated, str) else "",
        )


def told(
    history: Any, seen: Seen, rollout: Mapping[str, Any], now: str, annotated: str | None = None
) -> tuple[list[JsonObject], Seen]:
    """The history with what is new in this object's spec. `now` is RFC 3339, like every time in it.

    `annotated` are weights from the versions' resources ("v1=20 v2=80"); None while they are not known.
    """
    weights = seen.annotated if annotated is None else annotated
    entries = _entries(history)
    metadata = rollout.get("metadata") or {}
    generation = _whole(metadata.get("generation"))
    note = part(metadata.get("annotations"), ANNOTATION)
    note_digest = _digest(note) if note else ""
    if seen.facts is not None and generation == seen.generation:
        if weights != seen.annotated:
            what = f"weights {weights} from its resources" if weights else "weights of the spec again"
            entries = [*entries, _entry(now, {"by": BY_RESOURCES}, what, generation)]
        return bounded(entries), Seen(seen.generation, seen.facts, note_digest, weights)
    facts = dict(spec_facts(rollout.get("spec")))
    change = _change(note) if note and note_digest != seen.change else {}
    of = _whole(change.get("generation")) or generation
    if seen.facts is not None and seen.generation < of < generation:
        # It was followed by another change before we looked: both happened.
        entries = [*entries, _entry(change.get("at") or now, change, "spec changed", of)]
        change = {}
    elif of != generation:
        change = {}
    what = "; ".join(differences(seen.facts, facts)) if seen.facts is not None else _first(generation)
    if metadata.get("deletionTimestamp"):
        what = "deleted"
    editor = _editor(metadata.get("managedFields"))
    entries = [*entries, _entry(change.get("at") or editor[1] or now, {"by": editor[0], **change}, what, generation)]
    return bounded(entries), Seen(generation, facts, note_digest, weights)


def moved(
    history: Any, before: Iterable[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], generation: int, now: str
) -> list[JsonObject]:
    """Add that traffic moved because of readiness: `before` and `after` are the versions of two statuses."""
    entries = _entries(history)
    was = {one.get("name"): one for one in before}
    flips = [one for one in after if one["name"] in was and bool(was[one["name"]].get("ready")) != one["ready"]]
    moves = [
        f"{one['name']} {_percent(was[one['name']].get('weight'))} -> {_percent(one.get('weight'))}"
        for one in after
        if one["name"] in was and (was[one["name"]].get("weight") or 0) != (one.get("weight") or 0)
    ]
    if not flips or not moves:
        return bounded(entries)
    kind = ", ".join(f"{one['name']} {'ready' if one['ready'] else 'not ready'}" for one in flips)
    why = "; ".join(f"{one['name']}: {one['reason']}" for one in flips if one.get("reason"))
    entries = [one for one in entries if not _same_kind(one, kind, now)]
    change = {"by": BY_HEADGATE, "why": why}
    return bounded([*entries, _entry(now, change, f"{kind}: weight {', '.join(moves)}", generation)])


def bounded(entries: Sequence[JsonObject]) -> list[JsonObject]:
    """The newest ones; people's go before ours."""
    ours = [number for number, one in enumerate(entries) if one.get("by") == BY_HEADGATE]
    too_many = set(ours[:-OURS]) if len(ours) > OURS else set()
    surplus = len(entries) - len(too_many) - MOST
    left = [number for number in ours if number not in too_many]
    too_many |= set(left[: max(0, surplus)])
    kept = [one for number, one in enumerate(entries) if number not in too_many][-MOST:]
    while size(kept) > MAX_HISTORY_BYTES:
        del kept[0]
    return kept


# The digest of a spec


def spec_facts(spec: Any) -> Iterator[tuple[str, str]]:
    """What is worth telling of a spec, by a name for it; long parts as a digest. Takes specs of any shape."""
    versions = [one for one in _list(part(spec, "versions")) if isinstance(part(one, "name"), str)]
    primary = part(spec, "primary") or (versions[0]["name"] if versions else "")
    yield "primary", str(primary)
    yield "paused", "yes" if part(spec, "paused") is True else "no"
    for name in ("strategy", "gateway", "protocol"):
        if value := part(spec, name):
            yield name, _short(str(value))
    if hosts := _list(part(spec, "hosts")):
        yield "hosts", _short(", ".join(str(one) for one in hosts))
    if header := part(part(spec, "sticky"), "header"):
        yield "sticky", _short(str(header))
    if timeouts := part(spec, "timeouts"):
        yield "timeouts", _digest(timeouts)
    for version in versions:
        yield f"version {version['name'][:63]}", " ".join(_version_facts(version))


def _version_facts(version: Mapping[str, Any]) -> Iterator[str]:
    weight, mirror, match = version.get("weight"), version.get("mirror"), version.get("match")
    if weight is not None:
        yield f"weight={str(weight)[:12]}"
    if mirror is not None:
        percent = part(mirror, "percent")
        yield f"mirror={str(100 if percent is None else percent)[:12]}%"
    if match:
        yield f"match={_digest(match)}"
    for name in _REST:
        if (value := version.get(name)) is not None:
            yield f"{name}={_digest(value)}"


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """In words, what matters most first."""
    found = list(_differences(before, after))
    return found or ["spec changed"]


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    if before.get("paused") != after.get("paused"):
        yield "paused" if after.get("paused") == "yes" else "resumed"
    if before.get("primary") != after.get("primary"):
        yield f"primary {before.get('primary') or 'none'} -> {after.get('primary') or 'none'}"
    versions = [name for name in dict.fromkeys((*before, *after)) if name.startswith("version ")]
    for name in versions:
        if name not in before:
            weight = _parts(after[name]).get("weight")
            yield f"{name} added" + (f" with weight {weight}" if weight is not None else "")
        elif name not in after:
            yield f"{name} removed"
    for name in versions:
        if name in before and name in after:
            yield from _version_differences(name.partition(" ")[2], _parts(before[name]), _parts(after[name]))
    for name in ("strategy", "gateway", "protocol", "hosts", "sticky"):
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name) or 'none'} -> {after.get(name) or 'none'}"
    if before.get("timeouts") != after.get("timeouts"):
        yield "timeouts changed"


def _version_differences(version: str, was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if was.get("weight") != now.get("weight"):
        yield f"weight {version} {was.get('weight', 'default')} -> {now.get('weight', 'default')}"
    if was.get("mirror") != now.get("mirror"):
        yield f"mirror {version} {was.get('mirror', 'off')} -> {now.get('mirror', 'off')}"
    for name in ("match", *_REST):
        if was.get(name) != now.get(name):
            yield f"{name} of {version} " + (
                "removed" if name not in now else "added" if name not in was else "changed"
            )


def _parts(fact: str) -> dict[str, str]:
    return dict(one.split("=", 1) for one in fact.split(" ") if "=" in one)


# Who did it


def _change(note: Any) -> JsonObject:
    """What the annotation says, as far as it can be read: anybody may write one."""
    try:
        raw = json.loads(note)
    except (ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    words = {name: raw[name] for name in ("by", "what", "why") if isinstance(raw.get(name), str) and raw[name]}
    at = raw.get("at")
    if isinstance(at, str) and _seconds(at) is not None:
        words["at"] = at
    generation = raw.get("generation")
    return {**words, **({"generation": generation} if _whole(generation) else {})}


def _editor(fields: Any) -> tuple[str, str]:
    """(manager, time) of the latest write to the spec, as the API server keeps it; empty when it does not."""
    found = [
        (str(part(one, "time") or ""), str(part(one, "manager") or ""))
        for one in _list(fields)
        if isinstance(part(one, "fieldsV1"), Mapping) and "f:spec" in one["fieldsV1"] and not part(one, "subresource")
    ]
    at, manager = max(found, default=("", ""))
    return manager, at if _seconds(at) is not None else ""


def _entry(at: str, change: Mapping[str, Any], what: str, generation: int) -> JsonObject:
    why = cut(change.get("why") or "", _TEXT)
    return {
        "at": at,
        "by": cut(change.get("by") or "", 64) or "unknown",
        "what": cut(change.get("what") or "", _TEXT) or cut(what, _TEXT),
        **({"why": why} if why else {}),
        "generation": generation,
    }


def _first(generation: int) -> str:
    return "created" if generation <= 1 else "first seen"


def _same_kind(entry: Mapping[str, Any], kind: str, now: str) -> bool:
    if entry.get("by") != BY_HEADGATE or not str(entry.get("what", "")).startswith(f"{kind}: "):
        return False
    then, latest = _seconds(entry.get("at")), _seconds(now)
    return then is not None and latest is not None and latest - then < _COLLAPSE


def _entries(history: Any) -> list[JsonObject]:
    """As they were told; whoever edits a status by hand makes it no longer than we would."""
    return [
        _entry(cut(one.get("at"), 40), one, "", _whole(one.get("generation")))
        for one in _list(history)[-2 * MOST :]
        if isinstance(one, Mapping)
    ]


def cut(text: Any, length: int) -> str:
    """One line of at most so many characters, all of which can be shown: nobody's words may steer a terminal."""
    words = " ".join(str(text).split())
    if not words.isprintable():
        words = "".join(one if one.isprintable() else "?" for one in words)
    return words if len(words) <= length else words[: length - 1] + "…"


def size(value: Any) -> int:
    """In bytes, as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}… ({_digest(text)})"


def _percent(weight: Any) -> str:
    return f"{weight or 0:g} %" if isinstance(weight, int | float) else "?"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2s(text.encode(), digest_size=4).hexdigest()


def _seconds(at: Any) -> float | None:
    try:
        return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
    except (ValueError, AttributeError, TypeError, OverflowError):
        return None


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
