"""Who is let in: a client says its node id and its gateway (`node.cluster`), and can prove the former if it must."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, cast

import grpc

from xds.metrics import XdsMetrics
from xds.stream import Refused
from xds.tls import ServerTls, identities
from xds.wire import Garbage, Node

log = logging.getLogger(__name__)
Context = Any  # grpc.aio.ServicerContext, for which grpcio ships no types


class TurnedAway(Exception):
    """A client that is told to go, with a word for it and one for the metrics."""

    def __init__(self, code: grpc.StatusCode, reason: str, why: str, node: str) -> None:
        super().__init__(why)
        self.code, self.reason, self.node = code, reason, node


def nonsense(error: Garbage | Refused, node: str) -> TurnedAway:
    """A client that does not speak the protocol."""
    reason = "garbage" if isinstance(error, Garbage) else "protocol"
    return TurnedAway(grpc.StatusCode.INVALID_ARGUMENT, reason, str(error), node)


class Door:
    """Every stream passes here with its first request."""

    def __init__(self, gateways: Collection[str], tls: ServerTls | None, metrics: XdsMetrics) -> None:
        self._gateways, self._tls, self._metrics = gateways, tls, metrics
        self._told: set[tuple[str, str]] = set()

    def admit(self, node: Node | None, context: Context) -> Node:
        """Return the node when it may come in; raises Refused or TurnedAway."""
        if node is None or not node.id:
            raise Refused("the first request must carry node.id")
        if node.cluster not in self._gateways:
            known = ", ".join(sorted(self._gateways)) or "none"
            raise TurnedAway(
                grpc.StatusCode.NOT_FOUND,
                "unknown_gateway",
                f"node.cluster {node.cluster!r} is no gateway of this control plane (known: {known})",
                node.id,
            )
        if self._tls is not None and self._tls.check_node:
            names = identities(context.auth_context())
            if node.id not in names:
                shown = ", ".join(sorted(names)) or "no name at all"
                raise TurnedAway(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "identity",
                    f"node.id {node.id!r} is not in the client's certificate (it names {shown})",
                    node.id,
                )
        self._told = {(who, why) for who, why in self._told if who != node.id}
        return node

    async def turn_away(self, context: Context, away: TurnedAway) -> None:
        """End the call with the reason; clients come back several times a second, so the log says it once."""
        self._metrics.refused.labels(away.reason).inc()
        if (away.node, away.reason) not in self._told and len(self._told) < 10_000:
            self._told.add((away.node, away.reason))
            log.warning("turned away %s from %s: %s", away.node or "a client", peer(context), away)
        await context.abort(away.code, str(away))


def peer(context: Context) -> str:
    """ "ipv4:127.0.0.1:4711" as "127.0.0.1:4711"."""
    name = cast(str, context.peer() or "")
    return name.split(":", 1)[1].replace("%5B", "[").replace("%5D", "]") if ":" in name else name
