"""The server's side of HTTP/2, frame by frame, for servers that are meant to misbehave (see raw_server.py)."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import NamedTuple

from raw_server import Peer

from loadgen.wire.header_blocks import encode
from loadgen.wire.http2 import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS

FIRST = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # empty SETTINGS


class Frame(NamedTuple):
    kind: int
    flags: int
    id: int
    payload: bytes


def frame(kind: int, flags: int, id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, id) + payload


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


def frames(data: bytes) -> list[Frame]:
    found, at = [], 0
    while at < len(data):
        head, flags, id = struct.unpack_from(">IBI", data, at)
        size = head >> 8
        found.append(Frame(head & 255, flags, id, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def headers(id: int, *fields: tuple[str, str], status: str = "200", end: bool = False) -> bytes:
    block = encode([(":status", status), *fields])
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), id, block)


def trailers(id: int, *fields: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, id, encode(fields))


def data(id: int, payload: bytes, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, id, payload)


async def requests(peer: Peer, settings: bytes = FIRST) -> AsyncIterator[int]:
    """Greet, then the number of each stream whose request has come whole, until the client goes."""
    if not await preface(peer, settings):
        return
    async for each in told(peer):
        if each.kind in (DATA, HEADERS) and each.flags & END_STREAM:
            yield each.id


async def preface(peer: Peer, settings: bytes = FIRST) -> bool:
    try:
        found = await peer.reader.readexactly(len(PREFACE))
    except (EOFError, ConnectionError):
        return False
    assert found == PREFACE
    await peer.send(settings + frame(SETTINGS, ACK, 0))
    return True


async def told(peer: Peer) -> AsyncIterator[Frame]:
    """What the client sends, until it goes."""
    while True:
        try:
            head, flags, id = struct.unpack(">IBI", await peer.reader.readexactly(9))
            payload = await peer.reader.readexactly(head >> 8)
        except (EOFError, ConnectionError):
            return
        yield Frame(head & 255, flags, id, payload)
