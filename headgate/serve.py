"""The control plane, put together: folder -> store -> engine -> sink -> caches -> Envoys, and HTTP beside it.

```
 manifests ─► FolderSource ─► Store ─► Engine ─► Sink ─► Cache per gateway ─► XdsServer ─► Envoys
                   probes ─────┘                            ▲                     │
              certificates ─────────────────────────────────┘     HTTP ◄── status ┘
```

The xDS port opens last: an Envoy that connects to a half-loaded control plane would be told that the models which
have not been read yet are gone, and one whose readiness is not known yet would lose its traffic.
"""

from __future__ import annotations

from headgate.config import Config
from router.store import Store


class ControlPlane:
    """One control plane in this process: `async with ControlPlane(config) as plane`, or `start` and `stop`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store()

    @property
    def xds_port(self) -> int:
        raise NotImplementedError

    @property
    def http_port(self) -> int:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> ControlPlane:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()
