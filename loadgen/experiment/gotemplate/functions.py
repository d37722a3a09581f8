"""What a template can call: Go's own functions, and those of sprig that are pure. Arguments come in sprig's order."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
import random
import re
import string
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import re2
import yaml

MAX_REPEAT = 1_000_000

_QUIET = re2.Options()
_QUIET.log_errors = False


class Misuse(Exception):
    """A function was called with what it cannot take, or is `fail`."""


def truth(value: object) -> bool:
    """As `if` decides: nil, false, 0, and what is empty are not true."""
    return bool(value) if not isinstance(value, float) else value != 0


def printed(value: object) -> str:
    """As %v prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        rows = sorted(value.items(), key=lambda each: str(each[0]))
        return "map[" + " ".join(f"{key}:{printed(each)}" for key, each in rows) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(printed(each) for each in value) + "]"
    return str(value)


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 21:
        return f"{value:.0f}" if value == int(value) else _plain(value)
    mantissa, _, power = f"{value!r}".lower().partition("e")
    if not power:
        mantissa, _, power = f"{value:.17e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa.removesuffix('.0')}e{'-' if power.startswith('-') else '+'}{abs(int(power)):02d}"


def _plain(value: float) -> str:
    text = repr(value)
    return text if "e" not in text else f"{value:.25f}".rstrip("0")


def printf(form: str, *values: object) -> str:
    """Go's verbs: %v %s %d %f %g %e %q %t %x %%, with flags, width and precision."""
    left = list(values)

    def verb(found: re.Match[str]) -> str:
        flags, width, precision, kind = found.groups()
        if kind == "%":
            return "%"
        if not left:
            return f"%!{kind}(MISSING)"
        value = left.pop(0)
        text = _verb(kind, value, flags or "", precision)
        if width:
            _bounded(int(width))
            pad = "0" if "0" in (flags or "") and "-" not in (flags or "") else " "
            text = text.ljust(int(width)) if "-" in (flags or "") else text.rjust(int(width), pad)
        return text

    return re.sub(r"%([-+# 0]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])", verb, form)


def _verb(kind: str, value: object, flags: str, precision: str | None) -> str:
    sign = "+" if "+" in flags else ""
    match kind:
        case "v" | "s":
            text = printed(value)
            return text[: int(precision)] if precision is not None and kind == "s" else text
        case "q":
            return json.dumps(printed(value), ensure_ascii=False)
        case "d":
            return f"{int(_number(value)):{sign}d}"
        case "f" | "F" | "e" | "g":
            return f"{float(_number(value)):{sign}.{precision if precision is not None else 6}{kind}}"
        case "t":
            return printed(bool(value))
        case "x" | "X":
            return f"{value:{kind}}" if isinstance(value, int) else printed(value).encode().hex()
        case "T":
            return kind_of(value)
    raise Misuse(f"%{kind} is not known")


def _number(value: object) -> int | float:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        try:
            return int(value, 10)
        except ValueError:
            try:
                return float(value)
            except ValueError:
                raise Misuse(f"{value!r} is not a number") from None
    raise Misuse(f"{printed(value)!r} is not a number")


def _whole(value: object) -> int:
    return int(_number(value))


def kind_of(value: object) -> str:
    """Go's reflect.Kind of what YAML and JSON hold."""
    if value is None:
        return "invalid"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "map" if isinstance(value, Mapping) else "slice"


def _compare(one: object, other: object) -> tuple[Any, Any]:
    if isinstance(one, str) and isinstance(other, str):
        return one, other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one, other
    raise Misuse(f"{printed(one)!r} and {printed(other)!r} cannot be compared")


def _equal(one: object, *others: object) -> bool:
    if not others:
        raise Misuse("takes at least two values")
    return any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in others)


def _index(value: object, *keys: object) -> object:
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


def _slice(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] :] if bounds else value


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping | list | tuple):
        return len(value)
    raise Misuse(f"{printed(value)!r} has no length")


