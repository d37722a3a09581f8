"""What pydantic found wrong, in our words: the fault with its value, and what to do."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from router.hints import nearest, unknown_field
from router.rules import Broken, Loc
from router.values import fault, shown

_ALSO_CALLED = {"h2c": ("http2", "http/2", "h2", "grpc"), "http1": ("http", "http/1", "http/1.1")}
"""What spelling alone would guess wrong."""


def in_our_words(model: type[BaseModel], error: ValidationError | None, broken: Iterable[Broken]) -> ValidationError:
    """One error that holds everything, each with `what` and `hint`; at most one complaint per place and fault."""
    found: dict[tuple[Loc, str], PydanticCustomError] = {}
    for detail in error.errors(include_url=False) if error else ():
        if detail["type"] == "too_short" and detail["input"]:
            continue  # the entries are there, but wrong, and have been named
        what, hint = _words(model, detail)
        found.setdefault((detail["loc"], what), fault(what, hint))
    for loc, what, hint in broken:
        found.setdefault((loc, what), fault(what, hint))
    return ValidationError.from_exception_data(
        model.__name__,
        [InitErrorDetails(type=complaint, loc=loc, input=None) for (loc, _), complaint in found.items()],
    )


def _words(model: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    kind, value, context = detail["type"], shown(detail["input"]), detail.get("ctx", {})
    match kind:
        case "headgate":
            return context["what"], context["hint"]
        case "missing":
            return "is missing", "it is required"
        case "extra_forbidden":
            name = str(detail["loc"][-1])
            return unknown_field(name, _fields_at(model, detail["loc"][:-1]))
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return f"must be a whole number, not {value}", _whole_hint(detail["input"])
        case "float_type" | "float_parsing" | "finite_number":
            quoted = isinstance(detail["input"], str)
            return (
                f"must be a number, not {value}",
                "write it without quotes" if quoted else "write digits, such as 12.5",
            )
        case "string_type":
            return f"must be text, not {value}", _text_hint(detail["input"])
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {value}", "write it without quotes"
        case "greater_than_equal":
            return f"must be at least {_bound(context['ge'])}, not {value}", "give a larger number"
        case "greater_than":
            return f"must be greater than {_bound(context['gt'])}, not {value}", "give a larger number"
        case "less_than_equal":
            return f"must be at most {_bound(context['le'])}, not {value}", "give a smaller number"
        case "enum" | "literal_error":
            return _choice(detail["input"], str(context["expected"]))
        case "too_short":
            return "is an empty list", "give at least one"
        case "too_long":
            return f"has {context['actual_length']} entries", f"at most {context['max_length']} are supported"
        case "tuple_type":
            return f"must be a list, not {value}", "start each entry on its own line with '- '"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a mapping, not {value}", "write its fields as name: value"
    return f"{value} is not accepted here", "see docs/reference.md"


def _bound(value: float) -> str:
    return str(int(value) if value == int(value) else value)


def _whole_hint(value: object) -> str:
    if isinstance(value, str):
        return "write the number without quotes"
    if isinstance(value, float):
        return "weights are relative: 1 and 3 give a quarter and three quarters"
    return "write digits only"


def _text_hint(value: object) -> str:
    if isinstance(value, bool):  # what was written is not known any more: it may have been the name "no"
        return "put it in quotes: YAML takes yes, no, on and off for true and false"
    if isinstance(value, int | float):
        return f'put it in quotes: "{shown(value)}"'
    return "write a text"


def _choice(value: object, expected: str) -> tuple[str, str]:
    known = [one.strip().strip("'") for one in expected.replace(" or ", ", ").split(",")]
    near = None
    if isinstance(value, str):
        near = next((one for one in known if value.lower() in _ALSO_CALLED.get(one, ())), None) or nearest(value, known)
    choices = ", ".join("true" if one == "True" else one for one in known)
    hint = f"did you mean {near!r}?" if near else ""
    if len(known) == 1:
        return f"must be {choices}, not {shown(value)}", hint or f"write {choices}"
    return f"{shown(value)} is not one of {choices}", hint or "use one of these"


def _fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The field names known at a place, by walking the schema's types along the location."""
    here: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
        here = _model_in(fields.get(part))
        if here is None:
            return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        if found := _model_in(inner):
            return found
    return None
