"""Whether a resource that somebody deletes may go: what its versions route, what the Envoys say, in; a verdict, out.

A resource is kept by our finalizer until each version that consists of it has no traffic:

    no route leads there ──► every Envoy has said so ──► none of them has a request in progress ──► released
      on any replica          (an ACK each)               (a load report, younger than the ACK)

Everything here is pure. `Witness` remembers for the caller since when each Envoy is known to be rid of a version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from router.cluster.resource import ResourceType, Rule
from router.hints import counted
from router.replica import Load, Report, Reports

FINALIZER = "headgate.dev/drain"
HOLD = 5.0
"""Seconds without a release after replicas came or went: their Envoys need this long to connect to another one."""
UNREPORTED = 30.0
"""Seconds that an Envoy which reports no loads is given, from its ACK, to finish what it has in progress."""
_MARKS = ("", "~shadow", "~shadow-grpc")
_NEVER_PROTECTED = {("", "configmaps"), ("headgate.dev", "modelrollouts")}
_NAMED = 3


def clusters(model: str, version: str) -> tuple[str, ...]:
    """The Envoy clusters that a version can have: its own, and those of its mirrored copies."""
    return tuple(f"{model}/{version}{mark}" for mark in _MARKS)


def protectable(kind: ResourceType) -> bool:
    """Whether objects of this type serve requests: Services, and whatever has a readiness of its own."""
    if (kind.group, kind.resource) in _NEVER_PROTECTED:
        return False
    return (kind.group, kind.resource) == ("", "services") or kind.rule is not Rule.CONDITIONS or bool(kind.conditions)


class Task(StrEnum):
    """What is to be done about one resource's finalizer."""

    NOTHING = "nothing"
    PROTECT = "protect"
    DRAIN = "drain"
    RELEASE = "release"


def task(*, protected: bool, watched: bool, used: bool, deleted: bool) -> Task:
    """`watched`: of a kind that we protect, and labelled so. `used`: a version of some rollout consists of it now.

    Taking the label away is how people opt out: it releases at once.
    """
    if not protected:
        return Task.PROTECT if watched and used and not deleted else Task.NOTHING
    if not watched:
        return Task.RELEASE
    return Task.DRAIN if deleted or not used else Task.NOTHING


@dataclass(frozen=True, slots=True)
class User:
    """A version that consists of the resource. `settle`: how long a request can be on its way without being counted.

    Envoy counts a request from when it has a connection, so one that was routed just before may show up late.
    `last`: the version is known to be going, and there is no other that its requests could move to.
    """

    model: str
    version: str
    settle: float = 1.0
    last: bool = False

    @property
    def clusters(self) -> tuple[str, ...]:
        return clusters(self.model, self.version)

    def __str__(self) -> str:
        return f"{self.version} of {self.model}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` in plain words; `warning` when requests may fail by this release."""

    release: bool
    why: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """What all replicas said. The question was put at `asked_at` and answered by `answered_at`, monotonic seconds."""

    reports: Reports
    asked_at: float
    answered_at: float

    def __iter__(self) -> Iterator[Report]:
        return iter(sorted(self.reports.reports, key=lambda one: one.identity))


_Sight = tuple[str, str, str, str]
"""Model, version, replica and Envoy."""


class Witness:
    """Since when each Envoy is known to have applied routes that do not lead to a version, and who was there lately.

    What an Envoy has yet to apply after that changes nothing, as long as no route of its replica leads there again:
    an endpoint that moves every second would otherwise keep a drain from ending.
    """

    def __init__(self) -> None:
        self._since: dict[_Sight, float] = {}
        self._connected: dict[tuple[str, str], float] = {}  # model and Envoy: when last seen
        self._reporting: dict[str, float] = {}

    def see(self, users: Iterable[User], answers: Answers) -> None:
        """Take in the answers about all users that matter now; what is remembered of others is dropped."""
        asked = set(users)
        kept = {sight: at for sight, at in self._since.items() if sight[2] in answers.reports.unreachable}
        for report in answers:
            self._reporting.update(dict.fromkeys(report.reporting, answers.answered_at))
            for user in asked:
                progress = report.models.get(user.model)
                if progress is None:
                    continue
                self._connected.update({(user.model, node): answers.answered_at for node in progress.nodes})
                if not report.routed.isdisjoint(user.clusters):
                    continue
                for node in progress.nodes:
                    sight = (user.model, user.version, report.identity, node)
                    if sight in self._since:
                        kept[sight] = self._since[sight]
                    elif node not in progress.lagging:
                        kept[sight] = answers.answered_at
        self._since = kept
        models, old = {user.model for user in asked}, answers.answered_at - UNREPORTED
        self._connected = {key: at for key, at in self._connected.items() if key[0] in models and at > old}
        self._reporting = {node: at for node, at in self._reporting.items() if at > old}

    def since(self, user: User, replica: str, node: str) -> float | None:
        return self._since.get((user.model, user.version, replica, node))

    def reported(self, node: str) -> float:
        """When the Envoy was last seen to report loads: a stream that broke may come back."""
        return self._reporting.get(node, float("-inf"))

    def missing(self, model: str, answers: Answers) -> list[str]:
        """Envoys that were connected a moment ago: they may be on their way to another replica."""
        there = {node for report in answers if model in report.models for node in report.models[model].nodes}
        return sorted(
            node
            for (of, node), at in self._connected.items()
            if of == model and node not in there and answers.answered_at < at + HOLD
        )


