"""Paths into a manifest, guesses at what a misspelt name was meant to be, and numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def path_text(loc: Iterable[int | str]) -> str:
    """A location as Kubernetes writes it: spec.versions[1].weight."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def counted(number: int, noun: str) -> str:
    """1 error, 2 errors."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that the user probably meant."""
    lowered = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown_field(name: str, known: Sequence[str]) -> tuple[str, str]:
    """What to say of a field that nobody knows."""
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown field {name!r}", hint
