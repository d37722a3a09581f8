"""Fixtures for every test that needs a cluster; a conftest.py takes them by `from kubedouble.fixture import cluster`.

`cluster` is a real control plane when KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd, else the double:
a test must not be able to tell. RBAC is on; our CRDs and the roles of deploy/kustomize are installed.
`double` is always the double, for tests that need it to misbehave.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
import yaml

from kubedouble.assets import ControlPlane
from kubedouble.faults import Faults
from kubedouble.rbac import User
from kubedouble.server import ApiServer

Object = dict[str, Any]
Answer = TypeVar("Answer")
ROOT = Path(__file__).parents[3]
NAMESPACE = "headgate"
USERS = {
    "admin": User.admin(),
    "headgate": User.service_account(NAMESPACE, "headgate"),
    "nobody": User("nobody"),
}
_ROLES = ("deploy/kustomize/base/control-plane.yaml", "deploy/kustomize/overlays/cluster/rbac.yaml")
_INSTALLED = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
_OURS = {"default", "kube-system", "kube-public", "kube-node-lease", NAMESPACE}
_KEPT = {("default", "kubernetes")}
_JSON, _MERGE, _APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"


class Refused(Exception):
    """The API server's answer was no Object."""

    def __init__(self, status: int, body: Object) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', '')}")
        self.status = status
        self.body = body


