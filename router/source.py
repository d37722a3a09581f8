"""Where rollouts come from: a folder of manifests, or later Kubernetes. After the Store nobody knows which."""

from __future__ import annotations

import asyncio
from typing import Protocol

from router.store import Store


class Source(Protocol):
    """Feeds a Store until it is cancelled.

    `loaded` is set once everything that exists has been put. Whoever opens xDS waits for it: an Envoy that connects
    to a half-loaded control plane would be told to delete the models that have not been read yet.
    """

    @property
    def loaded(self) -> asyncio.Event: ...

    async def run(self, store: Store) -> None:
        """Put what exists, set `loaded`, then follow changes. Returns only by cancellation."""
        ...
