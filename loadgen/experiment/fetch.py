"""Texts and bytes that a task names by address or by file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.experiment.context import Context, TaskFailure
from loadgen.experiment.secrets import bare

if TYPE_CHECKING:
    import aiohttp

MAX_BYTES = 64 * 1024 * 1024
_PATIENCE = 30.0


async def fetched(context: Context, source: str) -> bytes:
    """What is at an address, or in a file. Raises TaskFailure."""
    if "://" in source and not source.startswith("file://"):
        async with context.session(_PATIENCE) as session:
            return await _from_address(session, source)
    path = context.experiment.folder / source.removeprefix("file://")
    try:
        return await asyncio.to_thread(_from_file, path)
    except OSError as error:
        raise TaskFailure(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _from_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise TaskFailure(f"{path} has more than {MAX_BYTES:,} bytes")
    return path.read_bytes()


async def text(context: Context, source: str) -> str:
    raw = await fetched(context, source)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise TaskFailure(f"{bare(source)} is not UTF-8 text") from None


async def _from_address(session: aiohttp.ClientSession, url: str) -> bytes:
    import aiohttp

    try:
        async with session.get(url) as answer:
            raw = await answer.content.read(MAX_BYTES + 1)
            while not answer.content.at_eof() and len(raw) <= MAX_BYTES:
                raw += await answer.content.read(MAX_BYTES + 1 - len(raw))
            status = answer.status
    except (aiohttp.ClientError, OSError) as error:
        raise TaskFailure(f"cannot fetch {bare(url)}: {words(error)}") from None
    if status >= 300:
        raise TaskFailure(f"cannot fetch {bare(url)}: status {status}")
    if len(raw) > MAX_BYTES:
        raise TaskFailure(f"{bare(url)} has more than {MAX_BYTES:,} bytes")
    return raw


def words(error: BaseException) -> str:
    """Why a request got no answer, without the address: that may hold a secret."""
    import aiohttp

    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.TooManyRedirects):
        return "redirected again and again"
    if isinstance(error, aiohttp.InvalidURL):
        return "it leads to what is no address"
    inner = getattr(error, "os_error", None)
    if isinstance(inner, ConnectionError) and inner.errno:  # asyncio puts the address into its words
        return os.strerror(inner.errno).lower()
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
