"""Who owns which field (managedFields), and server-side apply on top of it.

A set of fields is a set of paths; a step is "f:name", 'k:{"key":"value"}' for an item of a keyed list, 'v:"x"' for a
member of a set. Paths of keyed items are in the set themselves, as they are in the real server's FieldsV1 (".").
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubedouble import errors
from kubedouble.types import OBJECT_META, Schema, resolve

Path = tuple[str, ...]
_ABSENT = object()
_OURS = {
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds", "managedFields", "selfLink",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, how, and through which subresource."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    def matches(self, entry: dict[str, Any]) -> bool:
        return (
            entry.get("manager") == self.manager
            and entry.get("operation") == self.operation
            and entry.get("subresource", "") == self.subresource
            and (entry.get("apiVersion") == self.api_version or self.operation == "Apply")
        )

    def entry(self, fields: Iterable[Path], now: str) -> dict[str, Any]:
        entry = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": now,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields(fields),
        }
        return {**entry, "subresource": self.subresource} if self.subresource else entry


def values(obj: dict[str, Any], schema: Schema) -> dict[Path, Any]:
    """The leaves of an object that somebody can own, with their values."""
    found: dict[Path, Any] = {}
    for key, each in obj.items():
        if key == "metadata":
            kept = {name: part for name, part in each.items() if name not in _OURS}
            if kept:
                _walk(kept, resolve(OBJECT_META), ("f:metadata",), found)
        elif key not in ("apiVersion", "kind"):
            _walk(each, _part(resolve(schema), key), (f"f:{key}",), found)
    return found


def _part(schema: Schema, key: str) -> Schema:
    extra = schema.get("additionalProperties")
    return resolve(schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else {}))


def _item_step(item: Any, schema: Schema) -> str | None:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        return "v:" + json.dumps(item, separators=(",", ":"))
    if kind == "map" and isinstance(item, dict):
        items = resolve(schema.get("items", {})).get("properties", {})
        keys = {}
        for key in sorted(schema.get("x-kubernetes-list-map-keys", ())):
            fallback = "TCP" if key == "protocol" else items.get(key, {}).get("default")
            if key in item or fallback is not None:
                keys[key] = item.get(key, fallback)
        return "k:" + json.dumps(keys, separators=(",", ":"))
    return None


def _walk(value: Any, schema: Schema, path: Path, found: dict[Path, Any]) -> None:
    atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if isinstance(value, dict) and value and not atomic:
        for key, each in value.items():
            _walk(each, _part(schema, key), (*path, f"f:{key}"), found)
    elif isinstance(value, list) and value and _item_step(value[0], schema):
        items = resolve(schema.get("items", {}))
        for each in value:
            step = _item_step(each, schema) or ""
            found[*path, step] = _ABSENT
            if step.startswith("k:"):
                _walk(each, items, (*path, step), found)
    else:
        found[path] = value


def to_fields(paths: Iterable[Path]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    paths = set(paths)
    prefixes = {path[:size] for path in paths for size in range(1, len(path))}
    for path in sorted(paths):
        node = root
        for step in path:
            node = node.setdefault(step, {})
        if path in prefixes:
            node.setdefault(".", {})
    return root


def from_fields(fields: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    for step, below in fields.items():
        if step == ".":
            yield path
        elif not below:
            yield (*path, step)
        else:
            yield from from_fields(below, (*path, step))


def after_update(
    old: dict[str, Any] | None, new: dict[str, Any], schema: Schema, writer: Writer, now: str
) -> list[dict[str, Any]]:
    """The managedFields after a write that was no apply: the writer owns what it changed, nobody what is gone."""
    before, after = values(old or {}, schema), values(new, schema)
    given = new.get("metadata", {}).get("managedFields")
    entries = (old or {}).get("metadata", {}).get("managedFields") or []
    if given == [] or given == [{}]:
        entries = []
    changed = {path for path, value in after.items() if before.get(path, None) != value or path not in before}
    gone = before.keys() - after.keys()
    if not changed and not gone:
        return entries
    kept = []
    mine: set[Path] = set()
    for entry in entries:
        fields = set(from_fields(entry.get("fieldsV1", {})))
        if writer.matches(entry):
            mine = fields
            continue
        left = {path for path in fields - changed - gone if _still_there(path, after)}
        if left == fields:
            kept.append(entry)
        elif left:
            kept.append({**entry, "fieldsV1": to_fields(left)})
    mine = {path for path in mine | changed if _still_there(path, after)}
    mine |= _new_parents(changed, before)
    return in_order([*kept, writer.entry(mine, now)] if mine else kept)


def in_order(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the server keeps them: Apply before Update, then by time, manager, version and subresource."""
    parts = ("operation", "time", "manager", "apiVersion", "subresource")
    return sorted(entries, key=lambda entry: [entry.get(part, "") for part in parts])


def _still_there(path: Path, after: dict[Path, Any]) -> bool:
    return path in after or any(other[: len(path)] == path for other in after)


