"""What the C module gives to Python code that runs inside Envoy. Importable there only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.headers import Headers, Pairs

if TYPE_CHECKING:

    class EnvoyHeaders(Headers):
        """Headers or trailers as Envoy has them now."""

    class Stream:
        """One request. Only the thread that runs its hooks may use it, except for `wake_up`."""

        chain: Any
        contexts: Any
        request_headers_seen: Any
        response_headers_seen: Any
        began: float

        def headers(self, kind: int) -> EnvoyHeaders: ...
        def reply(self, status: int, headers: Pairs, body: bytes) -> None: ...
        def abort(self) -> None: ...
        def go(self, way: int, data: bytes | None) -> None: ...
        def string(self, attribute: int) -> str | None: ...
        def number(self, attribute: int) -> int | None: ...
        def write_metadata(self, namespace: str, key: str, value: object) -> None: ...
        def make_call(self, token: int, cluster: str, headers: Pairs, body: bytes, milliseconds: int) -> None: ...
        def wake_up(self) -> None: ...

    def log(level: int, text: str) -> None: ...
    def at_work() -> list[tuple[int, float, int]]: ...
    def is_at_work(thread: int, turn: int) -> bool: ...
else:
    from _headgate_envoy import Headers as EnvoyHeaders
    from _headgate_envoy import Stream, at_work, is_at_work, log

    Headers.register(EnvoyHeaders)

__all__ = ["EnvoyHeaders", "Stream", "at_work", "is_at_work", "log"]
