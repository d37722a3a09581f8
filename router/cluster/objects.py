"""Looking into Kubernetes objects, which are plain dicts of any shape: what is not there, or odd, reads as empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


def part(obj: Any, *path: str | int) -> Any:
    """What lies at the end of the path; None where the path breaks off."""
    for step in path:
        if isinstance(step, int):
            obj = obj[step] if isinstance(obj, Sequence) and not isinstance(obj, str) and -1 < step < len(obj) else None
        else:
            obj = obj.get(step) if isinstance(obj, Mapping) else None
    return obj


def text(obj: Any, *path: str | int) -> str:
    found = part(obj, *path)
    return found if isinstance(found, str) else ""


def mapping(obj: Any, *path: str | int) -> Object:
    found = part(obj, *path)
    return found if isinstance(found, Mapping) else {}


def mappings(obj: Any, *path: str | int) -> list[Object]:
    """The mappings in a list; entries of other shapes are left out."""
    found = part(obj, *path)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []


def whole(obj: Any, *path: str | int) -> int | None:
    """A whole number; JSON's true is none."""
    found = part(obj, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
