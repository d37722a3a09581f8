"""`headgate demo` from end to end, in short acts: it comes true, it says so, and it leaves nobody behind."""

import asyncio
import io
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from headgate.demo import story
from headgate.demo.acts import ACTS, V1
from headgate.demo.screen import Screen
from headgate.demo.sidecar import beside
from headgate.demo.stage import Stage
from headgate.demo.traffic import until

pytestmark = pytest.mark.timeout(180)


def told(**more):
    written = io.StringIO()
    code = story.run(act_seconds=0.5, screen=Screen(Console(file=written)), **more)
    return code, written.getvalue()


def test_the_whole_story_comes_true():
    code, text = told()
    assert code == 0, text
    assert [line for line in text.splitlines() if line.startswith("Act ")] == [
        f"Act {number} of {len(ACTS)}: {act.title}" for number, act in enumerate(ACTS, start=1)
    ]
    assert text.count("  true: ") == len(ACTS)
    for version in ("v1", "v2"):
        assert re.search(rf"^  {version}: sidecar, last 10 s +[\d,]+ +[\d.]+ ms +[\d.]+ ms +0 ", text, re.MULTILINE)
    assert re.search(r"through the plugin it says app-version:\s+v2 and x-request-id:\s+[0-9a-f-]{36}", text)
    counted = re.search(r"^The sidecar has counted ([\d,]+) of ([\d,]+) requests\.$", text, re.MULTILINE)
    assert counted, text
    assert counted[1] == counted[2]
    assert re.search(r"^[\d,]+ requests, 0 failed  \([\d,]+ HTTP, [\d,]+ gRPC, \d+ s\)$", text, re.MULTILINE)
    assert "\x1b" not in text


def test_an_act_that_does_not_come_true_is_said_and_fails_the_demo():
    code, text = told(acts=(replace(ACTS[0], untouched=V1),))
    assert code == 1
    assert "NOT TRUE: v1 should have seen no request, and counted" in text
    assert ", 0 failed" in text


def test_what_is_wrong_with_the_sidecar_fails_nothing(monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(story, "in_front_of", broken)
    monkeypatch.setattr(Stage, "live", lambda self: {})
    monkeypatch.setattr(story, "total", broken_total)
    code, text = told(acts=ACTS[:2])
    assert code == 0, text
    assert "it could not be shown: RuntimeError('broken')" in text
    assert "The sidecar could not be asked." in text


async def broken_total(*_):
    raise OSError("away")


def test_a_taken_port_of_the_sidecar_is_told_in_plain_words():
    async def main():
        async with TestServer(web.Application()) as server:
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}: "):
                async with beside(1, server.port):
                    pass

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")
@pytest.mark.parametrize(("number", "keep"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_ctrl_c_ends_it_without_a_traceback_or_an_orphan(number, keep):
    arguments = f"keep={keep}, act_seconds={0.3 if keep else 60}, acts=ACTS[:3]"
    program = f"import sys; from headgate.demo.story import ACTS, run; sys.exit(run({arguments}))"

    async def main():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-c", program),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        awaited = b"keeps running until ctrl-C" if keep else b"Act 1 of"
        text = b""
        while awaited not in text:
            line = await process.stdout.readline()
            assert line, text.decode()
            text += line
        children = children_of(process.pid)
        assert len(children) >= 2
        process.send_signal(number)
        rest, _ = await process.communicate()
        assert b"Traceback" not in rest, rest.decode()
        assert process.returncode == (0 if keep else story.INTERRUPTED), rest.decode()
        assert b", 0 failed" in text + rest
        await until(lambda: not any(map(alive, children)), within=10, what="the children's end")

    asyncio.run(main())


def children_of(parent):
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and parent_of(entry) == parent]


def parent_of(entry):
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
