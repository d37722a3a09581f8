"""Matches of Istio (HTTPMatchRequest) and of the Gateway API (HTTPRouteMatch), rewritten for a ModelRollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.cluster.objects import Object, mapping, mappings, text
from router.problem import Problem
from router.values import shown

Complain = Callable[[str, str, str], None]
"""Field, what is wrong, what to do."""

DEFAULT_MATCH: Mapping[str, Any] = {"headers": [{"name": "traffic", "exact": "test"}]}

_PATH_TYPES = {"PathPrefix": "prefix", "Exact": "exact", "RegularExpression": "regex"}
_VALUE_TYPES = {"Exact": "exact", "RegularExpression": "regex"}
_COMPARISONS = ("exact", "prefix", "regex")


def matches(raw: Any, where: str, field: str) -> tuple[list[dict[str, Any]], tuple[Problem, ...]]:
    """A list of alternatives of either form; they are told apart entry by entry."""
    problems: list[Problem] = []

    def complain(at: str, what: str, hint: str) -> None:
        problems.append(Problem(where, at, what, hint))

    if not isinstance(raw, list | tuple):
        complain(field, f"must be a list, not {shown(raw)}", "start each match with '- '")
        return [], tuple(problems)
    found = []
    for index, one in enumerate(raw):
        at = f"{field}[{index}]"
        if not isinstance(one, Mapping):
            complain(at, f"must be a mapping, not {shown(one)}", "write for example headers: {traffic: {exact: test}}")
            continue
        made = _gateway(one, at, complain) if _is_gateway(one) else _istio(one, at, complain)
        if made:
            found.append(made)
        elif not any(problem.field.startswith(at) for problem in problems):
            complain(at, "is empty and would take every request", "give at least one header, path or query parameter")
    return found, tuple(problems)


def _is_gateway(match: Object) -> bool:
    return "path" in match or isinstance(match.get("headers"), list) or isinstance(match.get("queryParams"), list)


def _istio(match: Object, at: str, complain: Complain) -> dict[str, Any]:
    made: dict[str, Any] = {}
    headers: list[dict[str, Any]] = []
    for key, value in match.items():
        field = f"{at}.{key}"
        match key:
            case "name":
                pass
            case "uri":
                if path := _string_match(value, field, complain):
                    made["path"] = path
            case "method":
                made |= _method(_string_match(value, field, complain), field, complain)
            case "headers" | "withoutHeaders":
                headers += _istio_values(value, field, complain, invert=key == "withoutHeaders")
            case "queryParams":
                if query := _istio_values(value, field, complain):
                    made["query"] = query
            case "ignoreUriCase" if value is False:
                pass
            case _:
                complain(field, f"matching on {key} is not supported", "use uri, method, headers or queryParams")
    return made | ({"headers": headers} if headers else {})


def _istio_values(raw: Any, at: str, complain: Complain, invert: bool = False) -> list[dict[str, Any]]:
    if not isinstance(raw, Mapping):
        complain(at, f"must be a mapping of names, not {shown(raw)}", "write name: {exact: value}")
        return []
    found = []
    for name, test in raw.items():
        # Istio: an empty comparison asks only that the header is there.
        how = _string_match(test, f"{at}.{name}", complain) if test else {"present": True}
        if how:
            found.append({"name": str(name), **how} | ({"invert": True} if invert else {}))
    return found


def _string_match(raw: Any, at: str, complain: Complain) -> dict[str, Any]:
    given = [(key, raw[key]) for key in _COMPARISONS if key in raw] if isinstance(raw, Mapping) else []
    if len(given) == 1 and len(mapping(raw)) == 1 and isinstance(given[0][1], str):
        return dict(given)
    complain(at, f"{shown(raw)} is not one comparison", f"give exactly one of {', '.join(_COMPARISONS)}, as text")
    return {}


def _method(how: dict[str, Any], at: str, complain: Complain) -> dict[str, Any]:
    if how and "exact" not in how:
        complain(at, "a method can only be compared exactly", "write exact: POST")
        return {}
    return {"method": how["exact"]} if how else {}


def _gateway(match: Object, at: str, complain: Complain) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in match.items():
        field = f"{at}.{key}"
        match key:
            case "path":
                kind = text(value, "type") or "PathPrefix"
                if kind in _PATH_TYPES:
                    made["path"] = {_PATH_TYPES[kind]: text(value, "value") or "/"}
                else:
                    complain(f"{field}.type", f"{kind!r} is not supported", f"use one of {', '.join(_PATH_TYPES)}")
            case "method":
                made["method"] = str(value)
            case "headers":
                made["headers"] = _gateway_values(value, field, complain)
            case "queryParams":
                made["query"] = _gateway_values(value, field, complain)
            case _:
                complain(field, f"matching on {key} is not supported", "use path, method, headers or queryParams")
    return {key: value for key, value in made.items() if value}


def _gateway_values(raw: Any, at: str, complain: Complain) -> list[dict[str, Any]]:
    found = []
    for index, one in enumerate(mappings(raw)):
        kind = text(one, "type") or "Exact"
        if kind in _VALUE_TYPES:
            found.append({"name": text(one, "name"), _VALUE_TYPES[kind]: text(one, "value")})
        else:
            hint = f"use one of {', '.join(_VALUE_TYPES)}"
            complain(f"{at}[{index}].type", f"{kind!r} is not supported", hint)
    return found
