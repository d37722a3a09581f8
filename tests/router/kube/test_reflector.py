"""Following a resource through everything an API server does to its clients."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from router.kube.backoff import Backoff
from router.kube.client import within
from router.kube.reflector import Reflector
from router.kube.road import Road

CONFIG_MAPS = "/api/v1/configmaps"


def value(obj: dict[str, Any]) -> str | None:
    data = obj.get("data")
    return data.get("value") if isinstance(data, dict) else None


class Following:
    """A running reflector and all that it told."""

    def __init__(self, cluster: Any, path: str = CONFIG_MAPS, **options: Any) -> None:
        self.told: list[tuple[str, str | None]] = []
        options = {"keep": value, "watch_timeout": 20.0, "backoff": Backoff(first=0.05), **options}
        self.reflector = Reflector(cluster.client, path, lambda key, kept: self.told.append((key, kept)), **options)

    def has(self, name: str, wanted: str | None = "1") -> bool:
        return self.reflector.objects.get(f"default/{name}") == wanted


@contextlib.asynccontextmanager
async def following(cluster: Any, path: str = CONFIG_MAPS, **options: Any) -> AsyncIterator[Following]:
    it = Following(cluster, path, **options)
    task = asyncio.create_task(it.reflector.run())
    try:
        await asyncio.wait_for(it.reflector.synced.wait(), 5)
        await cluster.until(lambda: it.reflector.trouble is None)
        yield it
        assert not task.done(), "a reflector ends only when it is told to"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_what_exists_is_told_then_what_changes(on_any_cluster):
    async def test(cluster: Any) -> None:
        cluster.put("a")
        async with following(cluster, within(CONFIG_MAPS, "default")) as it:
            assert it.told == [("default/a", "1")]
            cluster.put("b")
            cluster.put("a", "2")
            cluster.remove("b")
            await cluster.until(lambda: len(it.told) == 4)
            assert it.told[1:] == [("default/b", "1"), ("default/a", "2"), ("default/b", None)]

    on_any_cluster(test)


def test_only_what_is_selected_in_the_namespace_is_followed(on_any_cluster):
    async def test(cluster: Any) -> None:
        for name, watch in (("a", "true"), ("b", "false")):
            cluster.put(name, watch=watch)
        async with following(cluster, within(CONFIG_MAPS, "default"), labels="watch=true") as it:
            assert it.told == [("default/a", "1")]
            cluster.put("a", watch="false")
            cluster.put("b", watch="true")
            await cluster.until(lambda: it.told[1:] == [("default/a", None), ("default/b", "1")])
        async with following(cluster, within(CONFIG_MAPS, "kube-public")) as it:
            assert it.told == []

    on_any_cluster(test)


def test_a_watch_that_ends_goes_on_where_it_was(on_cluster):
    async def test(cluster: Any) -> None:
        async with following(cluster) as it:
            for name in ("a", "b"):
                cluster.api.drop_watches()
                cluster.put(name)
                await cluster.until(lambda name=name: it.has(name))
            assert [key for key, _ in it.told] == ["default/a", "default/b"]
            lists = [one for one in cluster.api.requests if one.path == CONFIG_MAPS and not one.watch]
            assert len(lists) == 1

    on_cluster(test)


def test_a_server_that_ends_every_watch_at_once_is_not_hammered(on_cluster):
    async def test(cluster: Any) -> None:
        async with following(cluster) as it:
            ended = 0

            def end_and_count() -> bool:
                nonlocal ended
                ended += cluster.api.watching
                cluster.api.drop_watches()
                return ended >= 4

            assert await cluster.until(end_and_count) > 0.05 / 2 * (1 + 2)
            assert it.reflector.trouble is None, "each of these watches told what there was to tell"
            cluster.put("a")
            await cluster.until(lambda: it.has("a"))

    on_cluster(test)


def test_an_expired_revision_is_healed_and_deletions_before_it_are_noticed(on_cluster):
    async def test(cluster: Any) -> None:
        cluster.put("a")
        cluster.put("b")
        async with following(cluster) as it:
            await cluster.api.stop()
            cluster.remove("a")
            cluster.put("c")
            cluster.api.compact()
            await cluster.api.start()
            took = await cluster.until(lambda: it.has("a", None) and it.has("c"))
            assert took <= 2.0
            assert it.told[2:] == [("default/c", "1"), ("default/a", None)]

    on_cluster(test)


def test_a_revision_refused_as_expired_is_healed_at_once(on_cluster):
    async def test(cluster: Any) -> None:
        async with following(cluster) as it:
            old = it.reflector._copy.revision
            cluster.api.faults.answer(410, 100, matches=lambda asked: asked.query.get("resourceVersion") == old)
            cluster.api.drop_watches()
            cluster.put("a")
            assert await cluster.until(lambda: it.has("a")) <= 2.0

    on_cluster(test)


def test_a_watch_gone_silent_is_healed_soon_after_its_time(on_cluster, monkeypatch):
    monkeypatch.setattr("router.kube.reflector._GRACE", 0.2)

    async def test(cluster: Any) -> None:
        async with silent_after_the_list(cluster) as port:
            cluster.client._access.configuration.host = f"http://127.0.0.1:{port}"
            async with following(cluster, watch_timeout=1.0) as it:
                cluster.put("a")
                cluster.client._access.configuration.host = cluster.api.url
                took = await cluster.until(lambda: it.has("a"))
                assert 0.5 < took <= 1.0 + 0.2 + 0.5

    on_cluster(test)


@contextlib.asynccontextmanager
async def silent_after_the_list(cluster: Any) -> AsyncIterator[int]:
    """A proxy that died: it accepts watches, says 200 and never anything again, not even that it is over."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            asked = await reader.readuntil(b"\r\n\r\n")
            if b"watch=true" in asked:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            else:
                body = b'{"metadata":{"resourceVersion":"%d"},"items":[]}' % cluster.api.storage.revision
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                writer.write_eof()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def test_an_outage_withdraws_nothing_costs_little_and_heals(on_cluster):
    async def test(cluster: Any) -> None:
        for name in ("a", "b", "c"):
            cluster.put(name)
        road = Road(Backoff(most=0.4))
        async with contextlib.AsyncExitStack() as stack:
            all_of_them = [await stack.enter_async_context(following(cluster, road=road)) for _ in range(8)]
            await cluster.api.stop()
            cluster.remove("b")
            with counted_refusals(cluster.api.port) as refused:
                cpu, begun = time.process_time(), time.monotonic()
                await cluster.until(lambda: time.monotonic() - begun >= 0.8)
                cpu = time.process_time() - cpu
            assert refused() <= 8 + 7, "at first each notices by itself; then one tries for all"
            assert cpu < 0.3, "of which the waiting of this test is a part"
            for it in all_of_them:
                assert len(it.told) == 3
                assert "connect" in it.reflector.trouble.lower()
            await cluster.api.start()
            await cluster.until(lambda: all(it.told[3:] == [("default/b", None)] for it in all_of_them))
            assert all(it.reflector.trouble is None for it in all_of_them)

    on_cluster(test)


