"""The swarm of simulated Envoys (swarm.c) as an object: start, command, stop."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.child import Child
from xds.varint import delimited

NODE_BYTES = 61_000
"""What Envoy 1.40 sends on its first request: 516 extensions that a control plane does not need."""


def node(cluster: str, padding: int = NODE_BYTES) -> bytes:
    """An encoded envoy.config.core.v3.Node without its id, padded with extensions as a real Envoy's is."""
    body = delimited(2, cluster.encode()) + delimited(6, b"envoy")
    index = 0
    while len(body) < padding:
        extension = delimited(1, f"envoy.benchmark.extension_{index:04d}".encode()) + delimited(
            2, b"envoy.filters.http"
        )
        extension += delimited(6, b"envoy.extensions.filters.http.benchmark.v3.Extension")
        body += delimited(9, extension)
        index += 1
    return body


class Swarm(Child):
    """One swarm process; leave the block and it is gone, stopped or not."""

    def __init__(self, binary: Path, port: int, cluster: str, *, prefix: str = "swarm", padding: int = 0) -> None:
        with tempfile.NamedTemporaryFile(prefix="swarm-node-", delete=False) as file:
            file.write(node(cluster, padding))
        self._node = Path(file.name)
        super().__init__(str(binary), str(port), file.name, prefix)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self._node.unlink(missing_ok=True)

    def connect(self, count: int, timeout: float = 60.0) -> dict[str, Any]:
        """Open `count` more streams at once and wait until each has its first RouteConfiguration (or is gone)."""
        self.say(f"connect {count}")
        return self.hear("connected", timeout)

    def expect(self, count: int) -> None:
        """From now on count clients that receive a RouteConfiguration."""
        self.say(f"expect {count}")
        self.hear("armed", 10.0)

    def reached(self, timeout: float = 60.0) -> dict[str, Any]:
        """Wait for what `expect` armed: when the last of them received, and the bytes since."""
        return self.hear("reached", timeout)

    def stats(self) -> dict[str, Any]:
        self.say("stats")
        return self.hear("stats", 10.0)
