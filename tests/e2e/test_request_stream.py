"""Single requests, from a real Envoy to `headgate sidecar --stream`: none miscounted, none hurt, come what may."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp
import msgpack
from request_way import GATEWAY, MODEL, Way, entries, fetch, lost, metrics, until


def test_every_request_is_counted_once_with_its_labels(rig):
    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        told: Counter[tuple[str, str]] = Counter()

        async def user(session: aiohttp.ClientSession, number: int) -> None:
            for turn in range(250):
                tier = "gold" if (number + turn) % 5 == 0 else "free"
                headers = {"x-user": f"user-{turn % 50}", "x-tier": tier}
                _, version = await rig.ask("iris.test", "/v2/models/iris?q=1", headers=headers, session=session)
                told[version, tier] += 1

        async with way.sidecar() as (_, url):
            _, first = await rig.ask("iris.test", headers={"x-user": "user-0", "x-tier": "gold"})
            told[first, "gold"] += 1
            await until(lambda: entries(url), "Envoy is connected: it keeps little until then")
            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
                for number in range(8):
                    tasks.create_task(user(session, number))

            async def all_of_them() -> bool:
                return await entries(url) >= told.total()

            await until(all_of_them, "2,001 entries have come")
            found = await metrics(url)
            counted = Counter[tuple[str, str]]()
            for (name, labels), value in found.items():
                if name == "headgate_stream_requests_total":
                    said = dict(labels)
                    assert (said["namespace"], said["model"], said["code"], said["language"]) == (
                        "default",
                        "iris",
                        "200",
                        "",
                    )
                    counted[said["version"], said["tier"]] += int(value)
            assert counted == told
            assert told.total() == 2_001
            assert {where: await lost(url, where) for where in ("envoy", "way")} == {"envoy": 0, "way": 0}
            document = json.loads(await fetch(f"{url}/requests?limit=5000"))
            assert document["kept"] == len(document["requests"]) == 2_001
            assert len({one["client"] for one in document["requests"]}) == 50
            assert "user-" not in json.dumps(document)
            newest = document["requests"][0]
            assert (newest["method"], newest["path"], newest["error"]) == ("GET", "/v2/models/iris", False)
            assert 0 < newest["time_to_first_byte_seconds"] <= newest["duration_seconds"] < 60
            assert (newest["grpc_status"], newest["flags"], newest["labels"]["language"]) == ("", "", "")
            assert newest["time"] >= document["requests"][-1]["time"]
            some = json.loads(await fetch(f"{url}/requests?model={MODEL}&version=v2&code=2xx&limit=7"))["requests"]
            assert [one["version"] for one in some] == ["v2"] * 7
            assert json.loads(await fetch(f"{url}/requests?errors=1"))["requests"] == []

    rig(body)


def test_tail_shows_what_comes_and_leaves_on_ctrl_c(rig):
    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        async with way.sidecar() as (_, url):
            for _ in range(3):
                await rig.ask("iris.test", headers={"x-test": "1"})

            async def come() -> bool:
                return await entries(url) == 3

            await until(come, "three entries have come")
            tail = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", "tail", "iris", "--url", url, "--version", "v2", "-n", "2"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert tail.stdout is not None
            lines = [(await asyncio.wait_for(tail.stdout.readline(), 20)).decode() for _ in range(2)]
            await rig.ask("iris.test", "/v2/models/iris/live", headers={"x-test": "1", "x-tier": "\u00e9\u202e"})
            lines.append((await asyncio.wait_for(tail.stdout.readline(), 20)).decode())
            tail.send_signal(signal.SIGINT)
            rest, complaints = await asyncio.wait_for(tail.communicate(), 20)
            assert all(
                re.match(r"\d\d:\d\d:\d\d\.\d{3} v2 \d{3} GET /v2/models/iris\S* [\d.]+ ms", line) for line in lines
            )
            assert "/live" in lines[2]
            assert "\x1b" not in "".join(lines)
            assert "\u202e" not in lines[2]
            assert (rest, tail.returncode) == (b"", 130)
            assert b"Traceback" not in complaints

    rig(body)


def test_a_sidecar_that_is_killed_and_comes_back_hurts_no_request(rig):
    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        async with rig.load("iris.test", users=4, headers={"x-user": "u" * 200}) as tally:
            async with way.sidecar() as (process, url):
                await until(lambda: entries(url), "the first sidecar has taken some")
                process.kill()
                await process.wait()
            await until(lambda: way.stat("access_logs.fluentd.headgate.entries_lost"), "Envoy has no room left")
            async with way.sidecar() as (_, url):
                await until(lambda: entries(url), "the second sidecar has taken some")
                await until(lambda: lost(url, "envoy"), "it tells what Envoy has lost")
                told = await lost(url, "envoy")
                assert told <= await way.stat("access_logs.fluentd.headgate.entries_lost")
                assert await entries(url) + told <= tally.total + 4
        assert tally.total
        assert not tally.failures

    rig(body)


def test_a_sidecar_that_hangs_hurts_no_request_and_fills_no_memory(rig):
    """Envoy does not look whether the other side reads: without an end of the connection its buffer grows for ever."""

    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        closed = "access_logs.fluentd.headgate.connections_closed"
        headers = {"x-user": "u" * 200, "x-tier": "t" * 100, "user-agent": "a" * 100}
        async with way.sidecar() as (process, url):
            async with rig.load("iris.test", users=4, headers=headers) as tally:
                await until(lambda: entries(url), "the sidecar has taken some")
                before = await way.stat("server.memory_allocated")
                process.send_signal(signal.SIGSTOP)

                async def cut_off_twice() -> bool:
                    return await way.stat(closed) >= 2

                await until(cut_off_twice, "Envoy has given up two connections", within=60.0)
                grown = await way.stat("server.memory_allocated") - before
                process.send_signal(signal.SIGCONT)
                await until(lambda: lost(url, "way"), "what was on its way is told as lost")
            assert tally.total
            assert not tally.failures
            assert grown < 32e6
            taken = await entries(url)
            await rig.ask("iris.test")

            async def goes_on() -> bool:
                return await entries(url) > taken

            await until(goes_on, "entries come again")

    rig(body)


def test_a_peer_that_sends_rubbish_is_cut_off_and_nobody_else(rig):
    async def body(rig: Any) -> None:
        way = Way(rig)
        await way.start()
        bad = (
            *(Random(7).randbytes(4_096), b"\xdd\xff\xff\xff\xff", b"\x91" * 10_000, b"GET / HTTP/1.1\r\n\r\n"),
            b"\xc6\x00\x20\x00\x00" + bytes(2 << 20),
        )
        async with way.sidecar() as (_, url):
            await rig.ask("iris.test")
            await until(lambda: entries(url), "Envoy is connected")
            for rubbish in bad:
                reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
                writer.write(rubbish)
                with suppress(ConnectionError):  # it ends before it has read all
                    assert await asyncio.wait_for(reader.read(), 20) == b""
                writer.close()
            assert (await metrics(url))["headgate_stream_refused_total", (("why", "malformed"),)] == len(bad)
            await rig.ask("iris.test")

            async def both() -> bool:
                return await entries(url) == 2

            await until(both, "the second request has come")
            assert (await metrics(url))["headgate_stream_connections", ()] == 1

    rig(body)


def test_a_fuzzing_peer_costs_only_its_own_entries(rig):
    """Messages like Envoy's, with some bytes changed: whatever becomes of them, the process goes on and counts."""

    async def body(rig: Any) -> None:
        way, dice = Way(rig), Random(11)
        await way.start()
        by = "200|-|-|v1@default/iris|default/iris/v1|v1"
        text = "\n".join((by, "ann", '{"tokens_out": 3}', "1.5|1000|900|1|2|GET", "/", "id", "agent", "l\rt"))
        good = msgpack.packb(["headgate.requests", [[1, {"2 language tier": text}]] * 5])
        async with way.sidecar() as (process, url):
            for _ in range(400):
                bad = bytearray(good)
                for _ in range(dice.randrange(1, 9)):
                    bad[dice.randrange(len(bad))] = dice.randrange(256)
                _, writer = await asyncio.open_connection("127.0.0.1", way.port)
                writer.write(bytes(bad) + good)
                writer.close()
            before = await entries(url)
            _, writer = await asyncio.open_connection("127.0.0.1", way.port)
            writer.write(good)

            async def counted() -> bool:
                return await entries(url) >= before + 5

            await until(counted, "a good message is taken")
            writer.close()
            found = await metrics(url)
            assert found["headgate_stream_refused_total", (("why", "malformed"),)] > 0
            assert (
                sum(value for (name, _), value in found.items() if name == "headgate_stream_requests_total") >= before
            )
            json.loads(await fetch(f"{url}/requests?limit=10000"))
            json.loads(await fetch(f"{url}/versions"))
            assert process.returncode is None

    rig(body)


def test_an_envoy_that_does_not_know_the_sidecar_refuses_the_listener_and_says_so(rig):
    async def body(rig: Any) -> None:
        xds = await rig.serve(GATEWAY)
        await rig.envoy(ready=False)
        await rig.until(lambda: xds.fleet.rejection("default", "gateway/default"))
        assert "headgate_sidecar" in str(xds.fleet.rejection("default", "gateway/default"))

    rig(body)
