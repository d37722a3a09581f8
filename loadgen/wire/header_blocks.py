"""Header blocks of HTTP/2, without state: `encode` makes ours, `Blocks` reads a server's.

A client that allows servers a table of 0 bytes (SETTINGS_HEADER_TABLE_SIZE) gets blocks that mean the same each time,
on every connection. So a block is read once; the next time it is a look-up, and of a new block only those fields
are read that are new. Ours leave the server's table alone and can be made before the first request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

MOST = 256 * 1024  # bytes of a block, written out or not
_CACHED_BLOCKS = 512
_CACHED_FIELDS = 4096
_LONGEST_CACHED = 256  # bytes of a field

_STATIC: Final = {(bytes(name), bytes(value)): at for at, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1)}
_STATIC_NAMES: Final = {bytes(name): at for at, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}


class Unreadable(ValueError):
    """A block that is no HPACK, or more than we take."""


class Block:
    """One block of headers or trailers.

    `size`: bytes on the wire. `status`: what ":status" says; 0 where it is not there, -1 where it is no status.
    `sound`: no pseudo-header but one ":status", and that first. `memo`: room for what a reader has found out about it,
    so as not to do so again.
    """

    __slots__ = ("fields", "memo", "size", "sound", "status")

    def __init__(self, fields: tuple[tuple[str, str], ...], size: int) -> None:
        self.fields = fields
        self.size = size
        self.memo: object = None
        self.status = 0
        if fields and fields[0][0] == ":status":
            value = fields[0][1]
            self.status = int(value) if len(value) == 3 and value.isascii() and value.isdigit() else -1
        pseudo = sum(name.startswith(":") for name, _ in fields)
        self.sound = pseudo == (1 if self.status else 0) and self.status >= 0

    def get(self, name: str) -> str | None:
        """The value of the first field of this name, which is in lower case."""
        for key, value in self.fields:
            if key == name:
                return value
        return None


class Blocks:
    """Reads blocks; one serves any number of connections."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Block] = {}
        self._fields: dict[bytes, tuple[str, str]] = {}
        self._decoder = Decoder(max_header_list_size=MOST)
        self._decoder.header_table_size = 0
        self._decoder.max_allowed_table_size = 0

    def read(self, data: bytes) -> Block:
        """Raises Unreadable."""
        block = self._blocks.get(data)
        if block is None:
            block = Block(self._read(data), len(data))
            if len(self._blocks) >= _CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[data] = block
        return block

    def _read(self, data: bytes) -> tuple[tuple[str, str], ...]:
        known, at, size = self._fields, 0, 0
        found: list[tuple[str, str]] = []
        try:
            while at < len(data):
                begin, at = at, _end(data, at)
                piece = data[begin:at]
                field = known.get(piece)
                if field is None:
                    decoded = self._decoder.decode(piece, raw=True)
                    for name, value in decoded:
                        field = (name.decode("latin-1"), value.decode("latin-1"))
                    if field is None:  # the new size of the table
                        if found:
                            raise Unreadable("a change of the table's size within a block of headers")
                        continue
                    if len(piece) <= _LONGEST_CACHED:
                        if len(known) >= _CACHED_FIELDS:
                            known.clear()
                        known[piece] = field
                size += len(field[0]) + len(field[1]) + 32
                if size > MOST:
                    raise Unreadable(f"more than {MOST} bytes of headers")
                found.append(field)
        except (HPACKError, IndexError) as error:
            raise Unreadable(f"headers that cannot be read: {type(error).__name__}") from None
        return tuple(found)


def _end(block: bytes, at: int) -> int:
    """Where the field that begins at `at` ends. Raises IndexError and Unreadable."""
    first = block[at]
    if first >= 0x80:
        return _integer(block, at, 7)[1]
    if 0x20 <= first < 0x40:
        return _integer(block, at, 5)[1]
    index, at = _integer(block, at, 6 if first >= 0x40 else 4)
    for _ in range(1 if index else 2):
        size, at = _integer(block, at, 7)
        at += size
    if at > len(block):
        raise Unreadable("headers that end within a field")
    return at


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 35, 7):
        one = block[at]
        at += 1
        value += (one & 127) << shift
        if one < 128:
            return value, at
    raise Unreadable("a number in headers that does not end")


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """The block that says this. Names are in lower case; values are latin-1 or, where that cannot say it, UTF-8."""
    return encode_bytes((name.encode("ascii"), _bytes(value)) for name, value in fields)


def encode_bytes(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The same of names and values that are bytes already."""
    return b"".join([_field(name, value) for name, value in fields])


def _bytes(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()


def _field(name: bytes, value: bytes) -> bytes:
    whole = _STATIC.get((name, value))
    if whole is not None:
        return bytes((0x80 | whole,))
    index = _STATIC_NAMES.get(name)
    begin = _number(index, 4) if index else b"\x00" + _number(len(name), 7) + name
    return begin + _number(len(value), 7) + value


def _number(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    out, value = bytearray((most,)), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
