"""Who of several replicas writes: the rules of a Lease, without a clock and without a network.

Call `next`, do what it says, tell how it went (`found`, `wrote`, `refused`, `failed`), and call it again. `now` is
monotonic seconds of this machine. The times in the Lease are for human readers: clocks of machines differ, so a Lease
is dead only when *this* machine has seen it unchanged for as long as its holder said it would last.

    renewal sent                     deadline                duration
         |--- leads ---------------------|--- stops its work ---|--- another may lead --->

Everyone else starts counting after the renewal arrived, hence after it was sent: the two can never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Lease = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `poll` is how often the others look, and so how long a hand-over takes."""

    duration: float = 15.0
    deadline: float = 10.0
    renew: float = 2.0
    poll: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.renew < self.deadline < self.duration:
            raise ValueError(f"renew < deadline < duration is needed, not {self}")

    @classmethod
    def of(cls, duration: float) -> Timing:
        """For another duration, in the proportions of the default."""
        usual = cls()
        times = duration / usual.duration
        return cls(duration, usual.deadline * times, usual.renew * times, usual.poll * times)


@dataclass(frozen=True, slots=True)
class Read:
    """Get the Lease."""


@dataclass(frozen=True, slots=True)
class Write:
    """Create the Lease, or replace it: it carries the resourceVersion it was made from, so that only one can win."""

    lease: Lease
    create: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then."""

    until: float


class Election:
    """One replica's view. `identity` is new for every process: a restarted replica is another one."""

    def __init__(self, namespace: str, name: str, identity: str, timing: Timing | None = None) -> None:
        self.identity = identity
        self.timing = timing or Timing()
        self.number: int | None = None
        """Of the term being led (the Lease's transitions); None while somebody else leads, or nobody does."""
        self.holder = ""
        """Who held the Lease when it was last seen."""
        self._meta = {"name": name, "namespace": namespace}
        self._lease: Lease | None = None
        self._spec: Mapping[str, Any] = {}
        self._changed_at = float("-inf")
        self._renewed_at = float("-inf")
        self._transitions = -1
        self._stale = True
        self._again_at = float("-inf")

    @property
    def ends_at(self) -> float:
        """Until when the term is safe without another renewal."""
        return self._renewed_at + self.timing.deadline

    def leads(self, now: float) -> bool:
        return self.number is not None and now < self.ends_at

    def next(self, now: float, wall: datetime) -> Read | Write | Wait:
        if self.number is not None and now >= self.ends_at:
            self.number = None
        if now < self._again_at:
            return Wait(self._again_at)
        if self._stale:
            return Read()
        if self.number is None and not self._free(now):
            self._stale = True
            return Read()
        number = self._transitions + 1 if self.number is None else self.number
        return Write(self._written(self.identity, number, self.timing.duration, wall), create=self._lease is None)

    def found(self, lease: Lease | None, now: float, dice: float = 0.0) -> None:
        """The Lease as read at `now` (when the answer came); None if there is none."""
        self._stale = False
        self._lease = lease
        spec = _spec(lease)
        if lease is not None and spec != self._spec:
            self._spec = spec
            self._changed_at = now
            self._transitions = max(self._transitions, _whole(spec.get("leaseTransitions")))
        self.holder = str(spec.get("holderIdentity") or "")
        if self.number is not None and lease is not None and self.holder != self.identity:
            self.number = None
        if self.number is None and not self._free(now):
            self._stale = True
            self._again_at = now + self.timing.poll * (1.0 - dice / 5)

    def wrote(self, lease: Lease, sent: float) -> None:
        """A Write was accepted. Counted from when it was sent, since others may have seen it right then."""
        self._lease = lease
        self._spec = _spec(lease)
        self._changed_at = self._renewed_at = sent
        self._transitions = self.number = _whole(self._spec.get("leaseTransitions"))
        self.holder = self.identity
        self._stale = False
        self._again_at = sent + self.timing.renew

    def refused(self, now: float, dice: float = 0.0) -> None:
        """A Write met a conflict, or no Lease: somebody else wrote. Look who, soon, but not as fast as one can."""
        self._stale = True
        self._again_at = now + self.timing.poll / 5 * (1.0 - dice / 5)

    def failed(self, now: float, dice: float = 0.0) -> None:
        """No answer, or one that says nothing of the Lease. A Write may have been carried out nevertheless."""
        self._stale = True
        self._again_at = now + self.timing.poll * (1.0 - dice / 5)

    def resign(self, wall: datetime) -> Write | None:
        """End the term; what hands the Lease over at once. Only after the work has ended! None if it is not ours."""
        self.number = None
        if self._lease is None or self.holder != self.identity:
            return None
        return Write(self._written("", self._transitions, 1, wall), create=False)

    def _free(self, now: float) -> bool:
        """Whether nobody else can believe to lead.

        A Lease that was deleted still binds those who saw it: its holder goes on until it notices.
        """
        holder = str(self._spec.get("holderIdentity") or "")
        if holder in ("", self.identity):
            return True
        lasts = self._spec.get("leaseDurationSeconds")
        if not isinstance(lasts, int | float) or lasts <= 0:
            lasts = self.timing.duration
        return now >= self._changed_at + lasts

    def _written(self, holder: str, number: int, lasts: float, wall: datetime) -> Lease:
        spec = dict(_spec(self._lease))
        stamp = _stamp(wall)
        if stamp <= str(spec.get("renewTime") or ""):
            # Others recognize a renewal by its change; a clock that was set back must not make it look like none.
            stamp = _after(str(spec["renewTime"])) or stamp
        if number != spec.get("leaseTransitions") or holder != spec.get("holderIdentity"):
            spec["acquireTime"] = stamp
        spec["holderIdentity"] = holder
        spec["leaseDurationSeconds"] = max(1, round(lasts))
        spec["leaseTransitions"] = max(0, number)
        spec["renewTime"] = stamp
        if self._lease is None:
            return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._meta, "spec": spec}
        return {**self._lease, "spec": spec}


def _spec(lease: Lease | None) -> Mapping[str, Any]:
    spec = (lease or {}).get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _stamp(wall: datetime) -> str:
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _after(stamp: str) -> str:
    """A microsecond later; empty if it cannot be read."""
    try:
        return _stamp(datetime.fromisoformat(stamp.replace("Z", "+00:00")) + timedelta(microseconds=1))
    except (ValueError, OverflowError):
        return ""
