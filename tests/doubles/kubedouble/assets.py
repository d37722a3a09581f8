"""A real control plane for tests: etcd and kube-apiserver from the folder that KUBEBUILDER_ASSETS names.

Only loopback, only ephemeral ports, everything it writes in one folder. No controller manager runs, as in envtest:
dependents and namespaces are not deleted, Deployments get no Pods.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import trustme

from kubedouble.rbac import User

_START = 60.0
_STOP = 10.0


class Broken(Exception):
    """The control plane did not come up; the message ends with the last lines of its log."""


def etcd_command(binary: Path, folder: Path, port: int) -> list[str]:
    url = f"http://127.0.0.1:{port}"
    return [
        str(binary),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]


def api_server_command(binary: Path, folder: Path, port: int, etcd_port: int) -> list[str]:
    key = folder / "server.key"
    return [
        str(binary),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={key}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
        f"--service-account-issuer=https://127.0.0.1:{port}/",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--allow-privileged=true",
    ]


def token_lines(tokens: Mapping[str, User]) -> str:
    """The API server's --token-auth-file: token, user, uid, groups."""
    lines = (f'{token},{user.name},{user.name},"{",".join(user.groups)}"' for token, user in tokens.items())
    return "\n".join(lines) + "\n"


class ControlPlane:
    """`with ControlPlane(assets, folder, tokens) as real:` runs both programs; `real.url` takes the tokens."""

    def __init__(self, assets: Path, folder: Path, tokens: Mapping[str, User]) -> None:
        self.ca = trustme.CA()
        self.url = ""
        self._assets = assets
        self._folder = folder
        self._tokens = dict(tokens)
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        missing = [name for name in ("etcd", "kube-apiserver") if not (self._assets / name).is_file()]
        if missing:
            raise Broken(f"KUBEBUILDER_ASSETS={self._assets} holds no {' and no '.join(missing)}")
        self._folder.mkdir(parents=True, exist_ok=True)
        certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(self._folder / "server.key")
        certificate.cert_chain_pems[0].write_to_path(self._folder / "server.crt")
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(token_lines(self._tokens))
        etcd_port, port = _free_ports(2)
        self.url = f"https://127.0.0.1:{port}"
        try:
            self._run("etcd", etcd_command(self._assets / "etcd", self._folder, etcd_port))
            command = api_server_command(self._assets / "kube-apiserver", self._folder, port, etcd_port)
            self._run("kube-apiserver", command)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The API server first: without etcd it would only complain."""
        while self._running:
            process = self._running.pop()
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, name: str, command: Iterable[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running.append(subprocess.Popen([*command], stdout=log, stderr=log, cwd=self._folder))

    def _wait_until_ready(self) -> None:
        trust = ssl.create_default_context()
        self.ca.configure_trust(trust)
        token = next(iter(self._tokens), "")
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {token}"})
        until = time.monotonic() + _START
        said = "it did not answer"
        while time.monotonic() < until:
            self._refuse_ended()
            try:
                with urllib.request.urlopen(request, timeout=2, context=trust) as answer:
                    answer.read()
                    return
            except (OSError, urllib.error.URLError) as fault:
                said = str(fault)
            time.sleep(0.05)
        raise Broken(f"kube-apiserver was not ready within {_START:g} s: {said}\n{self._log('kube-apiserver')}")

    def _refuse_ended(self) -> None:
        for name, process in zip(("etcd", "kube-apiserver"), self._running, strict=False):
            if process.poll() is not None:
                raise Broken(f"{name} ended with {process.returncode}\n{self._log(name)}")

    def _log(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-10:])


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
