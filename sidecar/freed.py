"""Lets go of what nobody else refers to, in slices: to free a million objects at once would hold everybody up."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any, Final

_SLICE: Final = 2_000  # objects: half a millisecond
_ALONE: Final = 2  # what getrefcount says of an object that only a variable refers to
_ONE_BY_ONE: Final = (list, deque, set)
_BY_KEY: Final = (dict, OrderedDict, defaultdict)


def freed(objects: list[Any]) -> Iterator[None]:
    """Empty the list and what only it leads to; yields between slices. What others refer to is left as it is."""
    left = _SLICE
    while objects:
        one = objects.pop()
        if sys.getrefcount(one) <= _ALONE:
            kind = type(one)
            part: list[Any] = []
            if kind in _ONE_BY_ONE:
                part = [one.pop() for _ in range(min(len(one), _SLICE))]
            elif kind in _BY_KEY:
                for _ in range(min(len(one), _SLICE)):
                    part += one.popitem()
            else:
                part = gc.get_referents(one)
            if part and kind in (*_ONE_BY_ONE, *_BY_KEY) and one:
                objects.append(one)
            del one
            left -= len(part)
            objects += (other for other in part if gc.is_tracked(other))
            del part
        left -= 1
        if left <= 0:
            left = _SLICE
            yield
