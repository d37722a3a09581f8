"""What functions of templates do that takes more than a line."""

from __future__ import annotations

import datetime
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import re2
import yaml

from loadgen.experiment.gotemplate.values import MAX_REPEAT, Misuse, bounded, number, printed

_QUIET = re2.Options()
_QUIET.log_errors = False


def comparable(one: object, other: object) -> tuple[Any, Any]:
    if isinstance(one, str) and isinstance(other, str):
        return one, other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one, other
    raise Misuse(f"{printed(one)!r} and {printed(other)!r} cannot be compared")


def equal(one: object, *others: object) -> bool:
    if not others:
        raise Misuse("takes at least two values")
    return any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in others)


def indexed(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise Misuse(f"index {printed(key)} is out of range")
            value = value[key]
        else:
            raise Misuse(f"{printed(value)!r} cannot be indexed")
    return value


def part(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] :] if bounds else value


def length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping | list | tuple):
        return len(value)
    raise Misuse(f"{printed(value)!r} has no length")


def fail(message: object) -> object:
    raise Misuse(printed(message))


def required(message: object, value: object) -> object:
    if value is None or value == "":
        raise Misuse(printed(message))
    return value


def mapping(*pairs: object) -> dict[str, object]:
    values = [*pairs, ""] if len(pairs) % 2 else pairs
    return {printed(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def merged(over: Mapping[str, Any], *under: Mapping[str, Any]) -> dict[str, Any]:
    """What comes first wins, as `merge`."""
    made = dict(over)
    for one in under:
        for key, value in one.items():
            if key not in made or made[key] in (None, "", 0, False):
                made[key] = value
            elif isinstance(made[key], Mapping) and isinstance(value, Mapping):
                made[key] = merged(made[key], value)
    return made


def overwritten(under: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(under)
    for one in over:
        for key, value in one.items():
            below = made.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            made[key] = overwritten(below, value) if both else value  # type: ignore[arg-type]
    return made


def numbers(*bounds: int) -> list[int]:
    made = range(*bounds)
    if len(made) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} numbers")
    return list(made)


def indent(width: int, text: str) -> str:
    if bounded(width) * (text.count("\n") + 1) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} characters")
    pad = " " * width
    return pad + text.replace("\n", "\n" + pad)


def repeat(count: int, text: str) -> str:
    if count * len(text) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} characters")
    return text * count


def until(count: int) -> list[int]:
    return numbers(0, count, 1 if count >= 0 else -1)


def to_yaml(value: object) -> str:
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def quote(*values: object) -> str:
    return " ".join(json.dumps(printed(each), ensure_ascii=False) for each in values if each is not None)


def squote(*values: object) -> str:
    return " ".join(f"'{printed(each)}'" for each in values if each is not None)


def compiled(text: str) -> Any:
    """RE2's, as in Go: no pattern takes long."""
    try:
        return re2.compile(text, options=_QUIET)
    except re2.error as error:
        raise Misuse(f"regular expression {text!r}: {error}") from None


def first_match(pattern: str, text: str) -> str:
    found = compiled(pattern).search(text)
    return str(found[0]) if found else ""


def replace_all(pattern: str, text: str, by: str) -> str:
    """Go's $1 and ${name} in the replacement."""

    def expanded(found: Any) -> str:
        def part(one: re.Match[str]) -> str:
            name = one[1] or one[2]
            try:
                return found.group(int(name) if name.isdecimal() else name) or ""
            except (IndexError, LookupError):
                return ""

        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", part, by)

    made: str = compiled(pattern).sub(expanded, text)
    return made


def random_text(letters: str) -> Callable[[int], str]:
    return lambda count: "".join(random.choices(letters, k=min(count, MAX_REPEAT)))


_LAYOUT = {
    "2006": "%Y",
    "January": "%B",
    "Jan": "%b",
    "Monday": "%A",
    "Mon": "%a",
    "01": "%m",
    "02": "%d",
    "15": "%H",
    "04": "%M",
    "05": "%S",
    "06": "%y",
    "03": "%I",
    "PM": "%p",
    "MST": "%Z",
    "Z07:00": "Z",
}
_REFERENCE = re.compile("|".join(sorted(_LAYOUT, key=len, reverse=True)))


def date(layout: str, at: object) -> str:
    """`layout` shows how Go's reference time would be written."""
    if not isinstance(at, datetime.datetime):
        at = datetime.datetime.fromtimestamp(float(number(at)), datetime.UTC)
    return at.strftime(_REFERENCE.sub(lambda found: _LAYOUT[found[0]], layout.replace("%", "%%")))


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def rounded(value: object, digits: int) -> float:
    scale: float = 10.0**digits
    return math.floor(float(number(value)) * scale + 0.5) / scale


def folded(step: Callable[[Any, Any], Any], convert: Callable[[object], int | float]) -> Callable[..., object]:
    def fold(first: object, *rest: object) -> object:
        made = convert(first)
        for each in rest:
            made = step(made, convert(each))
        return made

    return fold


def divided(one: int, other: int) -> int:
    if other == 0:
        raise Misuse("division by zero")
    return int(one / other) if one * other < 0 else one // other


def pluck(key: str, *maps: Mapping[str, object]) -> list[object]:
    return [one[key] for one in maps if key in one]


def dig(path: tuple[Any, ...]) -> object:
    *keys, fallback, value = path
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return fallback
        value = value[key]
    return value
