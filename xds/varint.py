"""The two shapes that protobuf's wire format is made of: base-128 numbers, and fields that carry their length.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Write a number >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read the number that begins at `at`, and tell where it ends.

    Raises IndexError when it does not end within 64 bits.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:  # a number as long as a message would be built anew with each of its bytes
            raise IndexError


def delimited(number: int, value: bytes) -> bytes:
    """Write a string, bytes or message field."""
    return varint(number << 3 | 2) + varint(len(value)) + value
