"""Manifests and control planes for the tests of headgate."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
import yaml

from headgate.config import Config
from headgate.sink import Sink
from headgate.status import Status
from router.engine import Engine
from router.manifests import Located
from router.schema import ModelRollout
from router.store import Store
from xds.fleet import Envoy


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


WriteCertificate = Callable[..., tuple[Path, Path]]


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> WriteCertificate:
    """Write a fresh certificate and its key as NAME.pem and NAME.key."""

    def write(name: str = "server", *identities: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(*(identities or ("localhost", "127.0.0.1")))
        pem, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(pem))
        issued.private_key_pem.write_to_path(str(key))
        return pem, key

    return write


def rollout(name: str = "iris", **spec: object) -> dict[str, object]:
    """A manifest with one version, or whatever the test wants."""
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name},
        "spec": {
            "hosts": [f"{name}.example"],
            "versions": [{"name": "v1", "backend": {"endpoints": ["127.0.0.1:8001"]}}],
            **spec,
        },
    }


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def put(manifests: Path) -> Callable[..., Path]:
    """Write a manifest into the folder, in one step as an editor would."""

    def write(name: str = "iris", **spec: object) -> Path:
        file, scratch = manifests / f"{name}.yaml", manifests / f".{name}.tmp"
        scratch.write_text(yaml.safe_dump(rollout(name, **spec)))
        return scratch.replace(file)

    return write


@pytest.fixture
def config(manifests: Path) -> Config:
    """On free ports, with the folder of `put`."""
    return Config.model_validate({"xds": {"port": 0}, "http": {"port": 0}, "manifests": manifests})


@dataclass
class Connected:
    """A fleet of given clients."""

    now: list[Envoy] = field(default_factory=list)

    def envoys(self) -> tuple[Envoy, ...]:
        return tuple(self.now)


class Plane:
    """Store, engine and status, driven by hand."""

    def __init__(self) -> None:
        gateways = {gateway.name: gateway.as_ir() for gateway in Config().gateways}
        self.store, self.fleet, self.sink = Store(), Connected(), Sink(gateways.values())
        self.engine = Engine(self.store, self.sink, gateways=gateways, clock=lambda: 1_700_000_000.0)
        self.status = Status(self.store, self.engine, self.sink, self.fleet)

    def put(self, name: str = "iris", **spec: object) -> None:
        located = Located(ModelRollout.model_validate(rollout(name, **spec)), f"{name}.yaml:1")
        self.store.put(f"default/{name}", located)
        self.settle()

    def settle(self) -> None:
        for model in self.store.take_dirty():
            self.engine.update(model)

    def state(self, name: str = "iris") -> str:
        document = self.status.model(f"default/{name}")
        assert document is not None
        return document["state"]


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """A server on loopback that gives the answers put into it, by path."""
    said: dict[str, tuple[int, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = said.get(self.path, (404, "nothing here"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", said
    server.shutdown()
    thread.join()
    server.server_close()