def _new_parents(changed: set[Path], before: dict[Path, Any]) -> set[Path]:
    old = {path[:size] for path in before for size in range(1, len(path) + 1)}
    parents = {path[:size] for path in changed for size in range(1, len(path))}
    return {path for path in parents - old if path not in (("f:metadata",), ("f:spec",), ("f:status",))}


def apply(
    live: dict[str, Any] | None, wanted: dict[str, Any], schema: Schema, writer: Writer, now: str, *, force: bool
) -> dict[str, Any]:
    """The live object with the wanted fields merged in, omitted ones of this manager dropped, owners noted."""
    current = live or {}
    entries = current.get("metadata", {}).get("managedFields") or []
    have, want = values(current, schema), values(wanted, schema)
    held = {id(entry): set(from_fields(entry.get("fieldsV1", {}))) for entry in entries}
    others = [entry for entry in entries if not writer.matches(entry)]
    differs = {path for path, value in want.items() if have.get(path, None) != value and value is not _ABSENT}
    fights = [(entry, sorted(held[id(entry)] & differs)) for entry in others if held[id(entry)] & differs]
    if fights and not force:
        raise _conflict(fights)
    mine = next((held[id(entry)] for entry in entries if writer.matches(entry)), set())
    taken = set().union(*(held[id(entry)] for entry in others)) if others else set()
    shared = {path[:size] for path in taken for size in range(1, len(path) + 1)}
    result: dict[str, Any] = copy.deepcopy(current)
    for path in sorted(mine - want.keys(), key=len):  # an item before its parts, among them the key that names it
        if path not in shared and not any(other[: len(path)] == path for other in want):
            _remove(result, path, resolve(schema))
    result = _merge(result, {k: v for k, v in wanted.items() if k != "metadata"}, resolve(schema))
    given = {name: part for name, part in wanted["metadata"].items() if name != "managedFields"}
    result["metadata"] = _merge(result.get("metadata", {}), given, resolve(OBJECT_META))
    kept = []
    for entry in others:
        left = held[id(entry)] - differs
        if left == held[id(entry)]:
            kept.append(entry)
        elif left:
            kept.append({**entry, "fieldsV1": to_fields(left)})
    previous = next((entry for entry in entries if writer.matches(entry)), None)
    if previous is not None and mine == set(want) and len(kept) == len(others) and not differs:
        result["metadata"]["managedFields"] = entries
    else:
        result["metadata"]["managedFields"] = in_order([*kept, *([writer.entry(want, now)] if want else [])])
    return result


def _conflict(fights: list[tuple[dict[str, Any], list[Path]]]) -> errors.ApiError:
    causes: list[dict[str, str]] = []
    said: dict[str, list[str]] = {}
    for entry, paths in fights:
        who = f'"{entry["manager"]}"'
        if subresource := entry.get("subresource"):
            who += f' with subresource "{subresource}"'
        if entry["operation"] == "Update":
            who += f" using {entry['apiVersion']}"
        for path in map(readable, paths):
            causes.append({"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path})
            said.setdefault(who, []).append(path)
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        words = [f"conflicts with {who}:" + "".join(f"\n- {path}" for path in said[who]) for who in sorted(said)]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(words)
    return errors.ApiError(409, "Conflict", message, {"causes": causes})


def readable(path: Path) -> str:
    said = ""
    for step in path:
        if step.startswith("f:"):
            said += f".{step[2:]}"
        elif step.startswith("k:"):
            said += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(step[2:]).items()) + "]"
        else:
            said += f"[={step[2:]}]"
    return said


def _merge(value: Any, wanted: Any, schema: Schema) -> Any:
    if isinstance(wanted, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        result = dict(value) if isinstance(value, dict) else {}
        for key, each in wanted.items():
            result[key] = _merge(result.get(key), each, _part(schema, key))
        return result
    if isinstance(wanted, list) and wanted and _item_step(wanted[0], schema):
        result_list = list(value or [])
        places = {_item_step(each, schema): index for index, each in enumerate(result_list)}
        for each in wanted:
            at = places.get(_item_step(each, schema))
            if at is None:
                result_list.append(_merge(None, each, resolve(schema.get("items", {}))))
            else:
                result_list[at] = _merge(result_list[at], each, resolve(schema.get("items", {})))
        return result_list
    return wanted


def _remove(value: Any, path: Path, schema: Schema) -> None:
    """Take one owned path out of the object, and what became empty because of it."""
    step, rest = path[0], path[1:]
    if isinstance(value, dict) and step.startswith("f:"):
        key = step[2:]
        part = resolve(OBJECT_META) if key == "metadata" else _part(schema, key)
        if key not in value:
            return
        if not rest:
            del value[key]
            return
        _remove(value[key], rest, part)
        if value[key] in ({}, []) and key != "metadata":
            del value[key]
    elif isinstance(value, list):
        for index, each in enumerate(value):
            if _item_step(each, schema) == step:
                if rest:
                    _remove(each, rest, resolve(schema.get("items", {})))
                else:
                    del value[index]
                return
