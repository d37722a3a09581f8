"""What a host (Envoy with us inside, ext_proc, the proxy) gives to the chain of plugins of one request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidecar.plugin import Entry, HttpRequest, Value

if TYPE_CHECKING:
    from sidecar.chain import Chain


class Host:
    """Override what you have. One for each request, or one for all where nothing here depends on the request.

    A host must not call the chain from inside of these: it does so when it is back in its own loop.
    """

    wants_log = False  # whether `access_log` does something: then the entry is made for every request

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""
        return time.monotonic()

    def property(self, name: str) -> Value:
        """See `HttpContext.get_property`. None for what is not known here."""
        return None

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        """Keep dynamic metadata of this request."""

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        """Begin a request of a plugin; `chain.answer(token, response)` when it is over, also when it failed."""
        raise NotImplementedError("this host makes no calls")

    def cancel_call(self, token: int) -> None:
        """Nobody waits for this call any more."""

    def wake(self, chain: Chain) -> None:
        """A plugin wants a paused message to go on: call `chain.wake()` soon, then take what came out."""

    def access_log(self, entry: Entry) -> None:
        """Write a line of the access log, as the plugins left it."""
