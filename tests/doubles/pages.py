"""Pages whose commands are run: a page goes in, its commands with the output that it promises come out.

In a block that begins with ```console, lines with `$ ` are commands (to be continued by a backslash or a
here-document), and what follows is their output. Other blocks are not run. `<!-- Meanwhile: WORDS -->` outside of a
block is something that others than the reader do.

Outputs are compared line by line. Ages, times, latencies and what a drain waits for may differ; of requests that were
counted by version the shares must be alike. A line `...` stands for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MEANWHILE = re.compile(r"<!-- Meanwhile: (.+?) -->")
_HERE = re.compile(r"<<'?(\w+)'?")
_SHARE = re.compile(r"(\S+): (\d+) \((\d+\.\d)%\), p50 .*")
_ALIKE = 8.0
"""Percentage points that shares of 400 requests may lie apart: more than three standard deviations."""
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r" from \S+ namespace$"), ""),  # which only newer kubectls tell
    (re.compile(r"\b(?:\d+[dhms])+\b(?: ago)?"), "AGE"),
    (re.compile(r"\b\d+(?:\.\d+)? s\b"), "AGE"),
    (re.compile(r"\bwaiting (?:for|\d).*"), "waiting"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Command:
    """Lines of the page from `at` up to `begins` are the command, from there up to `ends` its output."""

    text: str
    output: tuple[str, ...]
    at: int
    begins: int
    ends: int


@dataclass(frozen=True)
class Meanwhile:
    words: str


def steps(page: str) -> Iterator[Command | Meanwhile]:
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        if found := _MEANWHILE.fullmatch(lines[at].strip()):
            yield Meanwhile(found[1])
        elif lines[at].startswith("```"):
            runs, end = lines[at] == "```console", lines.index("```", at + 1)
            if runs:
                yield from _commands(lines, at + 1, end)
            at = end
        at += 1


def _commands(lines: list[str], at: int, end: int) -> Iterator[Command]:
    assert lines[at].startswith("$ "), f"line {at + 1}: a console block begins with a command"
    while at < end:
        begins = at + 1
        if here := _HERE.search(lines[at]):
            begins = lines.index(here[1], at) + 1
        while lines[begins - 1].endswith("\\"):
            begins += 1
        ends = next((number for number in range(begins, end) if lines[number].startswith("$ ")), end)
        text = "\n".join([lines[at][2:], *lines[at + 1 : begins]])
        yield Command(text, tuple(lines[begins:ends]), at, begins, ends)
        at = ends


def alike(promised: tuple[str, ...], seen: tuple[str, ...]) -> bool:
    """Whether what was seen is what the page promises, apart from what may differ."""
    if not promised:
        return not seen
    if promised[0] == "...":
        return any(alike(promised[1:], seen[skipped:]) for skipped in range(len(seen) + 1))
    return bool(seen) and _same(promised[0], seen[0]) and alike(promised[1:], seen[1:])


def _same(promised: str, seen: str) -> bool:
    one, other = _SHARE.fullmatch(promised), _SHARE.fullmatch(seen)
    if one and other:
        return one[1] == other[1] and abs(float(one[3]) - float(other[3])) <= _ALIKE
    return _plain(promised) == _plain(seen)


def _plain(line: str) -> str:
    for pattern, name in _VARYING:
        line = pattern.sub(name, line)
    return line.strip()
