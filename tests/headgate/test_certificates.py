"""Certificates reach Envoy when they fit together, follow their files, and a half-done rotation does no harm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from headgate.certificates import Certificates
from headgate.config import Gateway
from router.problem import Problem
from xds.resources import Resource
from xds.translate import secret, validation_context


class Seen:
    """Stands where the sink and the store are."""

    def __init__(self) -> None:
        self.secrets: dict[str, Mapping[str, Resource]] = {}
        self.published = 0
        self.problems: tuple[Problem, ...] = ()
        self.reported = asyncio.Event()

    def publish(self, gateway: str, secrets: Mapping[str, Resource]) -> None:
        self.published += 1
        self.secrets[gateway] = secrets

    def report(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        self.reported.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.reported.clear()
                await self.reported.wait()


def gateway(pem: Path, key: Path, ca: Path | None = None) -> Gateway:
    tls = {"certificate": pem, "key": key} | ({"clientCA": ca} if ca else {})
    return Gateway.model_validate({"name": "edge", "listeners": [{"name": "https", "tls": tls}]})


def test_a_gateway_without_tls_publishes_nothing() -> None:
    seen = Seen()
    Certificates([Gateway()], seen.publish, seen.report).load()
    assert seen.published == 0


def test_certificate_and_client_ca_become_secrets_under_the_listeners_names(certificate) -> None:
    pem, key = certificate("server")
    seen = Seen()
    Certificates([gateway(pem, key, pem)], seen.publish, seen.report).load()
    assert seen.secrets["edge"] == {
        "edge/https": secret("edge/https", pem.read_bytes(), key.read_bytes()),
        "edge/https/client-ca": validation_context("edge/https/client-ca", pem.read_bytes()),
    }


def test_the_same_files_are_published_once(certificate) -> None:
    seen = Seen()
    certificates = Certificates([gateway(*certificate("server"))], seen.publish, seen.report)
    certificates.load()
    certificates.load()
    assert seen.published == 1


def test_half_a_rotation_keeps_the_last_good_pair_and_says_so(certificate) -> None:
    pem, key = certificate("server")
    new_pem, new_key = certificate("new")
    seen = Seen()
    certificates = Certificates([gateway(pem, key)], seen.publish, seen.report)
    certificates.load()
    before = seen.secrets["edge"]

    new_pem.replace(pem)
    certificates.load()
    assert seen.secrets["edge"] == before
    [problem] = seen.problems
    assert (problem.where, problem.field) == ("gateway edge, listener https", "tls")
    assert "do not belong together" in problem.what

    new_key.replace(key)
    certificates.load()
    assert seen.problems == ()
    assert seen.secrets["edge"] == {"edge/https": secret("edge/https", pem.read_bytes(), key.read_bytes())}


@pytest.mark.parametrize("lost", ["server.pem", "server.key"])
def test_a_lost_file_keeps_the_last_good_pair_and_says_so(certificate, tmp_path: Path, lost: str) -> None:
    seen = Seen()
    certificates = Certificates([gateway(*certificate("server"))], seen.publish, seen.report)
    certificates.load()
    (tmp_path / lost).unlink()
    certificates.load()
    assert seen.published == 1
    [problem] = seen.problems
    assert lost in problem.what


async def running(certificates: Certificates, seen: Seen) -> asyncio.Task[None]:
    """Run it until it has had its first look, so that what follows is a change."""
    seen.reported.clear()
    task = asyncio.create_task(certificates.run())
    await seen.reported.wait()
    return task


def test_changed_files_are_noticed(certificate) -> None:
    async def scenario() -> None:
        pem, key = certificate("server")
        seen = Seen()
        certificates = Certificates([gateway(pem, key)], seen.publish, seen.report, every=0.01)
        certificates.load()
        task = await running(certificates, seen)
        new_pem, new_key = certificate("new")
        new_pem.replace(pem)
        new_key.replace(key)
        wanted = {"edge/https": secret("edge/https", pem.read_bytes(), key.read_bytes())}
        await seen.until(lambda: seen.secrets["edge"] == wanted)
        task.cancel()

    asyncio.run(scenario())


def test_turning_the_link_of_a_mounted_secret_is_noticed(certificate, tmp_path: Path) -> None:
    async def scenario() -> None:
        for name in ("old", "new"):
            (tmp_path / name).mkdir()
            for file, kind in zip(certificate(name), ("tls.crt", "tls.key"), strict=True):
                file.rename(tmp_path / name / kind)
        mount = tmp_path / "mount"
        mount.mkdir()
        (mount / "..data").symlink_to(tmp_path / "old")
        for kind in ("tls.crt", "tls.key"):
            (mount / kind).symlink_to(Path("..data") / kind)
        seen = Seen()
        certificates = Certificates(
            [gateway(mount / "tls.crt", mount / "tls.key")], seen.publish, seen.report, every=0.01
        )
        certificates.load()
        task = await running(certificates, seen)
        (mount / "..new").symlink_to(tmp_path / "new")
        (mount / "..new").rename(mount / "..data")
        pair = (tmp_path / "new" / "tls.crt").read_bytes(), (tmp_path / "new" / "tls.key").read_bytes()
        await seen.until(lambda: seen.secrets["edge"] == {"edge/https": secret("edge/https", *pair)})
        task.cancel()

    asyncio.run(scenario())
