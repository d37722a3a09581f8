"""Certificates reach Envoy when they fit together, follow their files, and a half-done rotation does no harm."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.certificates import Certificates
from headgate.config import Gateway
from headgate.expiry import ends
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


def test_an_expired_certificate_does_not_take_the_place_of_a_good_one(certificate, authority, caplog) -> None:
    pem, key = certificate("server")
    seen = Seen()
    certificates = Certificates([gateway(pem, key)], seen.publish, seen.report)
    certificates.load()
    old = authority.issue_cert("localhost", not_after=datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    old.cert_chain_pems[0].write_to_path(str(pem))
    old.private_key_pem.write_to_path(str(key))
    certificates.load()
    certificates.load()
    assert seen.published == 1
    assert [problem.what for problem in seen.problems] == [f"certificate {pem} expired at 2020-01-02 03:04:05 UTC"]
    assert caplog.text.count("expired at") == 1


def test_an_expired_certificate_is_better_than_none(authority, tmp_path: Path) -> None:
    old = authority.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    old.cert_chain_pems[0].write_to_path(str(tmp_path / "old.pem"))
    old.private_key_pem.write_to_path(str(tmp_path / "old.key"))
    seen = Seen()
    Certificates([gateway(tmp_path / "old.pem", tmp_path / "old.key")], seen.publish, seen.report).load()
    assert "edge/https" in seen.secrets["edge"]
    assert "expired at 2020-01-01 00:00:00 UTC" in seen.problems[0].what


def test_a_certificate_that_ends_while_we_run_is_told(certificate) -> None:
    async def scenario() -> None:
        pem, key = certificate("server")
        end = ends(pem.read_bytes())
        assert end is not None
        now = end.timestamp() - 1
        seen = Seen()
        certificates = Certificates([gateway(pem, key)], seen.publish, seen.report, every=0.001, clock=lambda: now)
        task = await running(certificates, seen)
        assert seen.problems == ()
        now += 1
        await seen.until(lambda: bool(seen.problems))
        task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("year", [1960, 2049, 2050, 2199])
def test_the_end_of_a_certificate_is_read_from_its_bytes(authority, year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    issued = authority.issue_cert("localhost", not_before=datetime(1955, 1, 1, tzinfo=UTC), not_after=end)
    assert ends(issued.cert_chain_pems[0].bytes()) == end


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_bytes_that_are_no_certificate_have_no_end(noise: bytes) -> None:
    pem = ssl.DER_cert_to_PEM_cert(noise).encode()
    assert ends(pem) is None
    assert ends(noise) is None
