"""The API server of the Kubernetes benchmark, in a process of its own: the tests' double, or a real one.

`python benchmarks/kube_server.py` starts the double; with KUBEBUILDER_ASSETS set, the etcd and kube-apiserver there.
It tells {"event": "listening", "url", "ca", "token", "kubeconfig"}; commands are JSON lines on stdin:

    {"do": "load", "models": N, "ports": {...}, "address": A}   create everything; tells "loaded"
    {"do": "count"}                                             tells "counts", see `Counts`
    {"do": "commit"}                                            tells "commit", when the last edit was stored
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.kube_objects import NAMESPACE, WATCHED, Object, cluster
from benchmarks.report import ROOT

sys.path.append(str(ROOT / "tests" / "doubles"))

from kubedouble.fixture import NAMESPACE as OWN
from kubedouble.fixture import Cluster, Double, real_cluster
from kubedouble.server import ApiServer, Request
from kubedouble.storage import Change

ROLLOUTS = ("headgate.dev", "modelrollouts")
PROTECTED = (("apps", "deployments"), ("", "services"))
_AT_ONCE = 200
_KINDS = (("headgate.dev/v1alpha1", "ModelRollout"), ("apps/v1", "Deployment"), ("v1", "Service"))


@dataclass
class Counts:
    """`written` rollouts have a status of their present generation, `programmed` ones were ACKed by every Envoy.

    `protected` objects carry a finalizer. `requests` since the start, by kind; a real server does not tell them.
    """

    rollouts: int = 0
    written: int = 0
    programmed: int = 0
    protected: int = 0
    requests: dict[str, int] = field(default_factory=dict)


def counted(rollouts: Iterable[Object], others: Iterable[Object]) -> Counts:
    found = Counts()
    for one in rollouts:
        status = one.get("status", {})
        found.rollouts += 1
        found.written += status.get("observedGeneration") == one["metadata"]["generation"]
        found.programmed += any(
            each["type"] == "Programmed" and each["status"] == "True" for each in status.get("conditions", ())
        )
    found.protected = sum(bool(one["metadata"].get("finalizers")) for one in others)
    return found


class Tally(deque[Request]):
    """Counts requests by what they are for, instead of keeping them."""

    def __init__(self) -> None:
        super().__init__(maxlen=1)
        self.by_kind: Counter[str] = Counter()

    def append(self, request: Request) -> None:
        if not request.user_agent or request.user_agent.startswith("Python-urllib"):
            return  # the benchmark's own
        if "/leases" in request.path:
            kind = "leases"
        elif request.watch:
            kind = "watches"
        elif request.path.endswith("/status"):
            kind = "statuses"
        elif request.method == "PATCH":
            kind = "finalizers"
        else:
            kind = "events" if "/events" in request.path else f"other {request.method}"
        self.by_kind[kind] += 1


class OfDouble:
    """Loads and counts without HTTP, which would take minutes."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Double(folder, loopback_endpoints=True)
        self.cluster.install()
        self._tally = Tally()
        self.cluster.api.requests = self._tally
        self.cluster.api.storage.listen(self._heard)
        self.committed: float | None = None
        """When the watched rollout's spec, or a Deployment of its, was changed last."""

    def _heard(self, change: Change) -> None:
        name, before = change.after.data["metadata"]["name"], change.before
        if before is None or not name.startswith(WATCHED):
            return
        part = {"modelrollouts": "spec", "deployments": "status"}.get(change.resource[1])
        if part is not None and before.data.get(part) != change.after.data.get(part):
            self.committed = time.monotonic()

    def load(self, objects: Iterator[Object]) -> None:
        while some := list(islice(objects, _AT_ONCE)):
            self.cluster.do(partial(put, objects=some))
        self.committed = None

    def counts(self) -> Counts:
        found = self.cluster.do(self._count)
        found.requests = dict(self._tally.by_kind)
        return found

    @staticmethod
    def _count(api: ApiServer) -> Counts:
        others = (one.data for kind in PROTECTED for one in api.storage.every(kind, NAMESPACE))
        return counted((one.data for one in api.storage.every(ROLLOUTS)), others)


def put(api: ApiServer, objects: Iterable[Object]) -> None:
    """Create them; a second write only for a status, which no creation takes."""
    for obj in objects:
        api.create(obj)
        if "status" in obj:
            api.apply(obj)


class OfReal:
    """A kube-apiserver, over HTTP like everybody."""

    committed: float | None = None
    """Nobody outside knows."""

    def __init__(self, assets: Path) -> None:
        self.cluster = real_cluster(assets)

    def load(self, objects: Iterator[Object]) -> None:
        rollouts = []
        self.cluster.apply(next(objects))  # the namespace
        with ThreadPoolExecutor(8) as pool:
            while some := list(islice(objects, _AT_ONCE)):
                rollouts += [one for one in some if one["kind"] == "ModelRollout"]
                list(pool.map(self.cluster.apply, (one for one in some if one["kind"] != "ModelRollout")))
            list(pool.map(self.cluster.apply, rollouts))

    def counts(self) -> Counts:
        rollouts, *others = (self.cluster.list(version, kind, NAMESPACE) for version, kind in _KINDS)
        return counted(rollouts, (one for each in others for one in each))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-api-server-") as folder:
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        server = OfReal(Path(assets)) if assets else OfDouble(Path(folder))
        api: Cluster = server.cluster
        tell("listening", url=api.url, ca=api.ca, token=api.token(), kubeconfig=str(api.kubeconfig("headgate", OWN)))
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["do"] == "load":
                server.load(cluster(asked["models"], asked["ports"], asked["address"]))
                # A walk through 35,000 objects takes this Python up to 2 s, which would count as headgate's.
                gc.freeze()
                gc.disable()
                tell("loaded")
            elif asked["do"] == "commit":
                tell("commit", at=server.committed)
            else:
                tell("counts", **asdict(server.counts()))


def tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


if __name__ == "__main__":
    main()
