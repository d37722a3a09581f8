"""Schemas at work on objects: unknown fields dropped, defaults filled in, faults listed.

One walker for both kinds of schema: the built-in types' (types.json) and the structural ones of a CRD.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from kubedouble.cel import rule_faults
from kubedouble.errors import Cause
from kubedouble.metadata import invalid_value, required
from kubedouble.types import OBJECT_META, Schema, resolve

_ROOT = ("apiVersion", "kind", "metadata")
_PYTHON = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"


def prune(value: Any, schema: Schema, path: str = "", *, root: bool = False) -> tuple[Any, list[str]]:
    """The value without fields its schema does not know, and the paths of those fields."""
    unknown: list[str] = []
    return _prune(value, resolve(schema), path, root, unknown), unknown


def _prune(value: Any, schema: Schema, path: str, root: bool, unknown: list[str]) -> Any:
    if isinstance(value, list):
        items = resolve(schema["items"]) if "items" in schema else {PRESERVE: True}
        return [_prune(each, items, f"{path}[{index}]", False, unknown) for index, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
    root = root or bool(schema.get("x-kubernetes-embedded-resource"))
    kept = {}
    for key, each in value.items():
        where = f"{path}.{key}" if path else key
        if root and key in _ROOT:
            kept[key] = _prune(each, resolve(OBJECT_META), where, False, unknown) if key == "metadata" else each
        elif key in properties:
            kept[key] = _prune(each, resolve(properties[key]), where, False, unknown)
        elif isinstance(extra, dict):
            kept[key] = _prune(each, resolve(extra), where, False, unknown)
        elif schema.get(PRESERVE) or extra is True or not _closed(schema):
            kept[key] = each
        else:
            unknown.append(where)
    return kept


def _closed(schema: Schema) -> bool:
    return schema.get("type") == "object" or "properties" in schema


def default(value: Any, schema: Schema) -> Any:
    """Fill in defaults, in place; an explicit null where null is not allowed counts as absent."""
    schema = resolve(schema)
    if isinstance(value, dict):
        for key, part in schema.get("properties", {}).items():
            if key in value and value[key] is None and not part.get("nullable"):
                del value[key]
            if key not in value and "default" in part:
                value[key] = copy.deepcopy(part["default"])
            if key in value:
                default(value[key], part)
        if isinstance(extra := schema.get("additionalProperties"), dict):
            for key in value.keys() - schema.get("properties", {}).keys():
                default(value[key], extra)
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            default(each, schema["items"])
    return value


def normalise(value: Any, schema: Schema) -> None:
    """Times as the built-in types keep them, in place: UTC, whole seconds (microseconds in a MicroTime)."""
    if not isinstance(value, (dict, list)):
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    extra = schema.get("additionalProperties")
    for key, each in list(parts):
        part = schema.get("items", {}) if isinstance(value, list) else schema.get("properties", {}).get(key)
        part = part or (extra if isinstance(extra, dict) else None)
        if part is None:
            continue
        name = str(part.get("$ref", "")).rsplit(".", 1)[-1]
        if name in ("Time", "MicroTime") and isinstance(each, str):
            at = datetime.fromisoformat(each).astimezone(UTC)
            value[key] = at.strftime("%Y-%m-%dT%H:%M:%SZ" if name == "Time" else "%Y-%m-%dT%H:%M:%S.%fZ")
        elif isinstance(each, (dict, list)):
            normalise(each, resolve(part))


def drop_nulls(value: Any) -> Any:
    """Built-in types cannot hold null: it is the same as absent."""
    if isinstance(value, dict):
        return {key: drop_nulls(each) for key, each in value.items() if each is not None}
    return [drop_nulls(each) for each in value] if isinstance(value, list) else value


def type_faults(value: Any, schema: Schema, path: str = "", owner: str = "") -> Iterator[str]:
    """How the built-in types' decoder would complain: it names the innermost struct and the path of its fields."""
    name = str(schema.get("$ref", "")).rsplit(".", 1)[-1]
    owner, schema = name or owner, resolve(schema)
    at = f"{owner}.{path}" if owner else path
    if name == "MicroTime" and isinstance(value, str) and not _MICRO_TIME.fullmatch(value):
        layout = "2006-01-02T15:04:05.000000Z07:00"
        yield f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"'
        return
    if value is None or schema.get(PRESERVE):
        return
    wanted = schema.get("type")
    if "oneOf" in schema:
        if isinstance(value, (dict, list, bool)):
            yield f"json: cannot unmarshal {_go(value)} into Go struct field {at} of type intstr.IntOrString"
        return
    if wanted and not _is(value, wanted):
        found = f"number {value}" if isinstance(value, float) else _go(value)
        yield f"json: cannot unmarshal {found} into Go struct field {at} of type {_go_type(schema, name)}"
    elif schema.get("format") == "byte" and (index := _not_base64(value)) is not None:
        yield f"illegal base64 data at input byte {index}"
    elif schema.get("format") == "date-time" and not _is_time(value):
        yield f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"'
    elif isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for key, each in value.items():
            part = schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else None)
            if part is not None:
                where = path if key not in schema.get("properties", {}) else f"{path}.{key}" if path else key
                yield from type_faults(each, part, where, owner)
    elif isinstance(value, list):
        for each in value:
            yield from type_faults(each, schema.get("items", {}), path, owner)