def verdict(
    users: Collection[User],
    answers: Answers,
    witness: Witness,
    *,
    waited: float,
    deadline: float,
    quiet: float,
) -> Verdict:
    """`waited`: seconds since the drain began. `quiet`: since replicas came or went, or the leader changed."""
    moving = sorted({user for user in users if not user.last}, key=lambda user: (user.model, user.version))
    open_points = list(_open_points(moving, answers, witness, quiet))
    if not open_points:
        left = sorted(str(user) for user in users if user.last)
        if left:
            return Verdict(True, f"nothing else can serve in place of {_listed(left)}: requests fail from now on", True)
        return Verdict(True, "no request is in progress any more" if moving else "no version consists of it any more")
    if waited >= deadline:
        progress = sum(_in_progress(user, answers) for user in moving)
        with_what = f"with {counted(progress, 'request')} in progress" if progress else f"still {open_points[0]}"
        return Verdict(True, f"deadline of {deadline:g} s passed {with_what}", True)
    return Verdict(False, open_points[0])


def _open_points(users: list[User], answers: Answers, witness: Witness, quiet: float) -> Iterator[str]:
    """What has to happen yet, the first to come first."""
    if answers.reports.unreachable:
        yield f"replica {_listed(sorted(answers.reports.unreachable))} does not answer"
    for user in users:
        at = [report.identity for report in answers if not report.routed.isdisjoint(user.clusters)]
        if at:
            yield f"waiting for the routes to leave {user} on {_listed(at)}"
    for user in users:
        yield from _laggards(user, answers, witness)
    for user in users:
        yield from _busy(user, answers, witness)
    for user in users:
        if missing := witness.missing(user.model, answers):
            yield f"waiting {HOLD:g} s for {_listed(missing)} to connect again"
    # Last: what was heard above stays worth telling meanwhile.
    young = min((report.age for report in answers), default=0.0)
    if not answers.reports.reports:
        yield "no replica has answered yet"
    elif quiet < HOLD or young < HOLD:
        yield f"waiting {HOLD:g} s for Envoys to connect after replicas changed"


def _laggards(user: User, answers: Answers, witness: Witness) -> Iterator[str]:
    nodes, behind = 0, {}
    for report in answers:
        progress = report.models.get(user.model)
        if progress is not None:
            nodes += len(progress.nodes)
            for node in progress.nodes:
                if witness.since(user, report.identity, node) is None:
                    behind[node] = progress.lagging.get(node, "no ACK yet")
    if behind:
        said = _listed([f"{node} ({why})" for node, why in sorted(behind.items())])
        yield f"waiting for {len(behind)} of {counted(nodes, 'Envoy')} to leave {user}: {said}"


def _busy(user: User, answers: Answers, witness: Witness) -> Iterator[str]:
    busy: dict[str, int] = {}
    unheard: set[str] = set()
    blind: set[str] = set()
    for report in answers:
        progress = report.models.get(user.model)
        held = [cluster for cluster in user.clusters if cluster in report.loads]
        if progress is None or not held:
            continue
        for node in progress.nodes:
            since = witness.since(user, report.identity, node)
            if since is None:
                continue
            hearing = [one for one in answers if node in one.reporting]
            if not hearing:
                if answers.asked_at < max(since, witness.reported(node)) + UNREPORTED:
                    blind.add(node)
                continue
            for cluster in held:
                load = _load(hearing, cluster, node)
                # The answer is no older than the question, so the report came no later than this.
                if load is None or answers.asked_at - load.age < since + user.settle:
                    unheard.add(node)
                if load is not None and load.in_progress:
                    busy[node] = busy.get(node, 0) + load.in_progress
    if busy:
        many = counted(sum(busy.values()), "request")
        yield f"waiting for {many} in progress at {user} on {_listed(sorted(busy))}"
    if unheard:
        yield f"waiting for a load report about {user} from {_listed(sorted(unheard))}"
    if blind:
        yield f"{_listed(sorted(blind))} cannot report requests in progress at {user}: waiting {UNREPORTED:g} s"


def _load(hearing: Iterable[Report], cluster: str, node: str) -> Load | None:
    """What the replicas that hear of an Envoy know together: it may have its routes from one and report to another.

    Two Envoys of one name count as one, as old as the older; unknown of one is unknown.
    """
    loads = [one.loads[cluster].get(node) for one in hearing if cluster in one.loads]
    known = [load for load in loads if load is not None]
    if not known or len(known) < len(loads):
        return None
    return Load(sum(load.in_progress for load in known), max(load.age for load in known))


def _in_progress(user: User, answers: Answers) -> int:
    return sum(
        load.in_progress
        for report in answers
        for cluster in user.clusters
        for load in report.loads.get(cluster, {}).values()
    )


def _listed(names: list[str]) -> str:
    """The first few."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
