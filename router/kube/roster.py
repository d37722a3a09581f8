"""Which replicas are alive: their Leases as they are seen go in, and the living come out.

A member is dead when its Lease stayed unchanged for as long as it said it would last, while our own Lease was seen to
change all the time. That is how a dead replica is told from an API server, or a watch, that has gone silent: then our
own renewals are missing as well, and nobody is declared dead. After such a silence the count begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ADDRESS = "headgate.dev/http"
DEFAULT_LASTS = 15.0


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One replica, and where its HTTP port is: "IP:PORT"."""

    identity: str
    address: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What matters of a member's Lease. `stamp` differs from renewal to renewal; its value means nothing here."""

    member: Member
    stamp: str
    lasts: float
    revision: str


def read(lease: Mapping[str, Any]) -> Seen | None:
    """None for a Lease that no replica wrote."""
    meta, spec = lease.get("metadata") or {}, lease.get("spec") or {}
    identity, address = spec.get("holderIdentity"), (meta.get("annotations") or {}).get(ADDRESS)
    if not isinstance(identity, str) or not isinstance(address, str) or not identity or not address:
        return None
    lasts = spec.get("leaseDurationSeconds")
    seconds = float(lasts) if isinstance(lasts, int | float) and lasts > 0 else DEFAULT_LASTS
    revision = str(meta.get("resourceVersion"))
    return Seen(Member(identity, address), str(spec.get("renewTime")), seconds, revision)


class Roster:
    """`now` is monotonic seconds. `silence`: our renewals being unseen for longer means that nothing can be told."""

    def __init__(self, own: Member, *, now: float, silence: float = 10.0) -> None:
        self.own = own
        self.changed_at = now
        """When a member came or was found to be gone."""
        self._silence = silence
        self._seen: dict[str, Seen] = {}  # by the Lease's key
        self._renewed_at: dict[str, float] = {}
        self._own_at: float | None = None  # our own renewal was last seen
        self._sure_since = now  # and has been seen all the time since
        self._live: frozenset[Member] = frozenset((own,))

    def heard(self, key: str, seen: Seen | None, now: float) -> None:
        """A Lease was written, or is gone."""
        if seen is None:
            self._seen.pop(key, None)
            self._renewed_at.pop(key, None)
        else:
            before = self._seen.get(key)
            self._seen[key] = seen
            if before is None or before.stamp != seen.stamp:
                self._renewed_at[key] = now
                if seen.member.identity == self.own.identity:
                    if self._own_at is None or now - self._own_at > self._silence:
                        self._sure_since = now
                    self._own_at = now
        self.look(now)

    def look(self, now: float) -> frozenset[Member]:
        """The living, ourselves included."""
        live = frozenset(seen.member for key, seen in self._seen.items() if self._stale_for(key) < seen.lasts)
        # Whoever restarts with its identity has a new address: the Lease that was written last counts.
        live = frozenset(one for one in live if one.identity != self.own.identity) | {self.own}
        if live != self._live:
            self._live, self.changed_at = live, now
        return live

    def doubtful(self) -> frozenset[Member]:
        """Those who are dead as far as their Leases tell. They may serve Envoys and only have lost the API server."""
        live = {one.identity for one in self._live}
        return frozenset(seen.member for seen in self._seen.values() if seen.member.identity not in live)

    def stale(self, after: float) -> dict[str, Seen]:
        """Leases that nobody has renewed for so long, by key."""
        return {key: seen for key, seen in self._seen.items() if self._stale_for(key) >= after}

    def _stale_for(self, key: str) -> float:
        """Seconds for which the Lease is known not to have been renewed."""
        if self._own_at is None:
            return 0.0
        return self._own_at - max(self._renewed_at[key], self._sure_since)
