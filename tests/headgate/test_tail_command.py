"""What `headgate tail` prints, and what it says when there is nothing to print. Ctrl-C is in tests/e2e."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from headgate.cli import cli

ONE = {
    "time": 0.5,
    "version": "v2",
    "code": "503",
    "grpc_status": "",
    "flags": "UC",
    "error": True,
    "method": "POST",
    "path": "/a\x1b[2Jb",
    "client": "51a0c7d2aaaaaaaa",
    "duration_seconds": 0.0121,
    "labels": {"tier": "gold", "region": ""},
    "metadata": {"tokens_out": 3},
}


@contextmanager
def sidecar(body: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Answers once with `body` and ends; its URL, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["tail", *arguments])


def test_a_request_is_a_line_that_steers_no_terminal():
    body = b"".join(json.dumps(each).encode() + b"\n" for each in (ONE, {"missed": 7}))
    with sidecar(body) as (url, asked):
        found = run("iris", "--url", url, "--version", "v2", "--code", "5xx", "--errors", "-n", "3")
    assert asked == ["/requests/live?model=default%2Firis&version=v2&code=5xx&errors=1&last=3"]
    one, missed = found.stdout.splitlines()
    clock, _, rest = one.partition(" ")
    assert clock.endswith(":00.500")
    assert rest == "v2 503 POST /a?[2Jb 12.1 ms UC tier=gold tokens_out=3 client 51a0c7d2"
    assert missed == "(7 requests came too fast to be shown)"


def test_programs_get_the_lines_as_they_are():
    with sidecar(json.dumps(ONE).encode() + b"\n") as (url, _):
        found = run("team/iris", "--url", url, "-o", "json")
    assert json.loads(found.stdout) == ONE


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"", 200, "error: the sidecar at {url} has ended (try again)\n"),
        (b"<html>\n", 200, "error: {url} answers, but not as a sidecar does (give the sidecar's port)\n"),
        (b"[1]\n", 200, "error: {url} answers, but not as a sidecar does (give the sidecar's port)\n"),
        (
            b"{}",
            404,
            "error: the sidecar at {url} takes no stream of requests (start it with --stream, see docs/sidecar.md)\n",
        ),
        (b"", 503, "error: {url} answers 503 Service Unavailable (give the sidecar's port)\n"),
    ],
)
def test_what_is_wrong_with_the_sidecar_is_one_line(body, status, complaint):
    with sidecar(body, status) as (url, _):
        found = run("iris", "--url", url)
    assert (found.stderr, found.exit_code) == (complaint.format(url=url), 1)


def test_a_sidecar_that_is_not_there_is_one_line():
    found = run("iris", "--url", "http://127.0.0.1:1")
    assert found.stderr.startswith("error: no sidecar answers at http://127.0.0.1:1: connection refused (start one")
    assert run("iris", "--url", "nowhere").exit_code == 2
