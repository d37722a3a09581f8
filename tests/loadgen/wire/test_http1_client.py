"""The HTTP/1.1 client against a server that answers well, badly, late, in part or not at all."""

from hub_thread import exchange
from raw_server import Peer, raw_server

from loadgen.plan import Load, Scenario, Target

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\napp-version: v1\r\n\r\nok"


def scenario(url: str, load: Load | None = None, **target: object) -> Scenario:
    target.setdefault("method", "POST")
    return Scenario("a", Target(url, **target), load or Load("max", requests=1))


async def well(peer: Peer) -> None:
    while await peer.request():
        await peer.send(OK)


def test_calls_one_after_another_share_a_connection() -> None:
    with raw_server(well) as server:
        calls = exchange(scenario(server.url()), [b"one", b"two", b"three"])
    assert [(call.code, call.version, call.failure) for call in calls] == [("200", "v1", None)] * 3
    assert len(server.peers) == 1
    assert [call.connected > 0 for call in calls] == [True, False, False]
    for call in calls:
        assert 0 < call.sent < call.first <= call.ended
        assert call.received == len(OK)
