"""TLS: whom the client trusts, what it shows of itself, and what it says when that fails."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from hub_thread import exchange
from raw_server import Peer, RawServer, raw_server

from loadgen.plan import Load, Scenario, Target, Tls
from loadgen.security import tls_context
from loadgen.wire.call import Call

ROOT = Path(__file__).resolve().parents[3]
BODY = bytes(range(256)) * 12_000


@dataclass(frozen=True)
class Rig:
    server: RawServer
    ca: str  # a file
    ca_text: str
    folder: Path
    authority: trustme.CA


async def echo(peer: Peer) -> None:
    while request := await peer.request():
        body = request.partition(b"\r\n\r\n")[2]
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\napp-version: v1\r\n\r\n%b" % (len(body), body))


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    text = authority.cert_pem.bytes().decode()
    with raw_server(echo, server_context(authority, "127.0.0.1", "models.example")) as server:
        yield Rig(server, str(folder / "ca.pem"), text, folder, authority)


def ask(server: RawServer, tls: Tls, bodies: list[bytes] | None = None, **target: object) -> list[Call]:
    made = Target(server.url(scheme="https"), method="POST", tls=tls, **target)
    return exchange(Scenario("a", made, Load("max", requests=1)), bodies or [b"x"])


def test_bodies_of_any_size_come_back_over_one_connection(rig: Rig) -> None:
    calls = ask(rig.server, Tls(ca=rig.ca), [b"a", BODY, b"", b"b"])
    assert [(call.code, call.version, call.failure) for call in calls] == [("200", "v1", None)] * 4
    assert [call.connected > 0 for call in calls] == [True, False, False, False]
    assert calls[1].received > len(BODY)


@pytest.mark.parametrize("name", [None, "models.example"])
def test_a_ca_may_be_a_file_or_its_text(rig: Rig, name: str | None) -> None:
    for ca in (rig.ca, rig.ca_text):
        assert ask(rig.server, Tls(ca=ca, server_name=name))[0].failure is None


def test_a_certificate_that_nobody_vouches_for_is_refused_and_the_reason_told(rig: Rig) -> None:
    (call,) = ask(rig.server, Tls())
    assert call.failure == "tls"
    assert "certificate is not trusted" in call.message
    (call,) = ask(rig.server, Tls(ca=rig.ca, server_name="other.example"))
    assert call.failure == "tls"
    assert "other.example" in call.message
    assert ask(rig.server, Tls(verify=False, server_name="other.example"))[0].failure is None


def test_a_server_without_tls_is_told_from_one_that_hangs_up() -> None:
    async def plain(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.send(b"HTTP/1.1 400 Bad request\r\nconnection: close\r\n\r\n")

    async def rude(peer: Peer) -> None:
        await peer.reader.read(100)

    with raw_server(plain) as server:
        (call,) = ask(server, Tls())
        assert (call.failure, "does not speak TLS" in call.message) == ("tls", True)
    with raw_server(rude) as server:
        (call,) = ask(server, Tls())
        assert call.failure in ("tls", "connection reset")  # it may leave bytes of the handshake unread
        assert "in the TLS handshake" in call.message


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_may_ask_for_a_client_certificate(rig: Rig, version: ssl.TLSVersion) -> None:
    mine = rig.authority.issue_cert("client.example")
    mine.cert_chain_pems[0].write_to_path(str(rig.folder / "client.pem"))
    mine.private_key_pem.write_to_path(str(rig.folder / "client.key"))
    context = server_context(rig.authority, "127.0.0.1")
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    rig.authority.configure_trust(context)
    with raw_server(echo, context) as server:
        (call,) = ask(server, Tls(ca=rig.ca))
        assert call.failure in ("tls", "closed early", "connection reset")  # not every server says why
        assert call.code == ""
        assert "certificate" in call.message.lower() or call.failure == "connection reset"
        files = Tls(ca=rig.ca, certificate=str(rig.folder / "client.pem"), key=str(rig.folder / "client.key"))
        texts = Tls(ca=rig.ca, certificate=mine.private_key_and_cert_chain_pem.bytes().decode())
        for tls in (files, texts):
            assert ask(server, tls)[0].failure is None


def test_an_end_without_a_farewell_may_be_somebody_elses_doing(rig: Rig) -> None:
    """A body that ends with its connection is whole only if the server said that it was ending it."""

    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        if peer.number == 0:
            peer.writer.transport.abort()  # TCP's end, without TLS's

    with raw_server(cut, server_context(rig.authority, "127.0.0.1")) as server:
        first, second = ask(server, Tls(ca=rig.ca), [b"x", b"y"])
    assert first.failure in ("closed early", "connection reset")
    assert second.failure is None


def test_settings_that_cannot_work_are_told_before_anything_is_sent(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for tls, what in (
        (Tls(ca="/no/such/ca.pem"), r"CA's certificates cannot be read \(/no/such/ca.pem\): No such file"),
        (Tls(ca=str(tmp_path / "empty.pem")), "CA's certificates cannot be read"),
        (Tls(ca="-----BEGIN CERTIFICATE-----\nnonsense"), "CA's certificates cannot be read: "),
        (
            Tls(certificate="/no/such/client.pem"),
            r"client certificate or its key cannot be used \(/no/such/client.pem\)",
        ),
        (Tls(certificate=rig.ca), "client certificate or its key cannot be used"),
        (Tls(key="/some/key"), "a key without a certificate"),
    ):
        with pytest.raises(ValueError, match=what):
            tls_context(tls, ("http/1.1",))


PATCHED = """
import gevent.monkey
gevent.monkey.patch_all()
import sys
import gevent
from gevent.event import Event
from loadgen.plan import Load, Scenario, Target, Tls
from loadgen.wire.call import Call
from loadgen.wire.clients import open_client
ended = Event()
target = Target(sys.argv[1], method="POST", tls=Tls(ca=sys.argv[2], server_name="models.example"))
client = open_client(Scenario("a", target, Load("max", requests=1)), lambda call: ended.set())
call = Call()
client.send(call, b"x" * 300000)
ended.wait(60)
client.close()
print(call.code, call.version, call.failure, call.message)
"""


def test_the_client_works_where_gevent_has_patched_the_process(rig: Rig) -> None:
    url = rig.server.url(scheme="https").replace("127.0.0.1", "localhost")
    command = [sys.executable, "-c", PATCHED, url, rig.ca]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert said.stdout.strip() == "200 v1 None", said.stderr
