"""One client's ADS stream as a state machine without sockets: requests in, responses out, in a lossless order.

Envoy does not check that a route's cluster exists, so the order is ours to keep (xds_protocol.rst, "Eventual
consistency considerations"). It is kept level-triggered, name by name, against what this client holds and has ACKed:

    cluster, endpoints   at once
    route, scope         once the client holds every cluster they lead to, with its endpoints
    empty endpoints,     once no route that the client holds can lead there
    removed cluster

    ┌ request ─► receive ─┐                    ┌► Response (bytes without socket)
    │                     ├─► want ─► due ─────┤
    └ cache ──► changed ──┘      (one response └► in flight until ACK or NACK
                                 per type)

One response per type is in flight; what changes meanwhile is collapsed into the next. Nothing else waits: a slow
client delays only itself. A NACK puts the old values back; of several resources the guilty ones are found by sending
halves, so that one bad model costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from xds.cache import Cache, Changes, Gone, Rejection
from xds.resources import Resource, Type
from xds.subscription import Response, Sent, Subscription
from xds.wire import Framed, Framer, Node, Request

GATE_DEADLINE = 2.0
"""Seconds until a gate opens for a client that, say, ACKed a cluster but never asked for its endpoints."""

PATIENCE = 32
"""NACKs in a row, without a single ACK, that are taken for guilty resources; from then on it is the client."""

LONGEST_REST = 30.0
"""Seconds at most between two attempts with a client that takes nothing."""

STATE_OF_WORLD = (Type.CLUSTER, Type.LISTENER, Type.SCOPE)
"""Types that know the wildcard, and whose state-of-the-world responses are always complete: absence deletes."""

_ROUTED = (Type.SCOPE, Type.ROUTE)
_PARENTED = (Type.ENDPOINT, Type.EXTENSION, Type.ROUTE, Type.SECRET)
_BY_URL = {str(kind): kind for kind in Type}
_IN_ORDER = tuple(Type)


def by_url(type_url: str) -> Type | None:
    """The type of a URL; None for one that we do not serve."""
    return _BY_URL.get(type_url)


class Refused(ValueError):
    """A stream that breaks the protocol beyond answering."""


class Stream:
    """What both variants share; `xds.delta` and `xds.sotw` read requests and compose responses."""

    variant = ""
    tells_missing = True
    """A name that does not exist is answered as removed."""
    answers_in_full = False
    """An answer to a wildcard is everything there is: what is absent is deleted."""

    def __init__(self, cache: Cache, framer: Framer | None = None) -> None:
        self._cache = cache
        self._framer = framer or Framer()
        self._asked_for: set[str] = set()  # routes of eager scopes that the client is about to subscribe to
        self._returned = False  # the client may hold routes that it has not told us of yet
        self._cold: set[str] = set()  # clusters sent before the client's first word about endpoints
        self.node: Node | None = None
        self.subscriptions: dict[Type, Subscription] = {}
        self.last_rejection: Rejection | None = None

    # Input

    def receive(self, request: Request, now: float) -> None:
        """Take one request: a subscription, an ACK or a NACK, often several of these at once. Raises Refused."""
        if self.node is None:
            if request.node is None or not request.node.id:
                raise Refused("the first request must carry node.id")
            self.node = request.node
        elif request.node is not None and request.node is not self.node and request.node != self.node:
            raise Refused("node must not change within a stream")
        if not request.type_url:
            raise Refused("ADS needs a type_url in every request")
        kind = _BY_URL.get(request.type_url)
        if kind is None:
            return  # a type that we do not serve; the client may still want the others
        subscription = self.subscriptions.get(kind)
        first = subscription is None
        if subscription is None:
            subscription = Subscription(kind)
            made = {**self.subscriptions, kind: subscription}
            self.subscriptions = {one: made[one] for one in _IN_ORDER if one in made}
        self._read(subscription, request, first, now)

    def changed(self, changes: Changes) -> None:
        """The cache tells which names have a new value or are gone."""
        for kind, names in changes.items():
            subscription = self.subscriptions.get(kind)
            if subscription is None:
                continue
            for name, gone in names.items():
                current = self._cache.get(kind, name)
                if (
                    name in subscription.names
                    or name in subscription.held
                    or name in subscription.unsure
                    or (current and subscription.covers(current))
                ):
                    former = subscription.want.pop(name, None) or subscription.leaving.pop(name, None)
                    if former is not None and name in subscription.held:
                        if gone is None:
                            subscription.leaving[name] = former
                        else:
                            gone = Gone(gone.users | former.users)
                    subscription.want[name] = gone
                    subscription.rests_until = 0.0

    # Output

    def due(self, now: float) -> list[Response]:
        """All that may be sent now, in make-before-break order. Call again after every input."""
        responses = []
        for subscription in self.subscriptions.values():
            if subscription.is_due() and subscription.rests_until <= now:
                response = self._next(subscription, now)
                if response is not None:
                    responses.append(response)
        return responses

    def is_due(self) -> bool:
        """Whether `due` may have something to send, now or when a gate opens."""
        return any(subscription.is_due() for subscription in self.subscriptions.values())

    def next_deadline(self) -> float | None:
        """When `due` should be asked again without any input, on the clock of `now`; None when it need not."""
        idle = [s for s in self.subscriptions.values() if s.is_due()]
        at = [s.rests_until for s in idle if s.rests_until]
        at += [min(s.blocked.values()) + GATE_DEADLINE for s in idle if s.blocked and not s.rests_until]
        return min(at) if at else None

    def lagging(self) -> Mapping[str, str]:
        """The owners whose current resources this client has not all applied, each with the reason.

        Costs as much as there are changes under way, however many models there are.
        """
        behind: dict[str, str] = {}
        for kind, subscription in self.subscriptions.items():
            for name in subscription.blocked:
                self._blame(behind, kind, name, f"waits until it has all that {name} needs")
            for name, gone in subscription.want.items():
                self._blame(behind, kind, name, "not sent yet", gone)
            if (sent := subscription.in_flight) is not None:
                for name in sent.before:
                    self._blame(behind, kind, name, "no ACK yet", sent.removed.get(name))
            for name, rejection in subscription.rejected.items():
                for owner in self._cache.owners_of(kind, name):
                    behind[owner] = f"rejected: {rejection.message}"
        for route in self._asked_for:
            if self._cache.get(Type.ROUTE, route) is None:
                continue
            behind.setdefault(route, "has not asked for the route yet")
        return _Starting(behind, self._cache) if self._is_starting() else behind

    def _blame(self, behind: dict[str, str], kind: Type, name: str, why: str, gone: Gone | None = None) -> None:
        """Lay it on the owners; for a host that is gone on its former one, since the client may still serve it.

        A cluster that is gone harms nobody: it goes when no route leads there, and nobody need wait for that.
        """
        owners = self._cache.owners_of(kind, name)
        if not owners and gone is not None and kind is not Type.CLUSTER:
            owners = gone.users
        for owner in owners:
            behind.setdefault(owner, why)

    def _is_starting(self) -> bool:
        clusters = self.subscriptions.get(Type.CLUSTER)
        if clusters is None or not clusters.wildcard:
            return clusters is None and Type.LISTENER not in self.subscriptions
        scopes = self.subscriptions.get(Type.SCOPE)
        return scopes is None or not scopes.proved

    # Variants

    def _read(self, subscription: Subscription, request: Request, first: bool, now: float) -> None:
        raise NotImplementedError

    def _compose(self, subscription: Subscription, sent: Sequence[Resource], removed: Sequence[str]) -> Framed:
        """The response; `held` is already what the client will have."""
        raise NotImplementedError

    # Subscriptions

    def _start_wildcard(self, subscription: Subscription) -> None:
        subscription.wildcard = True
        subscription.owes_answer = True
        for resource in self._cache.all(subscription.type):
            subscription.want[resource.name] = None

    def _subscribe(self, subscription: Subscription, names: Iterable[str], *, forced: bool = True) -> None:
        """A name asked for is answered even if we think that the client has it: it may have forgotten."""
        lapsed = subscription.in_flight.lapsed if subscription.in_flight is not None else ()
        for name in names:
            subscription.names.add(name)
            subscription.want[name] = None
            if name in lapsed:  # it may have asked again before it took the response
                subscription.held[name] = Resource(name, "", b"")
                subscription.unsure.add(name)
            if forced:
                subscription.forced.add(name)
        if subscription.type is Type.ROUTE:
            self._asked_for.difference_update(subscription.names)

    def _unsubscribe(self, subscription: Subscription, names: Iterable[str]) -> None:
        for name in names:
            subscription.names.discard(name)
            current = self._cache.get(subscription.type, name)
            if current is not None and subscription.covers(current):
                continue
            for table in (subscription.held, subscription.want, subscription.rejected, subscription.blocked):
                table.pop(name, None)
            subscription.forced.discard(name)
            subscription.unsure.discard(name)
            if subscription.in_flight is not None and name in subscription.in_flight.before:
                del subscription.in_flight.before[name]
                subscription.in_flight.lapsed.add(name)
            if subscription.type is Type.ROUTE:
                self._asked_for.discard(name)

    # ACK and NACK

    def _settle(self, subscription: Subscription, error: str | None, now: float) -> None:
        sent = subscription.in_flight
        if sent is None:
            return
        subscription.in_flight = None
        if error is None:
            self._acked(subscription, sent)
        else:
            self._nacked(subscription, sent, error, now)

    def _acked(self, subscription: Subscription, sent: Sent) -> None:
        kind = subscription.type
        subscription.proved = True
        if sent.carried:
            subscription.refusals, subscription.rests_until = 0, 0.0
        for name in sent.before:
            if subscription.rejected:
                subscription.rejected.pop(name, None)
            if subscription.unsure:
                subscription.unsure.discard(name)
            resource = subscription.held.get(name)
            if resource is None:
                continue
            if kind is Type.ROUTE and self._cache.get(kind, name) is resource:
                self._cache.accepted(name)
            if kind is Type.SCOPE and not resource.on_demand:
                self._asked_for.update(set(resource.refs) - self._names(Type.ROUTE))

    def _nacked(self, subscription: Subscription, sent: Sent, error: str, now: float) -> None:
        """Put the old values back. Of several resources some may have been applied all the same."""
        held = subscription.held
        attempted = {name: held[name] for name in sent.before if name in held and name not in sent.removed}
        for name in attempted:
            before = sent.before[name]
            if before is None:
                held.pop(name, None)
            else:
                held[name] = before
        if sent.carried:  # what is removed beside a bad resource may still be there
            for name, gone in sent.removed.items():
                if name in sent.before:
                    subscription.want.setdefault(name, gone)
                    subscription.unsure.add(name)
            subscription.refusals += 1
            if subscription.refusals > PATIENCE:
                rest = min(0.1 * 2.0 ** min(subscription.refusals - PATIENCE, 10), LONGEST_REST)
                subscription.rests_until = now + rest
        if sent.carried > 1:
            # A NACK may be a partial apply, and its text is for people: find the guilty by halves.
            names = list(attempted)
            middle = len(names) // 2
            subscription.parts += [part for part in (tuple(names[middle:]), tuple(names[:middle])) if part]
            for name in names:
                subscription.want.setdefault(name, None)
                subscription.unsure.add(name)
            return
        for name, resource in attempted.items():
            assert self.node is not None
            owners = sorted(self._cache.owners_of(subscription.type, name))
            rejection = Rejection(
                owners[0] if owners else "", subscription.type, name, resource.version, error, self.node.id
            )
            subscription.rejected[name] = rejection
            kept = held.get(name)
            if kept is None or kept.body:
                subscription.unsure.discard(name)
            self.last_rejection = rejection

    def _names(self, kind: Type) -> set[str]:
        subscription = self.subscriptions.get(kind)
        return subscription.names if subscription is not None else set()

    # What to send next

    def _next(self, subscription: Subscription, now: float) -> Response | None:
        if self._holds_answer(subscription, now):
            return None
        candidates: Iterable[str] = list(subscription.want)
        if subscription.parts:
            part = subscription.parts.pop()
            candidates = [name for name in part if name in subscription.want]
        send: list[Resource] = []
        removed: dict[str, Gone | None] = {}
        before: dict[str, Resource | None] = {}
        for name in candidates:
            if self._may_skip(subscription, name):
                del subscription.want[name]
                subscription.blocked.pop(name, None)
                continue
            if self._is_gated(subscription, name):
                held = subscription.held.get(name)
                if subscription.type is Type.ENDPOINT and name in subscription.forced and held and held.body:
                    # Asked for, or needed to warm a cluster, before it may become empty: the old ones once more.
                    subscription.forced.discard(name)
                    before[name] = held
                    send.append(held)
                    continue
                since = subscription.blocked.setdefault(name, now)
                if now - since < GATE_DEADLINE:
                    continue
                if not self._may_time_out(subscription, name):
                    subscription.blocked[name] = now
                    continue
            if subscription.blocked:
                subscription.blocked.pop(name, None)
            current = self._current(subscription, name)
            gone = subscription.want.pop(name)
            subscription.forced.discard(name)
            before[name] = subscription.held.get(name)
            if current is None:
                subscription.held.pop(name, None)
                removed[name] = gone
            else:
                subscription.held[name] = current
                send.append(current)
        if not (send or removed or subscription.owes_answer):
            return self._next(subscription, now) if subscription.parts else None
        subscription.owes_answer = False
        subscription.owed_since = None
        if subscription.type is Type.CLUSTER:
            self._warm(send, before)
        framed = self._compose(subscription, send, tuple(removed))
        subscription.nonce = framed.nonce
        subscription.in_flight = Sent(framed.nonce, now, before, removed, len(send))
        return Response(subscription.type, framed.nonce, framed.body, tuple(before))

    def _holds_answer(self, subscription: Subscription, now: float) -> bool:
        """A first answer without what waits at a gate tells a client to delete it, or that there is nothing."""
        if not subscription.owes_answer or not subscription.want:
            return False
        gated = [name for name in subscription.want if self._is_gated(subscription, name)]
        if not gated or (not self.answers_in_full and len(gated) < len(subscription.want)):
            return False
        if subscription.owed_since is None:
            subscription.owed_since = now
        for name in gated:
            subscription.blocked.setdefault(name, subscription.owed_since)
        return now - subscription.owed_since < GATE_DEADLINE

    def _current(self, subscription: Subscription, name: str) -> Resource | None:
        current = self._cache.get(subscription.type, name)
        return current if current is not None and subscription.covers(current) else None

    def _may_skip(self, subscription: Subscription, name: str) -> bool:
        """Nothing new for this client, or nothing that it would take."""
        current = self._current(subscription, name)
        if current is None:
            if name in subscription.forced:
                subscription.forced.discard(name)
                needed = subscription.type is Type.ENDPOINT and name in subscription.held
                return needed or not self.tells_missing
            # The parent decides over them: Envoy lets go of them itself, and until then needs them.
            return subscription.type in _PARENTED or not (name in subscription.held or name in subscription.unsure)
        rejected = subscription.rejected.get(name)
        if rejected is not None and rejected.version == current.version:
            subscription.forced.discard(name)
            return True
        if name in subscription.forced or name in subscription.unsure:
            return False
        held = subscription.held.get(name)
        return held is not None and held.version == current.version

    def _warm(self, clusters: Sequence[Resource], before: dict[str, Resource | None]) -> None:
        """A changed cluster warms until it hears of its endpoints again, though the client need not ask anew.

        So does one that comes back before the client's farewell to its endpoints has arrived: it has none any more.
        """
        endpoints = self.subscriptions.get(Type.ENDPOINT)
        if endpoints is None:
            self._cold.update(cluster.name for cluster in clusters)
            return
        for cluster in clusters:
            if cluster.name in endpoints.names:
                if before[cluster.name] is None:
                    endpoints.held.pop(cluster.name, None)
                endpoints.forced.add(cluster.name)
                endpoints.want.setdefault(cluster.name, None)

    # Gates

    def _is_gated(self, subscription: Subscription, name: str) -> bool:
        kind = subscription.type
        current = self._current(subscription, name)
        if current is None:
            held_cluster = kind is Type.CLUSTER and name in subscription.held
            if not held_cluster:
                return False
            gone = subscription.want.get(name)
            return not self._is_left_by(gone.users if gone is not None else ())
        if kind in _ROUTED:
            return not all(self._is_usable(cluster) for cluster in self._clusters_behind(kind, current))
        if kind is Type.ENDPOINT and current.late:
            held = subscription.held.get(name)
            if held is None or held.late:
                return False
            return not self._is_left_by(self._cache.owners_of(kind, name))
        return False

    def _may_time_out(self, subscription: Subscription, name: str) -> bool:
        """A gate that waits for something the client refused stays shut; one that waits for silence opens."""
        clusters = self.subscriptions.get(Type.CLUSTER)
        current = self._current(subscription, name)
        if subscription.type in _ROUTED and clusters is not None and current is not None:
            behind = self._clusters_behind(subscription.type, current)
            return all(name in clusters.held and not clusters.waits_for_ack(name) for name in behind)
        gone = subscription.want.get(name)
        users = gone.users if gone is not None else self._cache.owners_of(subscription.type, name)
        routes = self.subscriptions.get(Type.ROUTE)
        # Only a route that is gone may be waited for in vain: one that is late or rejected still leads there.
        return routes is None or all(
            self._is_settled(route) or (self._cache.get(Type.ROUTE, route) is None and not self._is_led_to(route))
            for route in (*users, *routes.unsure)
        )

    def _is_led_to(self, route: str) -> bool:
        """A scope that the client holds, or may still hold, leads to the route."""
        scopes = self.subscriptions.get(Type.SCOPE)
        if scopes is None:
            return False
        before = scopes.in_flight.before.values() if scopes.in_flight is not None else ()
        held = (*scopes.held.values(), *before)
        return bool(scopes.unsure) or any(scope is not None and route in scope.refs for scope in held)

    def _clusters_behind(self, kind: Type, resource: Resource) -> Iterable[str]:
        """All that a route leads to, or a scope by way of its route."""
        if kind is Type.ROUTE:
            return resource.refs
        routes = (self._cache.get(Type.ROUTE, ref) for ref in resource.refs)
        return (cluster for route in routes if route is not None for cluster in route.refs)

    def _is_usable(self, cluster: str) -> bool:
        """The client holds the cluster, ACKed, with endpoints that it has ACKed as well."""
        clusters = self.subscriptions.get(Type.CLUSTER)
        if clusters is None or not clusters.wildcard:
            return True  # gRPC's own client asks for clusters only after it has the route
        if cluster not in clusters.held or clusters.is_new(cluster):
            return False
        wanted = self._cache.get(Type.ENDPOINT, cluster)
        if wanted is None:
            return True  # found by DNS
        endpoints = self.subscriptions.get(Type.ENDPOINT)
        held = endpoints.held.get(cluster) if endpoints is not None else None
        if endpoints is None or held is None or cluster in endpoints.unsure or endpoints.is_new(cluster):
            return False
        if wanted.late:
            return True
        return not held.late and not (endpoints.waits_for_ack(cluster) and endpoints.was_empty(cluster))

    def _is_settled(self, route: str) -> bool:
        """The client has ACKed the present value of this route, or does not have the route."""
        routes = self.subscriptions.get(Type.ROUTE)
        if routes is None or route not in routes.held:
            return True
        current = self._cache.get(Type.ROUTE, route)
        return (
            current is not None
            and routes.held[route].version == current.version
            and not routes.waits_for_ack(route)
            and route not in routes.rejected
            and route not in routes.unsure
        )

    def _is_left_by(self, users: Iterable[str]) -> bool:
        """None of these routes, as the client may hold them, leads to what they once led to."""
        routes = self.subscriptions.get(Type.ROUTE)
        if routes is None:
            return not self._returned
        if routes.unsure:  # of these only the client knows where they lead
            return False
        return all(self._is_settled(user) for user in users)


class _Starting(Mapping[str, str]):
    """Every owner lags: spelt out only when somebody wants to see them all."""

    WHY = "starting: has not asked for routes yet"

    def __init__(self, behind: dict[str, str], cache: Cache) -> None:
        self._behind, self._cache = behind, cache

    def __getitem__(self, owner: str) -> str:
        return self._behind[owner] if owner in self._behind or owner not in self._cache else self.WHY

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._cache.owners()), **self._behind})

    def __len__(self) -> int:
        return len({*self._cache.owners(), *self._behind})
