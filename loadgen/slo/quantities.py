"""Figures as people read them: 0.0123 s is "12.3 ms", a share of 0.004 is "0.4 %"."""

from __future__ import annotations

import math

from loadgen.slo.figures import Dimension


def duration(seconds: float | None) -> str:
    """Three digits, in the unit that fits."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "∞"
    size = abs(seconds)
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if size * scale < 999.5 or (unit == "ms" and size < 9.9995):
            return f"{digits(seconds * scale)} {unit}"
    return f"{digits(seconds)} s" if size < 1000 else f"{seconds:,.0f} s"


def share(value: float | None) -> str:
    """In percent."""
    if value is None or math.isnan(value):
        return "-"
    return f"{digits(value * 100)} %"


def digits(value: float) -> str:
    """Three of them, more only before the point."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if not size:
        return "0"
    places = min(6, max(0, 2 - math.floor(math.log10(size))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float | None, scale: Dimension | str) -> str:
    """With its unit; `scale` is a figure's dimension, or "ratio"."""
    if value is None or math.isnan(value):
        return "-"
    match scale:
        case "time":
            return duration(value)
        case "share":
            return share(value)
        case "per second":
            return f"{digits(value)}/s"
        case "ratio":
            return f"{digits(value)}×"
        case _:
            return digits(value)


def span(low: float, high: float, scale: Dimension | str) -> str:
    """An interval: "12.1 ms to 13.4 ms"."""
    if scale == "time" and low <= 0 and not math.isinf(high):
        return f"up to {quantity(high, scale)}"
    if math.isinf(high):
        return f"{quantity(low, scale)} or more"
    return f"{quantity(low, scale)} to {quantity(high, scale)}"


def brief(low: float, high: float) -> str:
    """An interval of durations for a table: "12.1–13.4 ms"."""
    first, last = duration(max(low, 0.0)), duration(high)
    number, _, unit = first.partition(" ")
    return f"{number if unit == last.partition(' ')[2] or low <= 0 else first}–{last}"
