"""Three of the four kinds of PATCH (apply.py has the fourth): an object and a patch in, a new object out."""

from __future__ import annotations

import copy
from typing import Any

from kubedouble import errors
from kubedouble.types import Schema, resolve

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


def merge(value: Any, patch: Any) -> Any:
    """RFC 7386: null deletes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, each in patch.items():
        if each is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), each)
    return result


def json_patch(value: Any, operations: Any) -> Any:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise errors.bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    result = copy.deepcopy(value)
    for operation in operations:
        try:
            result = _operate(result, operation)
        except (KeyError, IndexError, TypeError, ValueError) as fault:
            raise errors.patch_does_not_apply() from fault
    return result


def _operate(root: Any, operation: dict[str, Any]) -> Any:
    name, path = operation["op"], operation["path"]
    if name in ("add", "replace"):
        return _place(root, path, copy.deepcopy(operation["value"]), insert=name == "add")
    if name == "remove":
        return _cut(root, path)[0]
    if name == "test":
        try:
            found = _look(root, path)
        except (KeyError, IndexError):
            found = None
        if found != operation.get("value"):
            raise errors.patch_does_not_apply()
        return root
    if name == "copy":
        return _place(root, path, copy.deepcopy(_look(root, operation["from"])), insert=True)
    if name == "move":
        root, moved = _cut(root, operation["from"])
        return _place(root, path, moved, insert=True)
    raise ValueError(f"Unexpected kind: {name}")


def _steps(path: str) -> list[str]:
    if path == "":
        return []
    if not path.startswith("/"):
        raise ValueError(f"invalid path {path}")
    return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]


def _look(root: Any, path: str) -> Any:
    for step in _steps(path):
        root = root[_index(root, step)]
    return root


def _index(parent: Any, step: str, extra: int = 0) -> Any:
    if not isinstance(parent, list):
        return step
    index = len(parent) if step == "-" else int(step)
    if not -len(parent) <= index < len(parent) + extra:
        raise IndexError(f"Unable to access invalid index: {step}")
    return index


def _place(root: Any, path: str, value: Any, *, insert: bool) -> Any:
    steps = _steps(path)
    if not steps:
        return value
    parent = root
    for step in steps[:-1]:
        parent = parent[_index(parent, step)]
    if isinstance(parent, list):
        index = _index(parent, steps[-1], extra=int(insert))
        if insert:
            parent.insert(index, value)
        else:
            parent[index] = value
    elif not insert and steps[-1] not in parent:
        raise KeyError(f"replace operation does not apply: doc is missing key: {path}")
    else:
        parent[steps[-1]] = value
    return root


def _cut(root: Any, path: str) -> tuple[Any, Any]:
    steps = _steps(path)
    parent = root
    for step in steps[:-1]:
        parent = parent[_index(parent, step)]
    return root, parent.pop(_index(parent, steps[-1]))


def strategic(value: Any, patch: Any, schema: Schema) -> Any:
    """Merge by the built-in types' keys: lists with a patch merge key merge item by item, $patch directives obeyed."""
    schema = resolve(schema)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: each for key, each in patch.items() if key != "$patch"}
    result = dict(value) if isinstance(value, dict) else {}
    for key, each in patch.items():
        if key == "$patch" or key.startswith("$setElementOrder/"):
            continue
        if key == "$retainKeys":
            result = {name: kept for name, kept in result.items() if name in each}
        elif key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [item for item in result.get(name, ()) if item not in each]
        elif each is None or (isinstance(each, dict) and each.get("$patch") == "delete"):
            result.pop(key, None)
        else:
            part = _part(schema, key)
            result[key] = (
                _merge_list(result.get(key) or [], each, part)
                if isinstance(each, list)
                else strategic(result.get(key), each, part)
            )
    return result


def _part(schema: Schema, key: str) -> Schema:
    extra = schema.get("additionalProperties")
    found = schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else {})
    return resolve(found)


def _merge_list(old: list[Any], patch: list[Any], schema: Schema) -> list[Any]:
    if "merge" not in schema.get("x-kubernetes-patch-strategy", ""):
        return patch
    key, items = schema.get("x-kubernetes-patch-merge-key"), schema.get("items", {})
    if key is None:
        return [*old, *(each for each in patch if each not in old)]
    if any(each.get("$patch") == "replace" for each in patch):
        return [each for each in patch if "$patch" not in each]
    result = list(old)
    for each in patch:
        if key not in each:
            raise errors.bad_request(f"map: {each} does not contain declared merge key: {key}")
        at = next((index for index, item in enumerate(result) if item.get(key) == each[key]), None)
        if each.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(strategic({}, each, items))
        else:
            result[at] = strategic(result[at], each, items)
    return result
