"""Around the API server of the Kubernetes benchmark: its clients. `headgate serve --kubernetes`, Envoy, who edits."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.child import Child, cpu_seconds, resident
from benchmarks.coldstart import free_port, peak_mb
from benchmarks.kube_objects import NAMESPACE, WATCHED, available, versions
from benchmarks.report import ROOT

CONFIG = """\
gateways:
- name: default
  listeners:
  - {name: http, address: 127.0.0.1, port: 0}
kubernetes: {advertise: 127.0.0.1}
"""
_DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{WATCHED}-v2/status"
_ROLLOUT = f"/apis/headgate.dev/v1alpha1/namespaces/{NAMESPACE}/modelrollouts/{WATCHED}"


class Api:
    """The API server's process, and one open connection to it for edits: a handshake is no part of a change."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.said = child.hear("listening", 120)
        trust = ssl.create_default_context(cadata=self.said["ca"])
        self._connection = http.client.HTTPSConnection(urlsplit(self.said["url"]).netloc, context=trust, timeout=60)

    @property
    def kubeconfig(self) -> str:
        return str(self.said["kubeconfig"])

    def load(self, models: int, ports: dict[str, int]) -> None:
        self.child.do("load", models=models, ports=ports, address=address())
        self.child.hear("loaded", 900)

    def counts(self) -> dict[str, Any]:
        self.child.do("count")
        return self.child.hear("counts", 120)

    def committed(self) -> float | None:
        """When the last edit was stored; None when the server cannot tell."""
        self.child.do("commit")
        at: float | None = self.child.hear("commit", 30)["at"]
        return at

    def weigh(self, second: int) -> None:
        """Edit the weights of the watched rollout."""
        self._patch(_ROLLOUT, {"spec": {"versions": versions(0, second)}})

    def ready(self, ready: bool) -> None:
        """What a Deployment's controller writes when its Pods become ready or stop being so."""
        self._patch(_DEPLOYMENT, {"status": available(ready)})

    def _patch(self, path: str, change: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self.said['token']}", "Content-Type": "application/merge-patch+json"}
        for attempt in range(2):
            try:
                self._connection.request("PATCH", path, json.dumps(change), headers)
                answer = self._connection.getresponse()
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()  # it was idle for too long
                if attempt:
                    raise
                continue
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"PATCH {path}: {answer.status} {body[:500]!r}")
            return


class Serve:
    """One `headgate serve --kubernetes` process."""

    def __init__(self, kubeconfig: str, folder: Path, ports: tuple[int, int] | None = None) -> None:
        self.xds, self.http = ports or (free_port(), free_port())
        config = folder / "headgate.yaml"
        config.write_text(CONFIG)
        self.log = folder / "serve.log"
        command = [sys.executable, "-c", "from headgate.cli import main; main()", "serve", "--kubernetes"]
        command += ["--kubeconfig", kubeconfig, "--config", str(config), "--log-level", "warning"]
        command += ["--xds", f"127.0.0.1:{self.xds}", "--http", f"127.0.0.1:{self.http}"]
        with self.log.open("a") as said:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As Kubernetes does it: SIGTERM, and time to give leadership back."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise if it has died."""
        if self._process.poll() is not None:
            raise RuntimeError(f"headgate serve ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def resident_mb(self) -> float:
        return resident(self.pid) / 1e6

    def peak_mb(self) -> float:
        return peak_mb(self.pid)


def address() -> str:
    """Where the model servers are for Envoy: a real API server refuses loopback addresses in an EndpointSlice."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
