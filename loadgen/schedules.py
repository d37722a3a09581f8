"""Schedules as people write them: "ramp 50->200 over 30s, hold 200 for 5m" in, stages out, all mistakes at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from loadgen.plan import MAX_DURATION, Stage
from router.problem import Problem

FORMS = (
    "hold RATE for TIME, ramp RATE->RATE over TIME, step RATE->RATE by RATE every TIME, "
    "spike RATE->RATE at TIME for TIME within TIME"
)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_NUMBER = r"(\d+(?:\.\d+)?)(?:/s)?"
_TIME = r"((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)"
_ARROW = r"\s*(?:->|\.\.|to)\s*"
_MOST_STEPS = 10_000


def seconds(text: str) -> float:
    """Of "30s", "1m30s", "500ms". Raises ValueError with a text for people."""
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit (ms, s, m, h), such as 30s or 1m30s")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def stages(text: str, where: str = "--schedule") -> tuple[Stage, ...] | tuple[Problem, ...]:
    """Stages, or what is wrong with each part."""
    made: list[Stage] = []
    problems: list[Problem] = []
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    for part in parts:
        for pattern, build in _PARTS:
            if match := pattern.fullmatch(part.lower()):
                try:
                    made += build(*match.groups())
                except ValueError as error:
                    problems.append(Problem(where, "", f"{part!r}: {error}"))
                break
        else:
            problems.append(Problem(where, "", f"{part!r} is no part of a schedule", f"there are: {FORMS}"))
    if problems:
        return tuple(problems)
    if not made:
        return (Problem(where, "", "the schedule is empty", f"write parts of it: {FORMS}"),)
    if not any(each.start or each.end for each in made):
        return (Problem(where, "", "the rate is 0 all the time", "let a part of it have a rate"),)
    if (whole := sum(each.duration for each in made)) > MAX_DURATION:
        return (Problem(where, "", f"it lasts {whole:,.0f} s", "at most 7 days are possible"),)
    return tuple(made)


def _hold(rate: str, time: str) -> list[Stage]:
    return [Stage(seconds(time), float(rate), float(rate))]


def _ramp(start: str, end: str, time: str) -> list[Stage]:
    return [Stage(seconds(time), float(start), float(end))]


def _step(start: str, end: str, by: str, every: str) -> list[Stage]:
    first, last, width = float(start), float(end), float(by)
    if width <= 0:
        raise ValueError("steps need a height above 0")
    count = math.floor(abs(last - first) / width + 1e-9) + 1
    if count > _MOST_STEPS:
        raise ValueError(f"{count:,} steps are too many: at most {_MOST_STEPS:,}")
    rates = [first + (width if last >= first else -width) * number for number in range(count)]
    return [Stage(seconds(every), rate, rate) for rate in rates]


def _spike(base: str, top: str, at: str, time: str, within: str) -> list[Stage]:
    begin, length, whole = seconds(at), seconds(time), seconds(within)
    if begin + length > whole:
        raise ValueError(f"the spike ends after {begin + length:g} s, and the whole lasts {whole:g} s")
    parts = ((begin, base), (length, top), (whole - begin - length, base))
    return [Stage(duration, float(rate), float(rate)) for duration, rate in parts if duration > 0]


_PARTS: tuple[tuple[re.Pattern[str], Callable[..., list[Stage]]], ...] = (
    (re.compile(rf"(?:hold|constant)\s+{_NUMBER}\s+for\s+{_TIME}"), _hold),
    (re.compile(rf"ramp\s+{_NUMBER}{_ARROW}{_NUMBER}\s+over\s+{_TIME}"), _ramp),
    (re.compile(rf"step\s+{_NUMBER}{_ARROW}{_NUMBER}\s+by\s+{_NUMBER}\s+every\s+{_TIME}"), _step),
    (re.compile(rf"spike\s+{_NUMBER}{_ARROW}{_NUMBER}\s+at\s+{_TIME}\s+for\s+{_TIME}\s+within\s+{_TIME}"), _spike),
)


def trace(path: Path) -> tuple[float, ...] | tuple[Problem, ...]:
    """Of a file with a time in seconds on each line (of several columns, the first), counted from the first one.

    Lines that begin with # and a heading are passed over; times may be Unix times.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        return (Problem(str(path), "", f"cannot be read: {reason}"),)
    times: list[float] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        first = re.split(r"[,;\s]", line.strip(), maxsplit=1)[0]
        if not first or first.startswith("#"):
            continue
        try:
            value = float(first)
            if not math.isfinite(value):
                raise ValueError
        except ValueError:
            if times or problems or number > 1:
                problems.append(Problem(f"{path}:{number}", "", f"{first!r} is not a time in seconds"))
            continue
        if times and value < times[-1]:
            problems.append(
                Problem(f"{path}:{number}", "", f"{first} is earlier than the line before", "sort the file")
            )
            continue
        times.append(value)
    if problems:
        return tuple(problems[:20])
    if not times:
        return (Problem(str(path), "", "holds no times", "write one in seconds on each line"),)
    if times[-1] - times[0] > MAX_DURATION:
        return (Problem(str(path), "", "spans more than 7 days"),)
    return tuple(each - times[0] for each in times)
