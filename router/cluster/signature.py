"""Iter8's fingerprint of a version's content: of the specs of its resources, not of labels, annotations or status.

The number is that of mitchellh/hashstructure (format 2, FNV-1 64 bit), so that metrics keyed by it stay comparable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from router.cluster.objects import Object

_OFFSET = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_MASK = (1 << 64) - 1


def signature(objects: Iterable[Object | None]) -> str:
    """Of a version's objects in their order; empty while one of them does not exist, as in Iter8."""
    found = list(objects)
    if any(one is None for one in found):
        return ""
    return str(hashed([one.get("spec") for one in found if one is not None]))


def hashed(value: Any) -> int:
    """The hash of anything that JSON can hold."""
    match value:
        case None:
            return _fnv(struct.pack("<q", 0))
        case bool():
            return _fnv(b"\1" if value else b"\0")
        case int():
            return _fnv(struct.pack("<Q", value & _MASK))
        case float():
            return _fnv(struct.pack("<d", value))
        case str():
            return _fnv(value.encode("utf-8", "surrogatepass"))
        case Mapping():
            sum_of_pairs = 0
            for key, one in value.items():
                sum_of_pairs ^= _joined(hashed(key), hashed(one))  # xor: the order of keys must not matter
            return _fnv(struct.pack("<Q", sum_of_pairs))
        case list() | tuple():
            result = 0
            for one in value:
                result = _joined(result, hashed(one))
            return result
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _joined(first: int, second: int) -> int:
    return _fnv(struct.pack("<QQ", first, second))


def _fnv(data: bytes) -> int:
    result = _OFFSET
    for byte in data:
        result = (result * _PRIME & _MASK) ^ byte
    return result
