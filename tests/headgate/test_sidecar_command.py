"""`headgate sidecar --proxy` as users start it: over real sockets, and what it complains of."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from headgate.cli import cli

STAMP = "sidecar.plugins.stamp:Stamp"
GREET = """
from sidecar.plugin import CONTINUE, HttpContext, Plugin

class Context(HttpContext["Greet"]):
    def on_response_headers(self, headers):
        headers.set("x-greeting", "hello")
        return CONTINUE

class Greet(Plugin):
    name = "greet"
    context = Context
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["sidecar", *map(str, arguments)])


@contextmanager
def started(*arguments: object) -> Iterator[Callable[[str, str], tuple[dict[str, str], str]]]:
    """Ask the "proxy" or the "figures": the headers and the text of an answer. SIGTERM ends it with 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate", "sidecar", *map(str, arguments), "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    ports: dict[str, int] = {}
    try:
        said = ""
        while "figures" not in ports:
            line = process.stderr.readline()
            said += line
            assert line, said
            if found := re.search(r"(proxy|figures) .* on 127\.0\.0\.1:(\d+)$", line):
                ports[found[1]] = int(found[2])

        def ask(whom: str, path: str) -> tuple[dict[str, str], str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[whom]}{path}", timeout=10) as answer:
                return dict(answer.headers.items()), answer.read().decode()

        yield ask
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_requests_pass_through_plugins_and_are_counted(answers, tmp_path: Path) -> None:
    url, said = answers
    said["/v2"] = (200, "of the model server")
    (tmp_path / "greet.py").write_text(GREET)
    file = tmp_path / "proxy.yaml"
    file.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", "version": "v0", "plugins": [{"plugin": "greet.py"}]}))
    with started(
        *("--proxy", url, "--proxy-config", file, "--model", "ml/iris", "--version", "v1", "--plugin", STAMP)
    ) as ask:
        headers, text = ask("proxy", "/v2")
        assert text == "of the model server"
        assert (headers["app-version"], headers["x-greeting"]) == ("v1", "hello")
        assert ask("figures", "/readyz")[1] == "ready\n"
        metrics = ask("figures", "/metrics")[1]
        labels = 'namespace="ml",model="iris",version="v1",route="primary",shadow="false",code="200"'
        assert f"headgate_requests_total{{{labels}," in metrics
        assert 'headgate_plugin_requests_total{plugin="greet"} 1' in metrics
        (version,) = json.loads(ask("figures", "/versions")[1])["versions"]
        assert (version["model"], version["version"]) == ("iris", "v1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--proxy", "127.0.0.1:9000"], "--proxy: has to be http://HOST:PORT"),
        (["--proxy", "http://127.0.0.1:1", "--proxy-listen", "80"], "--proxy-listen: has to be HOST:PORT"),
        (["--proxy", "http://127.0.0.1:1", "--model", "a/b/c"], "'a/b/c' is not a model"),
        (["--proxy", "http://127.0.0.1:1", "--envoy", "http://127.0.0.1:2"], "give one of them"),
        (["--version", "v1"], "--version goes with --proxy"),
        (["--plugin", STAMP], "--plugin goes with --proxy"),
        (["--proxy-config", "/nowhere.yaml"], "cannot read /nowhere.yaml: no such file"),
    ],
)
def test_what_is_given_wrongly_is_told(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_all_that_is_wrong_in_the_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("upstream: nowhere\ndrain: -1\nplugin: x\ngrpcListen: 127.0.0.1:0\n")
    result = run("--proxy-config", file)
    assert result.exit_code == 2
    for field in ("upstream", "drain", "plugin"):
        assert f"error: {file}: {field}: " in result.output


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(text)
    result = run("--proxy-config", file)
    assert result.exit_code == 2
    assert str(file) in result.output


def test_it_does_not_start_with_a_wrong_plugin(tmp_path: Path) -> None:
    result = run(
        *("--proxy", "http://127.0.0.1:1", "--proxy-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"),
        *("--plugin", "nothing.there:At", "--plugin", "sidecar.plugins.stamp:Nope"),
    )
    assert result.exit_code == 1
    assert "error: plugins[0].plugin: " in result.output
    assert "error: plugins[1].plugin: " in result.output


@pytest.mark.parametrize(("option", "hint"), [("--listen", "another port with --listen"), ("--proxy-listen", "listen")])
def test_a_taken_port_is_told(answers, option: str, hint: str) -> None:
    taken = answers[0].removeprefix("http://")
    ports = {"--listen": "127.0.0.1:0", "--proxy-listen": "127.0.0.1:0", option: taken}
    result = run("--proxy", answers[0], *(part for pair in ports.items() for part in pair))
    assert result.exit_code == 1
    assert f"error: cannot listen on {taken}: " in result.output
    assert hint in result.output
