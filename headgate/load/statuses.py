"""Which HTTP statuses are errors, from `--error-status`: 400-, 500-599, 429, and !404 for one that is none."""

from __future__ import annotations

import re

from headgate.load.amount import Mistakes
from loadgen.plan import Range

_FIRST, _LAST = 100, 999
_PART = re.compile(r"(!?)\s*(?:(\d{3})(?:\s*(-)\s*(\d{3})?)?|-\s*(\d{3}))")


def errors_of(texts: tuple[str, ...], mistakes: Mistakes) -> tuple[Range, ...]:
    """What is said with `!` is taken from the rest, which is 400- where nothing else is said."""
    errors: set[int] = set()
    spared: set[int] = set()
    for text in (part.strip() for each in texts for part in each.split(",")):
        found = _PART.fullmatch(text)
        codes = range(0)
        if found is not None:
            lower = int(found[2] or _FIRST)
            codes = range(lower, int(found[4] or found[5] or (_LAST if found[3] else lower)) + 1)
        if found is None or not codes or codes[0] < _FIRST:
            mistakes.add("--error-status", f"{text!r} is no range of statuses", "write 500-599, 400-, 429 or !404")
        else:
            (spared if found[1] else errors).update(codes)
    return _ranges((errors or set(range(400, _LAST + 1))) - spared)


def _ranges(codes: set[int]) -> tuple[Range, ...]:
    starts = [code for code in sorted(codes) if code - 1 not in codes]
    ends = [code for code in sorted(codes) if code + 1 not in codes]
    return tuple(Range(start, None if end == _LAST else end) for start, end in zip(starts, ends, strict=True))