def _fail(message: object) -> object:
    raise Misuse(printed(message))


def _required(message: object, value: object) -> object:
    if value is None or value == "":
        raise Misuse(printed(message))
    return value


def _dict(*pairs: object) -> dict[str, object]:
    values = [*pairs, ""] if len(pairs) % 2 else pairs
    return {printed(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _merged(over: Mapping[str, Any], *under: Mapping[str, Any]) -> dict[str, Any]:
    """What comes first wins, as `merge`."""
    made = dict(over)
    for one in under:
        for key, value in one.items():
            if key not in made or made[key] in (None, "", 0, False):
                made[key] = value
            elif isinstance(made[key], Mapping) and isinstance(value, Mapping):
                made[key] = _merged(made[key], value)
    return made


def _overwritten(under: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(under)
    for one in over:
        for key, value in one.items():
            below = made.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            made[key] = _overwritten(below, value) if both else value  # type: ignore[arg-type]
    return made


def _bounded(number: int) -> int:
    if abs(number) > MAX_REPEAT:
        raise Misuse(f"{number} is too much: at most {MAX_REPEAT:,}")
    return number


def _range(*bounds: int) -> list[int]:
    made = range(*bounds)
    if len(made) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} numbers")
    return list(made)


def _indent(width: int, text: str) -> str:
    if _bounded(width) * (text.count("\n") + 1) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} characters")
    pad = " " * width
    return pad + text.replace("\n", "\n" + pad)


def _repeat(count: int, text: str) -> str:
    if count * len(text) > MAX_REPEAT:
        raise Misuse(f"more than {MAX_REPEAT:,} characters")
    return text * count


def _until(count: int) -> list[int]:
    return _range(0, count, 1 if count >= 0 else -1)


def _to_yaml(value: object) -> str:
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def _quote(*values: object) -> str:
    return " ".join(json.dumps(printed(each), ensure_ascii=False) for each in values if each is not None)


def _squote(*values: object) -> str:
    return " ".join(f"'{printed(each)}'" for each in values if each is not None)


def _pattern(text: str) -> Any:
    """RE2's, as in Go: no pattern takes long."""
    try:
        return re2.compile(text, options=_QUIET)
    except re2.error as error:
        raise Misuse(f"regular expression {text!r}: {error}") from None


def _replace_all(pattern: str, text: str, by: str) -> str:
    """Go's $1 and ${name} in the replacement."""

    def expanded(found: Any) -> str:
        def part(one: re.Match[str]) -> str:
            name = one[1] or one[2]
            try:
                return found.group(int(name) if name.isdecimal() else name) or ""
            except (IndexError, LookupError):
                return ""

        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", part, by)

    made: str = _pattern(pattern).sub(expanded, text)
    return made


def _random_text(letters: str) -> Callable[[int], str]:
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


def _date(layout: str, at: object) -> str:
    """`layout` shows how Go's reference time would be written."""
    if not isinstance(at, datetime.datetime):
        at = datetime.datetime.fromtimestamp(float(_number(at)), datetime.UTC)
    return at.strftime(_REFERENCE.sub(lambda found: _LAYOUT[found[0]], layout.replace("%", "%%")))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _round(value: object, digits: int) -> float:
    scale: float = 10.0**digits
    return math.floor(float(_number(value)) * scale + 0.5) / scale


def _folded(step: Callable[[Any, Any], Any], convert: Callable[[object], int | float]) -> Callable[..., object]:
    def fold(first: object, *rest: object) -> object:
        made = convert(first)
        for each in rest:
            made = step(made, convert(each))
        return made

    return fold


def _divided(one: int, other: int) -> int:
    if other == 0:
        raise Misuse("division by zero")
    return int(one / other) if one * other < 0 else one // other


def _pluck(key: str, *maps: Mapping[str, object]) -> list[object]:
    return [one[key] for one in maps if key in one]


_GO: dict[str, Callable[..., object]] = {
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda one, other: not _equal(one, other),
    "lt": lambda one, other: (lambda pair: pair[0] < pair[1])(_compare(one, other)),
    "le": lambda one, other: (lambda pair: pair[0] <= pair[1])(_compare(one, other)),
    "gt": lambda one, other: (lambda pair: pair[0] > pair[1])(_compare(one, other)),
    "ge": lambda one, other: (lambda pair: pair[0] >= pair[1])(_compare(one, other)),
    "index": _index,
    "slice": _slice,
    "len": _length,
    "print": lambda *values: "".join(printed(each) for each in values),
    "println": lambda *values: " ".join(printed(each) for each in values) + "\n",
    "printf": printf,
    "urlquery": lambda *values: urllib.parse.quote_plus("".join(printed(each) for each in values)),
    "html": lambda text: (
        printed(text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&#34;")
        .replace("'", "&#39;")
    ),
    "js": lambda text: json.dumps(printed(text))[1:-1],
}
_DEFAULTS: dict[str, Callable[..., object]] = {
    "default": lambda fallback, value=None: value if truth(value) else fallback,
    "empty": lambda value: not truth(value),
    "coalesce": lambda *values: next((each for each in values if truth(each)), None),
    "ternary": lambda yes, no, test: yes if truth(test) else no,
    "all": lambda *values: all(truth(each) for each in values),
    "any": lambda *values: any(truth(each) for each in values),
    "fail": _fail,
    "required": _required,
    "kindOf": kind_of,
    "kindIs": lambda kind, value: kind_of(value) == kind,
    "typeOf": lambda value: {"map": "map[string]interface {}", "slice": "[]interface {}", "invalid": "<nil>"}.get(
        kind_of(value), kind_of(value)
    ),
    "deepEqual": lambda one, other: one == other,
}
_TEXTS: dict[str, Callable[..., object]] = {
    "lower": lambda text: printed(text).lower(),
    "upper": lambda text: printed(text).upper(),
    "title": lambda text: printed(text).title(),
    "trim": lambda text: printed(text).strip(),
    "trimAll": lambda letters, text: printed(text).strip(letters),
    "trimPrefix": lambda prefix, text: printed(text).removeprefix(prefix),
    "trimSuffix": lambda suffix, text: printed(text).removesuffix(suffix),
    "trunc": lambda size, text: text[:size] if size >= 0 else text[size:],
    "abbrev": lambda size, text: text if len(text) <= size else text[: max(0, size - 3)] + "...",
    "substr": lambda start, end, text: text[max(start, 0) : end if end >= 0 else None],
    "replace": lambda old, new, text: printed(text).replace(old, new),
    "contains": lambda part, text: part in printed(text),
    "hasPrefix": lambda prefix, text: printed(text).startswith(prefix),
    "hasSuffix": lambda suffix, text: printed(text).endswith(suffix),
    "quote": _quote,
    "squote": _squote,
    "cat": lambda *values: " ".join(printed(each) for each in values if each is not None),
    "indent": _indent,
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "repeat": _repeat,
    "nospace": lambda text: re.sub(r"\s", "", printed(text)),
    "join": lambda by, values: by.join(printed(each) for each in values),
    "split": lambda by, text: {f"_{number}": part for number, part in enumerate(text.split(by))},
    "splitList": lambda by, text: text.split(by),
    "sortAlpha": lambda values: sorted(printed(each) for each in values),
    "toString": printed,
    "toStrings": lambda values: [printed(each) for each in values],
    "regexMatch": lambda pattern, text: _pattern(pattern).search(text) is not None,
    "regexFind": lambda pattern, text: (lambda found: found[0] if found else "")(_pattern(pattern).search(text)),
    "regexFindAll": lambda pattern, text, most: [one[0] for one in _pattern(pattern).finditer(text)][
        : most if most >= 0 else None
    ],
    "regexReplaceAll": _replace_all,
    "regexReplaceAllLiteral": lambda pattern, text, by: _pattern(pattern).sub(lambda _: by, text),
    "b64enc": lambda text: base64.b64encode(printed(text).encode()).decode(),
    "b64dec": lambda text: base64.b64decode(text).decode(),
    "sha256sum": lambda text: hashlib.sha256(printed(text).encode()).hexdigest(),
    "randAlphaNum": _random_text(string.ascii_letters + string.digits),
    "randAlpha": _random_text(string.ascii_letters),
    "randNumeric": _random_text(string.digits),
}
_NUMBERS: dict[str, Callable[..., object]] = {
    "add": _folded(lambda one, other: one + other, _whole),
    "add1": lambda value: _whole(value) + 1,
    "sub": _folded(lambda one, other: one - other, _whole),
    "mul": _folded(lambda one, other: one * other, _whole),
    "div": _folded(_divided, _whole),
    "mod": lambda one, other: int(math.fmod(_whole(one), _whole(other))),
    "addf": _folded(lambda one, other: one + other, lambda value: float(_number(value))),
    "subf": _folded(lambda one, other: one - other, lambda value: float(_number(value))),
    "mulf": _folded(lambda one, other: one * other, lambda value: float(_number(value))),
    "divf": _folded(lambda one, other: one / other, lambda value: float(_number(value))),
    "max": lambda *values: max(_whole(each) for each in values),
    "min": lambda *values: min(_whole(each) for each in values),
    "floor": lambda value: float(math.floor(_number(value))),
    "ceil": lambda value: float(math.ceil(_number(value))),
    "round": _round,
    "int": _whole,
    "int64": _whole,
    "float64": lambda value: float(_number(value)),
    "atoi": _whole,
    "until": _until,
    "untilStep": _range,
    "seq": lambda *bounds: " ".join(map(str, _range(bounds[0] if len(bounds) > 1 else 1, bounds[-1] + 1))),
}
_COLLECTIONS: dict[str, Callable[..., object]] = {
    "list": lambda *values: list(values),
    "dict": _dict,
    "get": lambda value, key: value.get(key, ""),
    "hasKey": lambda value, key: key in value,
    "set": lambda value, key, each: {**value, key: each},
    "unset": lambda value, key: {name: each for name, each in value.items() if name != key},
    "keys": lambda *maps: [key for one in maps for key in one],
    "values": lambda value: list(value.values()),
    "pick": lambda value, *keys: {key: value[key] for key in keys if key in value},
    "omit": lambda value, *keys: {key: each for key, each in value.items() if key not in keys},
    "pluck": _pluck,
    "merge": _merged,
    "mergeOverwrite": _overwritten,
    "dig": lambda *path: _dig(path),
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
    "rest": lambda values: values[1:],
    "initial": lambda values: values[:-1],
    "append": lambda values, each: [*values, each],
    "prepend": lambda values, each: [each, *values],
    "concat": lambda *lists: [each for one in lists for each in one],
    "has": lambda each, values: each in values,
    "without": lambda values, *unwanted: [each for each in values if each not in unwanted],
    "uniq": lambda values: [each for number, each in enumerate(values) if each not in values[:number]],
    "compact": lambda values: [each for each in values if truth(each)],
    "reverse": lambda values: list(reversed(values)),
    "toJson": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=printed),
    "toRawJson": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=printed),
    "toPrettyJson": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=printed),
    "fromJson": lambda text: json.loads(text),
    "toYaml": _to_yaml,
    "fromYaml": lambda text: yaml.load(text, Loader=yaml.CSafeLoader),
    "now": _now,
    "date": _date,
    "unixEpoch": lambda at: str(int(at.timestamp())),
}


def _dig(path: tuple[Any, ...]) -> object:
    *keys, fallback, value = path
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return fallback
        value = value[key]
    return value


FUNCTIONS: dict[str, Callable[..., object]] = {**_GO, **_DEFAULTS, **_TEXTS, **_NUMBERS, **_COLLECTIONS}
