"""CEL rules of a CRD (x-kubernetes-validations), by cel-python."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

from kubedouble.errors import Cause
from kubedouble.metadata import invalid_value

_TRANSITION = re.compile(r"\boldSelf\b")
_RESERVED = (
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return",
)  # fmt: skip
_UNESCAPED = re.compile(rf"\.({'|'.join(_RESERVED)})\b")


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _escaped(value: Any) -> Any:
    """Fields whose names CEL reserves are known to rules as __name__."""
    if isinstance(value, dict):
        return {f"__{key}__" if key in _RESERVED else key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def compile_fault(rule: str) -> str | None:
    if found := _UNESCAPED.search(rule):
        return f"compilation failed: undefined field '{found[1]}'"
    try:
        _program(rule)
    except CELParseError as fault:
        return f"compilation failed: {fault}"
    return None


def rule_faults(value: Any, schema: dict[str, Any], path: str, old: Any) -> Iterator[Cause]:
    for rule in schema.get("x-kubernetes-validations", ()):
        transition = bool(_TRANSITION.search(rule["rule"]))
        if transition and old is None:
            continue
        names = {"self": json_to_cel(_escaped(value))}
        if transition:
            names["oldSelf"] = json_to_cel(_escaped(old))
        where = path + rule.get("fieldPath", "")
        try:
            holds = bool(_program(rule["rule"]).evaluate(names))
        except CELEvalError as fault:
            yield invalid_value(where, value, f"rule evaluation error: {fault.args[0]}")
            continue
        if not holds:
            message = _message(rule, names) or f"failed rule: {rule['rule']}"
            reason = rule.get("reason", "FieldValueInvalid")
            shown = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
            yield Cause(where or "<nil>", reason, f'Invalid value: "{shown.get(type(value), "number")}": {message}')


def _message(rule: dict[str, Any], names: dict[str, Any]) -> str:
    if "messageExpression" in rule:
        try:
            return str(_program(rule["messageExpression"]).evaluate(names))
        except CELEvalError:
            pass
    return str(rule.get("message", ""))