class Cluster:
    """An API server, its users, and a plain client of it (which waits: not for use in the server's own thread)."""

    def __init__(self, url: str, ca: trustme.CA, folder: Path) -> None:
        self.url = url
        self.ca = ca.cert_pem.bytes().decode()
        self._folder = folder
        self._trust = ssl.create_default_context(cadata=self.ca)
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    @staticmethod
    def token(user: str = "admin") -> str:
        return f"token-of-{user}"

    def kubeconfig(self, user: str = "admin", namespace: str = "default") -> Path:
        """A kubeconfig file for one of USERS: `admin` may do anything, `headgate` what its ClusterRole says."""
        authority = self._folder / "ca.crt"
        authority.write_text(self.ca)
        context = {"cluster": "test", "user": user, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(authority)}}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }
        file = self._folder / f"{user}-{namespace}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(config))
        return file

    # -- objects

    def create(self, obj: Object, *, user: str = "admin") -> Object:
        return self.ask("POST", self._list_of(obj), obj, user=user)

    def apply(self, obj: Object, *, user: str = "admin") -> Object:
        """Create the object, or make it so (server-side apply); a status that is given is written too."""
        path, force = f"{self._list_of(obj)}/{obj['metadata']['name']}", "?fieldManager=test&force=true"
        wanted = {key: each for key, each in obj.items() if key != "status"}
        stored = self.ask("PATCH", path + force, wanted, kind=_APPLY, user=user)
        if "status" in obj:
            stored = self.ask("PATCH", f"{path}/status", {"status": obj["status"]}, kind=_MERGE, user=user)
        return stored

    def get(self, api_version: str, kind: str, name: str, namespace: str = "default") -> Object:
        return self.ask("GET", self.path(api_version, kind, name, namespace))

    def find(self, api_version: str, kind: str, name: str, namespace: str = "default") -> Object | None:
        try:
            return self.get(api_version, kind, name, namespace)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    def list(self, api_version: str, kind: str, namespace: str = "") -> list[Object]:
        """All of a kind; in all namespaces when none is given."""
        items: list[Object] = self.ask("GET", self.path(api_version, kind, "", namespace))["items"]
        return items

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        change: Object,
        namespace: str = "default",
        *,
        subresource: str = "",
        user: str = "admin",
    ) -> Object:
        """A JSON merge patch."""
        path = self.path(api_version, kind, name, namespace) + (f"/{subresource}" if subresource else "")
        return self.ask("PATCH", path, change, kind=_MERGE, user=user)

    def delete(self, api_version: str, kind: str, name: str, namespace: str = "default") -> None:
        self.ask("DELETE", self.path(api_version, kind, name, namespace))

    def path(self, api_version: str, kind: str, name: str = "", namespace: str = "default") -> str:
        if (api_version, kind) not in self._paths:
            self._discover(api_version)
        if (api_version, kind) not in self._paths:
            raise LookupError(f"the server has no kind {kind} in {api_version}: create its CRD first")
        plural, namespaced = self._paths[api_version, kind]
        where = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{_root(api_version)}{where}/{plural}" + (f"/{name}" if name else "")

    def _list_of(self, obj: Object) -> str:
        namespace = obj["metadata"].get("namespace", "default")
        return self.path(obj["apiVersion"], obj["kind"], "", namespace)

    def _discover(self, api_version: str) -> None:
        for each in self.ask("GET", _root(api_version))["resources"]:
            if "/" not in each["name"]:
                self._paths[api_version, each["kind"]] = each["name"], each["namespaced"]

    def ask(
        self, method: str, path: str, body: Object | None = None, *, kind: str = _JSON, user: str = "admin"
    ) -> Object:
        headers = {"Authorization": f"Bearer {self.token(user)}", "Accept": _JSON, "Content-Type": kind}
        sent = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, sent, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._trust) as answer:
                found: Object = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as refused:
            said = refused.read().decode(errors="replace")
            try:
                raise Refused(refused.code, json.loads(said)) from None
            except ValueError:
                raise Refused(refused.code, {"message": said.strip()}) from None

    # -- conditions

    def until(self, true: Callable[[], Answer], within: float = 10.0) -> Answer:
        """Wait for a condition and return what it returned."""
        ends = time.monotonic() + within
        while not (found := true()):
            assert time.monotonic() < ends, f"it did not become true within {within:g} s"
            time.sleep(0.02)
        return found

    # -- our own things

    def install(self) -> None:
        """Our CRDs, and the service account with its roles that the manifests give it."""
        for file in sorted((ROOT / "deploy/crds").glob("*.yaml")):
            for document in yaml.safe_load_all(file.read_text()):
                if document.get("kind") == "CustomResourceDefinition":
                    self.install_crd(document)
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for name in _ROLES:
            for document in yaml.safe_load_all((ROOT / name).read_text()):
                if document and document.get("kind") in _INSTALLED:
                    if not document["kind"].startswith("Cluster"):
                        document["metadata"].setdefault("namespace", NAMESPACE)  # as the overlay does
                    self.apply(document)

    def install_crd(self, definition: Object) -> None:
        """Install a CRD and wait until its kind is served."""
        self.apply(definition)
        spec = definition["spec"]
        served = next(version["name"] for version in spec["versions"] if version.get("served"))
        path = f"/apis/{spec['group']}/{served}/{spec['names']['plural']}"
        self.until(lambda: self._answers(path), 30)

    def _answers(self, path: str) -> bool:
        try:
            self.ask("GET", path)
        except Refused:
            return False
        return True

    def clean(self) -> None:
        """Take away what a test left, so that the next one finds an empty cluster. No controller helps with that."""
        for root, resource in self._everything():
            path = f"{root}/{resource['name']}"
            for item in self.ask("GET", path)["items"]:
                self._remove(root, resource, item["metadata"])
        for item in self.list("v1", "Namespace"):
            if (name := item["metadata"]["name"]) not in _OURS:
                self._answers_delete(f"/api/v1/namespaces/{name}")
                self._finalize(name)
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for item in self.ask("GET", crds)["items"]:
            if item["spec"]["group"] != "headgate.dev":
                path = f"{crds}/{item['metadata']['name']}"
                self._answers_delete(path)
                self.until(lambda path=path: not self._answers(path))  # type: ignore[misc]
        self._paths = {}

    def _everything(self) -> Iterator[tuple[str, Object]]:
        roots = ["/api/v1", *(_root(g["preferredVersion"]["groupVersion"]) for g in self.ask("GET", "/apis")["groups"])]
        for root in roots:
            if "rbac.authorization" in root or root == "/apis/events.k8s.io/v1":
                continue  # roles stay, and these are core Events once more
            for resource in self.ask("GET", root)["resources"]:
                if resource["namespaced"] and {"list", "delete"} <= {*resource["verbs"]}:
                    yield root, resource

    def _remove(self, root: str, resource: Object, meta: Object) -> None:
        namespace, name = meta["namespace"], meta["name"]
        if (namespace, name) in _KEPT or namespace.startswith("kube-") or resource["name"] == "serviceaccounts":
            return
        path = f"{root}/namespaces/{namespace}/{resource['name']}/{urllib.parse.quote(name)}"
        if meta.get("finalizers"):
            self.ask("PATCH", path, {"metadata": {"finalizers": None}}, kind=_MERGE)
        self._answers_delete(path)

    def _answers_delete(self, path: str) -> None:
        try:
            self.ask("DELETE", path)
        except Refused as refused:
            if refused.status not in (404, 409):
                raise

    def _finalize(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        try:
            self.ask("PUT", f"/api/v1/namespaces/{name}/finalize", body)
        except Refused as refused:
            if refused.status not in (404, 409):
                raise


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


class Double(Cluster):
    """The double in a thread of its own, with its switches."""

    def __init__(self, folder: Path, **options: Any) -> None:
        authority = trustme.CA()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
        tokens = {self.token(name): user for name, user in USERS.items()}
        self.api = ApiServer(tls=tls, tokens=tokens, rbac=True, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubedouble", daemon=True)
        self._thread.start()
        self.start()
        super().__init__(self.api.url, authority, folder)

    @property
    def faults(self) -> Faults:
        return self.api.faults

    def start(self) -> None:
        """Listen (again, on the same port, with all objects as they were)."""
        asyncio.run_coroutine_threadsafe(self.api.start(), self._loop).result(10)

    def stop(self) -> None:
        """An outage."""
        asyncio.run_coroutine_threadsafe(self.api.stop(), self._loop).result(10)

    def do(self, act: Callable[[ApiServer], Answer]) -> Answer:
        """Run something in the server's thread: `double.do(ApiServer.drop_watches)`."""

        async def run() -> Answer:
            return act(self.api)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


_real: list[tuple[ControlPlane, Cluster]] = []


def real_cluster(assets: Path) -> Cluster:
    """The control plane of this process: started by the first test that asks, emptied before each further one."""
    if _real:
        _real[0][1].clean()
        return _real[0][1]
    folder = Path(tempfile.mkdtemp(prefix="headgate-control-plane-"))
    tokens = {Cluster.token(name): user for name, user in USERS.items()}
    plane = ControlPlane(assets, folder, tokens)
    plane.start()
    found = Cluster(plane.url, plane.ca, folder)
    _real.append((plane, found))
    atexit.register(end_real_cluster)
    found.install()
    return found


def end_real_cluster() -> None:
    while _real:
        plane, found = _real.pop()
        plane.stop()
        shutil.rmtree(found._folder, ignore_errors=True)


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    found = Double(tmp_path)
    try:
        found.install()
        yield found
    finally:
        found.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        yield real_cluster(Path(assets))
        return
    found = Double(tmp_path)
    try:
        found.install()
        yield found
    finally:
        found.close()
