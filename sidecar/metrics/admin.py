"""The address of Envoy's admin endpoint in, its answers out; what goes wrong comes as a plain sentence.

Only /stats is ever asked for, with GET.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp


class NoAnswer(Exception):
    """Envoy's admin endpoint did not answer as it should; the message says why, in plain words.

    `refused`: nobody was there, as while Envoy restarts.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Address:
    """Either a socket's path or the base URL."""

    base: str
    socket: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.base


def address(text: str) -> Address:
    """`unix:/path`, `http://127.0.0.1:9901` or `127.0.0.1:9901`; ValueError says what else it is."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path[2:]
        if not path:
            raise ValueError(f"{text!r} names no socket: write unix:/path/to/socket")
        return Address("http://envoy", path)
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{text!r} is no admin address: write http://127.0.0.1:9901 or unix:/path/to/socket")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"http://{host}:{port}")


class Admin:
    """A client with one kept connection. Use it as an async context."""

    def __init__(self, where: Address, timeout: float = 5.0) -> None:
        self.where = where
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> bytes:
        """The body of a 200; NoAnswer for anything else."""
        assert self._session is not None, "use it in an async with block"
        try:
            async with self._session.get(self.where.base + path) as answer:
                if answer.status != 200:
                    raise NoAnswer(f"{self.where} answered {answer.status}: is it Envoy's admin endpoint?")
                return await answer.read()
        except TimeoutError:
            raise NoAnswer(f"{self.where} did not answer within {self._timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            why = (error.os_error.strerror or str(error.os_error)).lower()
            raise NoAnswer(f"cannot connect to {self.where}: {why}", refused=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"{self.where} broke off: {error}") from None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(self.where.socket) if self.where.socket else aiohttp.TCPConnector(limit=2)
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