def kind_faults(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """How server-side apply complains of values of the wrong kind."""
    schema = resolve(schema)
    wanted = {"object": "map", "array": "list", "string": "string", "boolean": "boolean"}.get(
        schema.get("type", ""), ""
    )
    wanted = "numeric (int or float)" if schema.get("type") in ("integer", "number") else wanted
    if value is None or schema.get(PRESERVE) or schema.get(INT_OR_STRING) or "oneOf" in schema:
        return
    if wanted and not _is(value, schema["type"]):
        found = {dict: "map", list: "list", str: "string", bool: "boolean"}.get(type(value), "numeric")
        yield f"{path}: expected {wanted}, got {found}"
        return
    if isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for key, each in value.items():
            part = schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else None)
            if part is not None:
                yield from kind_faults(each, part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from kind_faults(each, schema.get("items", {}), f"{path}[{index}]")


def _go_type(schema: Schema, name: str) -> str:
    wanted = schema.get("type", "")
    if wanted == "array":
        items = schema.get("items", {})
        return "[]" + _go_type(resolve(items), str(items.get("$ref", "")).rsplit(".", 1)[-1])
    if wanted == "object" and isinstance(extra := schema.get("additionalProperties"), dict):
        return "map[string]" + _go_type(resolve(extra), "")
    known = {"integer": schema.get("format", "int64"), "boolean": "bool", "number": "float64", "string": "string"}
    return str(known.get(wanted) or (f"v1.{name}" if name else wanted))


def _not_base64(value: Any) -> int | None:
    """Where Go's decoder would stop."""
    if not isinstance(value, str):
        return None
    text = value.replace("\n", "").replace("\r", "")
    match = _BASE64.match(text)
    end = match.end() if match else 0
    return None if end == len(text) and len(text) % 4 == 0 else end


def _is_time(value: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value))


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _PYTHON.get(wanted, object))  # type: ignore[arg-type]


