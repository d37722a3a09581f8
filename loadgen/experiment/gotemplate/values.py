"""Values as Go sees and prints them: %v, the verbs of printf, kinds, what is true."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

MAX_REPEAT = 1_000_000


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
            bounded(int(width))
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
            return f"{int(number(value)):{sign}d}"
        case "f" | "F" | "e" | "g":
            return f"{float(number(value)):{sign}.{precision if precision is not None else 6}{kind}}"
        case "t":
            return printed(bool(value))
        case "x" | "X":
            return f"{value:{kind}}" if isinstance(value, int) else printed(value).encode().hex()
        case "T":
            return kind_of(value)
    raise Misuse(f"%{kind} is not known")


def number(value: object) -> int | float:
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


def whole(value: object) -> int:
    return int(number(value))


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


def bounded(number: int) -> int:
    if abs(number) > MAX_REPEAT:
        raise Misuse(f"{number} is too much: at most {MAX_REPEAT:,}")
    return number
