"""Who is connected, and what each of them has applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xds.cache import Cache, Rejection
from xds.stream import Stream


@dataclass(frozen=True, slots=True)
class Envoy:
    """One connected client. `connected_at` is Unix time; `lagging` gives, by owner, why it is not up to date."""

    id: str
    gateway: str
    address: str
    variant: str
    version: str
    connected_at: float
    lagging: Mapping[str, str]
    last_rejection: Rejection | None


@dataclass(frozen=True, slots=True)
class Applied:
    """How many of a gateway's clients have all that an owner wants; `lagging` is (node id, why)."""

    total: int
    current: int
    lagging: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class Member:
    """One open stream and where it comes from."""

    stream: Stream
    gateway: str
    address: str
    connected_at: float

    @property
    def id(self) -> str:
        return self.stream.node.id if self.stream.node is not None else ""


class Fleet:
    """The members of all gateways."""

    def __init__(self, caches: Mapping[str, Cache]) -> None:
        self._caches = caches
        self._members: dict[str, dict[Member, None]] = {name: {} for name in caches}

    def join(self, member: Member) -> None:
        self._members[member.gateway][member] = None

    def leave(self, member: Member) -> None:
        """Forget a member, and its rejection of what every other member is content with."""
        self._members[member.gateway].pop(member, None)
        cache = self._caches[member.gateway]
        for owner, rejection in list(cache.rejections.items()):
            if rejection.node == member.id and cache.is_accepted(owner):
                del cache.rejections[owner]

    def members(self, gateway: str) -> Iterable[Member]:
        return self._members[gateway]

    def envoys(self) -> tuple[Envoy, ...]:
        """All connected clients, by gateway in order of arrival."""
        return tuple(
            Envoy(
                member.id,
                member.gateway,
                member.address,
                member.stream.variant,
                member.stream.node.version if member.stream.node else "",
                member.connected_at,
                member.stream.lagging(),
                member.stream.last_rejection,
            )
            for members in self._members.values()
            for member in members
        )

    def applied(self, gateway: str, owner: str) -> Applied:
        """How far the gateway's clients have come with this owner; (0, 0) when none is connected."""
        members = self._members.get(gateway, {})
        rejection = self.rejection(gateway, owner)
        lagging = []
        for member in members:
            why = member.stream.lagging().get(owner)
            if why is None and rejection is not None and not self._caches[gateway].is_accepted(owner):
                why = "keeps the last good version"
            if why is not None:
                lagging.append((member.id, why))
        return Applied(len(members), len(members) - len(lagging), tuple(lagging))

    def rejection(self, gateway: str, owner: str) -> Rejection | None:
        """Envoy's words about this owner's present resources, if some client rejected them."""
        cache = self._caches.get(gateway)
        return cache.rejections.get(owner) if cache is not None else None
