"""What `headgate sidecar --stream` and `headgate bootstrap --sidecar` say of wrong usage; else see tests/e2e."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

from headgate.cli import cli


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli, list(arguments))
    return found.exit_code, found.stderr


def test_a_stream_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        code, complaint = run("sidecar", "--listen", "127.0.0.1:0", "--stream", at)
    assert code == 1
    assert complaint.startswith(f"error: cannot listen on {at} for the stream: ")
    assert complaint.endswith("(give another port with --listen or --stream)\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("sidecar", "--proxy", "http://127.0.0.1:1", "--stream", "127.0.0.1:1"), "--stream takes what an Envoy tells"),
        (("sidecar", "--stream", "nowhere"), "nowhere"),
        (("bootstrap", "--sidecar", "localhost:1"), "--sidecar 'localhost:1' names no IP address"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments, what):
    code, complaint = run(*arguments)
    assert (code, what in complaint) == (2, True), complaint


def test_a_bootstrap_names_the_sidecar_when_told_to():
    found = CliRunner().invoke(cli, ["bootstrap", "--sidecar", "127.0.0.1:18003", "-o", "json"])
    names = [one["name"] for one in json.loads(found.stdout)["static_resources"]["clusters"]]
    assert names == ["headgate_xds", "headgate_sidecar"]
