"""The tables of docs/tasks.md, from the schema: python -m loadgen.experiment.reference KIND prints one."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from loadgen.experiment.spec import KINDS, RUN
from loadgen.experiment.tasks.grpc_settings import GRPC_DEFAULTS
from loadgen.experiment.tasks.http_settings import HTTP_DEFAULTS
from loadgen.experiment.tasks.settings import RunSettings

HEAD = ("| parameter | default | meaning |", "|---|---|---|")
_SHOWN = {"percentiles": "50, 75, 90, 95, 99, 99.9", "max_lag": "10ms", "max_unknown": "0.001"}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "http": {**HTTP_DEFAULTS, **_SHOWN, "method": "GET, or POST with a body", "connections": "as needed"},
    "grpc": {**GRPC_DEFAULTS, **_SHOWN, "spacing": "constant", "client": "own"},
}
_SPANS = ("timeout", "connect-timeout", "grace", "settle")


def table(kind: str) -> tuple[str, ...]:
    """A row for each parameter of a task, nested ones with dots."""
    model = RunSettings if kind == RUN else KINDS[kind]
    return (*HEAD, *_rows(model, "", _DEFAULTS.get(kind, {})))


def _rows(model: type[BaseModel], prefix: str, defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        shown = prefix + (field.alias or name)
        inner, many = _model_in(field.annotation)
        if name == "endpoints":
            yield f"| `{shown}` | | {field.description} Each takes the parameters above. |"
        elif inner is not None:
            yield f"| `{shown}` | {_default(name, field, defaults)} | {field.description} |"
            yield from _rows(inner, f"{shown}[]." if many else f"{shown}.", {})
        else:
            yield f"| `{shown}` | {_default(name, field, defaults)} | {field.description} |"


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    many = typing.get_origin(annotation) in (tuple, dict)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in typing.get_args(annotation):
        found, deeper = _model_in(inner)
        if found is not None:
            return found, many or deeper
    return None, many


def _default(name: str, field: FieldInfo, defaults: Mapping[str, Any]) -> str:
    if field.is_required():
        return "required"
    value = defaults.get(name, field.default)
    if value is None or value == () or value == "" or field.default_factory is not None:
        return ""
    if name == "error_ranges":
        return "from 400"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float) and (field.alias or name) in _SPANS:
        return f"{value:g}s" if value < 3600 else f"{value / 3600:g}h"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for kind in sys.argv[1:] or [*KINDS, RUN]:
        print(f"{kind}\n", *table(kind), sep="\n", end="\n\n")
