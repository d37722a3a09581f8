"""The incremental variant: DeltaDiscoveryRequest in, only what changed out."""

from __future__ import annotations

from collections.abc import Sequence

from xds.resources import Resource, Type
from xds.stream import STATE_OF_WORLD, Stream
from xds.subscription import Subscription
from xds.wire import Framed, Request

WILDCARD = "*"


class DeltaStream(Stream):
    """A stream of DeltaAggregatedResources."""

    variant = "delta"

    def _read(self, subscription: Subscription, request: Request, first: bool, now: float) -> None:
        # A nonce only pairs an ACK with its response: a stale one must not hide the subscriptions beside it.
        if request.nonce and subscription.in_flight is not None and request.nonce == subscription.in_flight.nonce:
            self._settle(subscription, request.error, now)
        if first:
            self._recall(subscription, request)
        self._leave(subscription, request.unsubscribe)
        named = [name for name in request.subscribe if name != WILDCARD]
        legacy = first and not request.subscribe and subscription.type in STATE_OF_WORLD
        if (WILDCARD in request.subscribe and not subscription.wildcard) or legacy:
            self._start_wildcard(subscription)
        if first and request.initial_versions:
            subscription.owes_answer = False
            subscription.proved = True
            self._returned = True
            known = {name for name in named if name in request.initial_versions}
            if subscription.type is Type.ENDPOINT:
                known -= self._cold  # a cluster that was sent meanwhile warms until it hears of its endpoints
            self._subscribe(subscription, sorted(known), forced=False)
            named = [name for name in named if name not in known]
        self._subscribe(subscription, named)
        if first and subscription.type is Type.ENDPOINT:
            self._cold.clear()

    def _recall(self, subscription: Subscription, request: Request) -> None:
        """What the client kept from an earlier stream: equal is not sent again, vanished is removed."""
        asked = None if subscription.type in STATE_OF_WORLD else set(request.subscribe)
        for name, version in request.initial_versions.items():
            if asked is not None and name not in asked:
                continue
            current = self._cache.get(subscription.type, name)
            if current is not None and current.version == version:
                subscription.held[name] = current
            else:
                subscription.held[name] = Resource(name, version, b"")
                subscription.unsure.add(name)
                subscription.want[name] = None

    def _leave(self, subscription: Subscription, names: Sequence[str]) -> None:
        if WILDCARD in names and subscription.wildcard:
            subscription.wildcard = False
            covered = [name for name in (*subscription.held, *subscription.want) if name not in subscription.names]
            self._unsubscribe(subscription, covered)
        known = [name for name in names if name in subscription.names]
        self._unsubscribe(subscription, known)
        for name in known:
            if subscription.wildcard:  # still covered: the client must hear what the wildcard now says of it
                subscription.want[name] = None
                subscription.forced.add(name)

    def _compose(self, subscription: Subscription, sent: Sequence[Resource], removed: Sequence[str]) -> Framed:
        return self._framer.delta(subscription.type, sent, removed)