def _go(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names: dict[type, str] = {dict: "object", list: "array", str: "string"}
    return names.get(type(value), "number")


def faults(value: Any, schema: Schema, path: str = "", old: Any = None) -> list[Cause]:
    """Everything a structural schema finds wrong with a value, CEL rules last and only when the types are right."""
    found = list(_faults(value, schema, path))
    return found or list(_rules(value, schema, path, old))


def _faults(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    where = path or "<nil>"
    if value is None and schema.get("nullable"):
        return
    if schema.get(INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield _wrong_type(where, value, "integer,string")
            return
    elif (wanted := schema.get("type")) and not _is(value, wanted):
        yield _wrong_type(where, value, wanted)
        return
    yield from _bounds(value, schema, where)
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                yield required(f"{path}.{key}".lstrip("."))
        extra = schema.get("additionalProperties")
        for key, each in value.items():
            part = schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else None)
            if part is not None:
                yield from _faults(each, part, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        yield from _duplicates(value, schema, where)
        for index, each in enumerate(value):
            yield from _faults(each, schema.get("items", {}), f"{path}[{index}]")


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    """As Go reads it: $ is the very end, also where the text ends with a line break."""
    return re.compile(re.sub(r"(?<!\\)\$(?=$|\|)", r"\\Z", text))


def _wrong_type(where: str, value: Any, wanted: str) -> Cause:
    name = {"object": "map", "array": "array", "bool": "boolean", "number": "integer"}.get(_go(value), _go(value))
    name = "null" if value is None else name
    why = f'Invalid value: "{name}": {where} in body must be of type {wanted}: "{name}"'
    return Cause(where, "FieldValueTypeInvalid", why)


def _bounds(value: Any, schema: Schema, where: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(f'"{each}"' for each in schema["enum"])
        yield Cause(where, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}')
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
        if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
            than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
            yield invalid_value(where, value, f"{where} in body should be {than} {low}")
        if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
            than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
            yield invalid_value(where, value, f"{where} in body should be {than} {high}")
        if step and value % step:
            yield invalid_value(where, value, f"{where} in body should be a multiple of {step}")
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield invalid_value(where, value, f"{where} in body should be at least {schema['minLength']} chars long")
        if len(value) > schema.get("maxLength", len(value)):
            yield Cause(where, "FieldValueTooLong", f"Too long: may not be more than {schema['maxLength']} bytes")
        if (pattern := schema.get("pattern")) and not _pattern(pattern).search(value):
            yield invalid_value(where, value, f"{where} in body should match '{pattern}'")
        if schema.get("format") == "date-time" and not _is_time(value):
            yield invalid_value(where, value, f"{where} in body must be of type date-time: {value!r}")
    for unit, kind in (("Items", list), ("Properties", dict)):
        if isinstance(value, kind):
            if len(value) < schema.get(f"min{unit}", 0):
                why = f"{where} in body should have at least {schema[f'min{unit}']} {unit.lower()}"
                yield invalid_value(where, len(value), why)
            if len(value) > schema.get(f"max{unit}", len(value)):
                why = f"Too many: {len(value)}: must have at most {schema[f'max{unit}']} items"
                yield Cause(where, "FieldValueTooMany", why)
    yield from _combinations(value, schema, where)


def _combinations(value: Any, schema: Schema, where: str) -> Iterator[Cause]:
    def fits(part: Schema) -> bool:
        return not list(_faults(value, part, where))

    if "not" in schema and fits(schema["not"]):
        yield invalid_value(where, value, f"{where} in body must not validate the schema (not)")
    if "anyOf" in schema and not any(map(fits, schema["anyOf"])):
        yield invalid_value(where, value, f"{where} in body must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(map(fits, schema["oneOf"])) != 1:
        yield invalid_value(where, value, f"{where} in body must validate one and only one schema (oneOf)")
    for part in schema.get("allOf", ()):
        yield from _faults(value, part, where if where != "<nil>" else "")


def _duplicates(value: list[Any], schema: Schema, where: str) -> Iterator[Cause]:
    kind, seen = schema.get("x-kubernetes-list-type"), []
    for index, each in enumerate(value):
        if kind == "set" or schema.get("uniqueItems"):
            key = each
        elif kind == "map" and isinstance(each, dict):
            key = {name: each.get(name) for name in schema.get("x-kubernetes-list-map-keys", ())}
        else:
            return
        if key in seen:
            yield Cause(f"{where}[{index}]", "FieldValueDuplicate", f"Duplicate value: {key}")
        seen.append(key)


def _rules(value: Any, schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    yield from rule_faults(value, schema, path, old)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        extra = schema.get("additionalProperties")
        for key, each in value.items():
            part = schema.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else None)
            if part is not None:
                yield from _rules(each, part, f"{path}.{key}".lstrip("."), before.get(key))
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        for index, each in enumerate(value):
            match = None
            if keys and isinstance(old, list) and isinstance(each, dict):
                match = next((b for b in old if all(b.get(k) == each.get(k) for k in keys)), None)
            yield from _rules(each, schema.get("items", {}), f"{path}[{index}]", match)
