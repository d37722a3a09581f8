"""Steady traffic: every request has a fate, and the version that answered is the one that was routed to."""

import asyncio

import pytest
from aiohttp import web

from headgate.demo import ask as ask_command
from headgate.demo.figures import Ledger
from headgate.demo.model_server import ModelServer
from headgate.demo.traffic import Aim, GrpcClient, HttpClient, Traffic, ask, until


def asked(client_class, port, headers=None, timeout=5.0):
    async def one():
        client = client_class(Aim(port, "iris.example", timeout=timeout))
        try:
            return await ask(client, headers or {})
        finally:
            await client.close()

    return one()


@pytest.mark.parametrize("client", [HttpClient, GrpcClient])
def test_steady_traffic_keeps_its_rate_and_accounts_for_every_request(client):
    async def main():
        ledger = Ledger()
        async with ModelServer("v2", one_port=0) as server:
            loop = asyncio.get_running_loop()
            start = loop.time()
            async with Traffic(client(Aim(server.port, "iris.example")), ledger, 100):
                await until(lambda: ledger.sent >= 40, within=10, what="40 requests")
                seconds = loop.time() - start
            assert ledger.sent == ledger.ok == server.counts.requests
            assert (ledger.failed, ledger.in_flight) == (0, 0)
            assert set(ledger.versions) == {"v2"}
            assert seconds >= 0.39

    asyncio.run(main())


@pytest.mark.parametrize("client", [HttpClient, GrpcClient])
def test_a_stalled_server_does_not_hold_up_what_is_due(client):
    async def main():
        ledger = Ledger()
        async with ModelServer(one_port=0) as server:
            server.behave(hold=True)
            async with Traffic(client(Aim(server.port, "iris.example")), ledger, 200):
                await until(lambda: server.counts.in_flight >= 20, within=10, what="20 in flight")
                assert (ledger.ok, ledger.failed) == (0, 0)
                server.behave(hold=False)
            assert ledger.ok == ledger.sent >= 20
            assert max(answer.seconds for answer in ledger.answers(0)) > 0.05

    asyncio.run(main())


@pytest.mark.parametrize(
    ("client", "words"), [(HttpClient, "HTTP 500: "), (GrpcClient, "gRPC INTERNAL: an error as ordered")]
)
def test_a_failed_answer_is_told_in_the_servers_words(client, words):
    async def main():
        async with ModelServer(one_port=0) as server:
            server.behave(error_rate=1.0)
            answer = await asked(client, server.port)
            assert answer.error.startswith(words)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("client", "words"), [(HttpClient, "no answer in 0.05 s"), (GrpcClient, "gRPC DEADLINE_EXCEEDED")]
)
def test_no_answer_is_a_failure(client, words):
    async def main():
        async with ModelServer(one_port=0) as server:
            server.behave(hold=True)
            answer = await asked(client, server.port, timeout=0.05)
            assert answer.error.startswith(words)

    asyncio.run(main())


@pytest.mark.parametrize(("client", "words"), [(HttpClient, "ClientConnectorError"), (GrpcClient, "gRPC UNAVAILABLE")])
def test_nobody_there_is_a_failure(client, words):
    async def main():
        async with ModelServer() as server:
            port = server.rest_port
        answer = await asked(client, port)
        assert answer.error.startswith(words)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "header", "words"),
    [
        ('{"model_version": "v1"}', "v2", "app-version says v2, but v1 answered"),
        ("not json", "v1", "the answer is not a V2 answer"),
        ("{}", "v1", "the answer is not a V2 answer"),
        ("[]", "v1", "the answer is not a V2 answer"),
    ],
)
def test_a_wrong_answer_is_a_failure(body, header, words):
    async def answer(request):
        return web.Response(text=body, headers={"app-version": header})

    async def main():
        app = web.Application()
        app.router.add_post("/{any:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found = await asked(HttpClient, runner.addresses[0][1])
        assert found.error.startswith(words)
        await runner.cleanup()

    asyncio.run(main())


def test_headers_go_with_the_request():
    async def main():
        async with ModelServer("v1", "v2", one_port=0) as server:
            for client in (HttpClient, GrpcClient):
                for version in ("v1", "v2"):
                    found = await asked(client, server.port, {"mm-vmodel-id": version})
                    assert (found.version, found.error) == (version, "")

    asyncio.run(main())


def test_until_says_what_did_not_happen():
    with pytest.raises(TimeoutError, match=r"rain: not within 0\.02 s"):
        asyncio.run(until(lambda: False, within=0.02, what="rain"))


@pytest.mark.parametrize("arguments", [[], ["--grpc"]])
def test_the_ask_command_counts_who_answered(arguments, capsys):
    async def main():
        async with ModelServer("v2", one_port=0) as server:
            command = ["--port", str(server.port), "--number", "3", "--header", "x-user-id: u", *arguments]
            return await asyncio.to_thread(ask_command.main, command)

    assert asyncio.run(main()) == 0
    assert capsys.readouterr().out.startswith("v2: 3 (100.0%), p50 ")