@contextlib.contextmanager
def counted_refusals(port: int) -> Any:
    """Take the port of a server that is down, and count who comes."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    listener.setblocking(False)
    count = 0

    def come() -> None:
        nonlocal count
        count += 1
        listener.accept()[0].close()

    loop = asyncio.get_running_loop()
    loop.add_reader(listener, come)
    try:
        yield lambda: count
    finally:
        loop.remove_reader(listener)
        listener.close()


def test_a_server_that_asks_for_patience_gets_it(on_cluster):
    async def test(cluster: Any) -> None:
        cluster.put("a")
        async with following(cluster) as it:
            cluster.api.faults.answer(429, retry_after=1)
            before = len(cluster.api.requests)
            cluster.api.drop_watches()
            cluster.put("a", "2")
            assert await cluster.until(lambda: it.has("a", "2")) >= 0.9
            assert len(cluster.api.requests) == before + 2

    on_cluster(test)


def test_a_resource_that_is_refused_keeps_its_objects_and_disturbs_no_other(on_cluster):
    async def test(cluster: Any) -> None:
        cluster.put("a")
        road = Road()
        async with following(cluster, road=road) as it, following(cluster, "/api/v1/services", road=road) as other:
            cluster.api.faults.answer(403, 3, matches=lambda asked: asked.path == CONFIG_MAPS)
            cluster.api.drop_watches()
            await cluster.until(lambda: it.reflector.trouble)
            assert it.has("a")
            assert other.reflector.trouble is None
            assert road.trouble is None
            await cluster.until(lambda: it.reflector.refused == 403)
            await cluster.until(lambda: it.reflector.trouble is None)
            assert it.reflector.refused == 0, "watching is allowed again, and nothing was listed"
            assert it.told == [("default/a", "1")]
            lists = [one for one in cluster.api.requests if one.path == CONFIG_MAPS and not one.watch]
            assert len(lists) == 1

    on_cluster(test)


def test_after_a_long_outage_the_resource_is_listed_again(on_cluster, monkeypatch):
    """The server may be one restored from a backup, whose revisions are behind ours."""
    monkeypatch.setattr("router.kube.reflector._LONG", 0.1)

    async def test(cluster: Any) -> None:
        cluster.put("a")
        async with following(cluster, road=Road(Backoff(most=0.1))) as it:
            await cluster.api.stop()
            await cluster.until(lambda: it.reflector.trouble)
            begun = time.monotonic()
            await cluster.until(lambda: time.monotonic() - begun > 0.4)
            await cluster.api.start()
            await cluster.until(lambda: it.reflector.trouble is None)
            assert [one.watch for one in cluster.api.requests] == [False, True, False, True]
            assert it.told == [("default/a", "1")]

    on_cluster(test)


def test_a_kind_that_does_not_exist_yet_is_followed_once_it_does(on_any_cluster):
    async def test(cluster: Any) -> None:
        it = Following(cluster, "/apis/serving.kserve.io/v1beta1/inferenceservices")
        task = asyncio.create_task(it.reflector.run())
        await cluster.until(lambda: "404" in (it.reflector.trouble or ""))
        assert not it.reflector.synced.is_set()
        cluster.api.create(custom_kind())
        await cluster.until(it.reflector.synced.is_set)
        task.cancel()

    on_any_cluster(test)


def custom_kind() -> dict[str, Any]:
    free = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "inferenceservices.serving.kserve.io"},
        "spec": {
            "group": "serving.kserve.io",
            "scope": "Namespaced",
            "names": {"plural": "inferenceservices", "kind": "InferenceService"},
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": free}],
        },
    }


def test_a_list_whose_snapshot_expires_between_pages_is_asked_for_whole(on_cluster):
    async def test(cluster: Any) -> None:
        for number in range(7):
            cluster.put(f"c{number}")
        paged = []

        def second_page(asked: Any) -> bool:
            paged.append("continue" in asked.query)
            return paged[-1]

        cluster.api.faults.answer(410, 100, matches=second_page)
        async with following(cluster, page=3) as it:
            assert len(it.told) == 7
            assert paged[:2] == [False, True]

    on_cluster(test)


def test_five_thousand_objects_cost_little_to_know(on_cluster):
    """1.8 kB each, of which little is kept. The server's part is in the same process and is taken off."""

    async def test(cluster: Any) -> None:
        for number in range(5_000):
            meta = {"name": f"c{number:05}", "namespace": "default"}
            data = {"value": str(number), "rest": "x" * 1_500}
            cluster.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
        served = await cpu_of_listing(cluster)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu = time.process_time()
        async with following(cluster) as it:
            assert time.process_time() - cpu - served <= 1.0
            assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 <= 40
            assert len(it.told) == 5_000

    on_cluster(test)


async def cpu_of_listing(cluster: Any) -> float:
    """What the server and the connection take to send it all, page by page, to somebody who does not look at it."""
    query: dict[str, str] = {"limit": "500"}
    begun = time.process_time()
    while query.get("continue") != "":
        answer = await cluster.client.get(CONFIG_MAPS, query)
        query["continue"] = answer["metadata"].get("continue", "")
    return time.process_time() - begun
