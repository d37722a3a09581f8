"""The state-of-the-world variant: every request is the whole list of names, wildcard types get complete answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from xds.resources import Resource, Type
from xds.stream import STATE_OF_WORLD, Stream
from xds.subscription import Subscription
from xds.wire import Framed, Request

WILDCARD = "*"


class SotwStream(Stream):
    """A stream of StreamAggregatedResources."""

    variant = "sotw"
    tells_missing = False
    answers_in_full = True

    def _read(self, subscription: Subscription, request: Request, first: bool, now: float) -> None:
        if request.nonce and not first and request.nonce != subscription.nonce:
            return  # stale: the client will answer, or has answered, something newer
        if request.nonce and subscription.in_flight is not None:
            self._settle(subscription, request.error, now)
        names = {name for name in request.names if name != WILDCARD}
        subscription.named_once = subscription.named_once or bool(request.names)
        wildcard = subscription.type in STATE_OF_WORLD and (WILDCARD in request.names or not subscription.named_once)
        gone = subscription.names - names
        if subscription.wildcard and not wildcard:
            gone |= subscription.held.keys() - names
            subscription.wildcard = False
        if gone:
            self._unsubscribe(subscription, gone)
        if wildcard and not subscription.wildcard:
            self._start_wildcard(subscription)
        if first and request.version:
            self._returned = True
            if subscription.type is Type.ROUTE:  # it holds these, we do not know with which value
                subscription.held.update((name, Resource(name, "", b"")) for name in names)
                subscription.unsure |= names
        self._subscribe(subscription, sorted(names - subscription.names))
        if first and subscription.type in STATE_OF_WORLD:
            subscription.owes_answer = True
            self._recall(subscription, request)

    def _recall(self, subscription: Subscription, request: Request) -> None:
        """A client that comes back with the very version that is due has all of it already."""
        if not request.version:
            return
        due = [r for name in subscription.want if (r := self._current(subscription, name)) is not None]
        if request.version == _version(due):
            subscription.held = {resource.name: resource for resource in due}
            subscription.want.clear()
            subscription.forced.clear()
            subscription.owes_answer = False
            subscription.proved = True

    def _compose(self, subscription: Subscription, sent: Sequence[Resource], removed: Sequence[str]) -> Framed:
        resources = list(sent)
        if subscription.type in STATE_OF_WORLD:
            resources = [resource for resource in subscription.held.values() if resource.body]
        return self._framer.sotw(subscription.type, _version(resources), resources)


def _version(resources: Iterable[Resource]) -> str:
    """Independent of order and of this process, so that it means the same after a restart."""
    digest = blake2b(digest_size=8)
    for resource in sorted(resources, key=lambda r: r.name):
        digest.update(resource.version.encode())
    return digest.hexdigest()
