"""The small values of a task's parameters: Go durations, percentiles, texts that YAML took for numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from loadgen.experiment.metric import MetricFault, built_in, normal
from loadgen.plan import MAX_DURATION
from router.values import fault, shown

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


def seconds(value: object) -> float:
    """Go's durations: 1m30s, 1.5h, 200ms."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise fault(f"{shown(value)} is not a duration", "write a number and a unit, such as 500ms, 30s or 1m30s")
    if isinstance(value, int | float):
        if value == 0:
            return 0.0
        raise fault(f"{value} has no unit", f"write '{value}s' for seconds or '{value}ms' for milliseconds")
    if value == "0":
        return 0.0
    if not _DURATION.fullmatch(value):
        raise fault(f"{shown(value)} is not a duration", "write a number and a unit, such as 500ms, 30s or 1m30s")
    found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if found > MAX_DURATION:
        raise fault(f"{shown(value)} is too long", "at most 7 days are possible")
    return found


def _positive(value: object) -> float:
    found = seconds(value)
    if found <= 0:
        raise fault(f"must be longer than zero, not {shown(value)}", "write for example 5s")
    return found


def _percentile(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"{shown(value)} is not a percentile", "write a number, such as 99.9")
    if not 0 < value <= 100:
        raise fault(f"there is no percentile {shown(value)}", "give more than 0 and at most 100")
    return float(value)


def _plain(value: object) -> str:
    """Helm and YAML make numbers and booleans of texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return shown(value)
    raise fault(f"must be text, not {shown(value)}", "write a text")


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping of names to texts, not {shown(value)}", "write name: value")
    found: dict[str, str] = {}
    wrong: list[InitErrorDetails] = []
    for name, each in value.items():
        try:
            found[str(name)] = _plain(each)
        except PydanticCustomError as error:
            wrong.append(InitErrorDetails(type=error, loc=(str(name),), input=None))
    if wrong:
        raise ValidationError.from_exception_data("texts", wrong)
    return found


def _headers(value: object) -> dict[str, str]:
    found = _texts(value)
    for name, text in found.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise fault(f"{shown(name)} is not a header name", "use letters, digits and '-'")
        if any(ord(one) < 32 and one != "\t" for one in text):
            raise fault(f"the value of {name} contains a control character", "remove line breaks")
    return found


def web_address(value: str) -> str:
    """An http(s) address that can be asked."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise fault(f"{shown(value)} is not an address: {error}", "write http://HOST:PORT/PATH") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise fault(f"{shown(value)} is not an address", "write http://HOST:PORT/PATH or https://HOST/PATH")
    return value


def _metric(value: str) -> str:
    try:
        built_in(value)
        return normal(value)
    except MetricFault as error:
        raise fault(error.what, error.hint) from None


Span = Annotated[float, BeforeValidator(_positive)]
"""A duration longer than zero."""
SpanOrZero = Annotated[float, BeforeValidator(seconds)]
Percentile = Annotated[float, BeforeValidator(_percentile)]
PlainText = Annotated[str, BeforeValidator(_plain)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]
HeaderTexts = Annotated[dict[str, str], BeforeValidator(_headers)]
WebAddress = Annotated[str, Strict(), AfterValidator(web_address)]
Metric = Annotated[str, Strict(), AfterValidator(_metric)]
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000_000)]
Amount = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Anything = Any
