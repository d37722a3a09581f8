"""What a control plane has more of when it follows a cluster: a source, other replicas, and writing while it leads.

```
 Kubernetes (source) ─► Store ─► Engine ...          every replica
 Members, Peers: who else serves, and what their Envoys have applied
 Elector ─► one replica: StatusWriter, Finalizers, Events
```
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping

from headgate.config import Config
from headgate.replica import LocalReplica
from router.cluster.resource import Reference
from router.engine import Engine
from router.kube.client import Client
from router.kube.election import Timing
from router.kube.elector import Elector, Term
from router.kube.events import Events
from router.kube.finalizers import Finalizers
from router.kube.members import Member, Members, MemberTiming
from router.kube.peers import Peers
from router.kube.states import States
from router.kube.status_writer import Counters, StatusWriter
from router.sources.kubernetes import Kubernetes
from router.store import Store

log = logging.getLogger("headgate.cluster")

_ANY = ("0.0.0.0", "::", "")


class ClusterParts:
    """Made before anything runs; `run` once Envoys may connect."""

    def __init__(
        self, config: Config, client: Client, states: States, store: Store, engine: Engine, replica: LocalReplica
    ) -> None:
        self._config, self._client, self._store, self._engine = config, client, store, engine
        self._states, self._replica = states, replica
        section = config.kubernetes
        self.namespace = section.lease_namespace or client.namespace
        self.source = Kubernetes(
            client,
            namespace=section.namespace or "",
            types=section.types,
            modelmesh=section.modelmesh.found,
            watch_timeout=section.watch_timeout,
            on_status=states.adopt,
        )
        self._members: Members | None = None
        self._elector: Elector | None = None
        self._writer: StatusWriter | None = None
        self._finalizers: Finalizers | None = None

    async def run(self, http_port: int) -> None:
        """Take part: be found by the other replicas, and write while leading. Cancel it to leave."""
        section, client, identity = self._config.kubernetes, self._client, self._replica.identity
        members = Members(
            client,
            self.namespace,
            identity,
            f"{self._advertised()}:{http_port}",
            timing=MemberTiming.of(section.lease_duration),
        )
        events = Events(client, identity)
        async with Peers(self._replica, members) as peers:
            finalizers = Finalizers(
                client,
                self.source,
                self._engine,
                peers,
                events,
                types=section.types,
                quiet_since=members.quiet_since,
                told=lambda reference: self.progress({model for model, _ in self.source.users(reference)}),
            )

            def drains(model: str) -> Iterator[str]:
                for reference, why in finalizers.draining().items():
                    if any(user == model for user, _ in self.source.users(reference)):
                        yield f"{reference}: {why}"

            writer = StatusWriter(
                client,
                self.source,
                peers,
                identity=identity,
                model=self._engine.models().get,
                problems=self._store.problems_of,
                drains=drains,
                states=self._states,
                events=events,
                road=self.source.road,
            )

            async def lead(term: Term) -> None:
                async with asyncio.TaskGroup() as group:
                    for work in (writer.run(term), finalizers.run(term), events.run(term), members.sweep(term)):
                        group.create_task(work)

            timing = Timing.of(section.lease_duration)
            elector = Elector(client, self.namespace, section.lease_name, lead, identity=identity, timing=timing)
            self._states.changed = writer.mark
            self._engine.follow(writer.mark)
            for model in self._engine.models():
                writer.mark(model)
            self._members, self._elector, self._writer, self._finalizers = members, elector, writer, finalizers
            async with asyncio.TaskGroup() as group:
                group.create_task(members.run())
                await members.synced.wait()
                group.create_task(elector.run())

    def progress(self, models: Iterable[str]) -> None:
        """Envoys have taken, or refused, something of these models."""
        if self._writer is not None:
            for model in models:
                self._writer.mark(model)

    @property
    def leads(self) -> bool:
        """Whether this replica writes."""
        return self._elector is not None and self._elector.leading

    def members(self) -> tuple[Member, ...]:
        """Live replicas, this one included once it takes part."""
        return self._members.live() if self._members is not None else ()

    def draining(self) -> Mapping[Reference, str]:
        """What waits for its last requests, and why; only the leader knows."""
        return self._finalizers.draining() if self._finalizers is not None else {}

    def written(self) -> Counters | None:
        return self._writer.counters if self._writer is not None else None

    def notes(self) -> Mapping[str, str]:
        """What people should know, for /readyz?verbose."""
        trouble = self.source.trouble
        leader = self._elector.holder if self._elector else ""
        if leader == self._replica.identity:
            leader += " (this replica)"
        found = {
            "API server": f"{trouble}; what was seen last stays in force" if trouble else "followed",
            "leader": leader or ("unknown" if trouble else "none"),
            "replicas": ", ".join(f"{one.identity} at {one.address}" for one in self.members()) or "none",
        }
        return found | {f"draining {reference}": why for reference, why in self.draining().items()}

    def _advertised(self) -> str:
        """Where the other replicas find us: as configured, the pod's address, or that of this host."""
        chosen = self._config.kubernetes.advertise or os.environ.get("POD_IP", "")
        if chosen:
            return chosen if ":" not in chosen else f"[{chosen}]"
        if self._config.http.address not in _ANY:
            return self._config.http.address
        return _own_address()


def _own_address() -> str:
    """The address from which this host would reach others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
