"""What one replica of the control plane says of the Envoys that are connected to it.

Whoever decides for all of them (status, finalizers) asks every live replica and adds the answers up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the Envoys have come with one model.

    `version` stands for the very resources, so that two replicas can be seen to serve the same. `nodes` are all
    connected clients of the model's gateway by node id, `lagging` those that have not applied it, and why.
    """

    version: str
    gateway: str
    nodes: frozenset[str]
    lagging: Mapping[str, str] = field(default_factory=dict)

    @property
    def current(self) -> int:
        return len(self.nodes) - len(self.lagging)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in progress at one cluster, as one Envoy last reported, `age` seconds ago."""

    in_progress: int
    age: float


@dataclass(frozen=True, slots=True)
class Report:
    """`age`: seconds since the replica began to serve xDS. `models`: of those asked for, the ones that it serves.

    `loads` by cluster and node id, with every cluster asked for that the replica's Envoys have, heard of or not.
    `routed`: of the clusters asked for, those to which a route or a mirror of the present plans leads.
    `reporting`: nodes that send load reports at all. `gateways`: connected clients.
    """

    identity: str
    age: float
    gateways: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, Progress] = field(default_factory=dict)
    loads: Mapping[str, Mapping[str, Load]] = field(default_factory=dict)
    reporting: frozenset[str] = frozenset()
    routed: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "age": round(self.age, 3),
            "gateways": dict(self.gateways),
            "models": {
                name: {
                    "version": one.version,
                    "gateway": one.gateway,
                    "nodes": sorted(one.nodes),
                    "lagging": dict(one.lagging),
                }
                for name, one in self.models.items()
            },
            "loads": {
                cluster: {
                    node: {"inProgress": one.in_progress, "age": round(one.age, 3)} for node, one in nodes.items()
                }
                for cluster, nodes in self.loads.items()
            },
            "reporting": sorted(self.reporting),
            "routed": sorted(self.routed),
        }

    @classmethod
    def from_json(cls, raw: Any) -> Report:
        """What `to_json` made. Raises ValueError for anything else: another program may answer at that address."""
        try:
            return cls(
                identity=str(raw["identity"]),
                age=float(raw["age"]),
                gateways={str(name): int(one) for name, one in raw["gateways"].items()},
                models={
                    name: Progress(one["version"], one["gateway"], frozenset(one["nodes"]), dict(one["lagging"]))
                    for name, one in raw["models"].items()
                },
                loads={
                    cluster: {node: Load(int(one["inProgress"]), float(one["age"])) for node, one in nodes.items()}
                    for cluster, nodes in raw["loads"].items()
                },
                reporting=frozenset(raw["reporting"]),
                routed=frozenset(raw["routed"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as odd:
            raise ValueError(f"no report of a replica: {odd!r}") from odd


class Replica(Protocol):
    """One replica, this one or another. Asking for a cluster's load also begins it, for some seconds."""

    async def report(self, models: Collection[str], clusters: Collection[str]) -> Report: ...


@dataclass(frozen=True, slots=True)
class Reports:
    """Of every live replica, this one included; `unreachable` are those that should have answered and did not."""

    reports: tuple[Report, ...] = ()
    unreachable: tuple[str, ...] = ()


class Fleet(Protocol):
    """All live replicas. Asking never fails: whoever does not answer is told as unreachable."""

    async def ask(self, models: Collection[str], clusters: Collection[str]) -> Reports: ...
