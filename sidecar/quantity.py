"""Bytes as Kubernetes writes them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

LEAST_MEMORY: Final = 1 << 20  # of what a plugin may keep
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_QUANTITY: Final = re.compile(r"(\d{1,18})(k|M|G|Ki|Mi|Gi)?\Z")


def quantity(value: object) -> int:
    """Bytes of 67108864 or 64Mi. ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _QUANTITY.match(value) if isinstance(value, str) else None
    if found is None:
        shown = repr(value) if len(repr(value)) <= 60 else type(value).__name__
        raise ValueError(f"{shown} is no amount of memory: write for example 64Mi")
    return int(found[1]) * _UNITS[found[2] or ""]


def quantity_text(size: int) -> str:
    """In the largest unit that fits evenly."""
    for unit in ("Gi", "Mi", "Ki"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


Bytes = Annotated[int, BeforeValidator(quantity)]
