"""`headgate load` as it is typed, against real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from raw_server import Peer, RawServer, raw_server

from headgate.cli import cli
from headgate.load.amount import Mistakes
from headgate.load.planning import local
from headgate.load.statuses import errors_of

CALM = ["--max-lag", "30s"]  # what this machine does besides is not what is tested


async def answering(peer: Peer) -> None:
    while request := await peer.request():
        version = "v2" if b"x-variant: two" in request.lower() else "v1"
        status = "503 Busy" if b"/sick" in request else "200 OK"
        await peer.send(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\napp-version: {version}\r\n\r\nok".encode())


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server(answering) as made:
        yield made


def load(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["load", *arguments])


def test_slos_that_hold_are_exit_code_0_and_every_report_is_written(server: RawServer, tmp_path: Path) -> None:
    names = ["r.html", "r.json", "r.csv", "r.xml", "r.md"]
    reports = [part for name in names for part in ("--report", str(tmp_path / name))]
    got = load(
        server.url("/ok"), "--rate", "200", "--requests", "400", *CALM, *reports,
        "--slo", "latency-p90<=30s", "--slo", "error-rate<=0.5", "-H", "authorization: Bearer t0p",
    )  # fmt: skip
    assert got.exit_code == 0, got.output
    assert "400" in got.stdout
    assert "PASS" in got.stdout
    assert ElementTree.parse(tmp_path / "r.xml").getroot().get("failures") == "0"
    assert json.loads((tmp_path / "r.json").read_text())
    assert "<html" in (tmp_path / "r.html").read_text()
    for name in names:
        assert "t0p" not in (tmp_path / name).read_text()


def test_an_slo_that_is_broken_is_exit_code_99(server: RawServer) -> None:
    got = load(server.url("/sick"), "--rate", "100", "--requests", "50", *CALM, "--slo", "error-rate<=0.01")
    assert got.exit_code == 99, got.output
    assert "status 503" in got.stdout
    got = load(server.url("/ok"), "--rate", "100", "--requests", "100", *CALM, "--slo", "latency-p50<=1us")
    assert got.exit_code == 99, got.output


def test_nothing_but_errors_is_exit_code_3(server: RawServer) -> None:
    got = load(server.url("/sick"), "--rate", "100", "--requests", "50", *CALM)
    assert got.exit_code == 3, got.output
    assert "100 %" in got.stdout


@pytest.mark.parametrize(
    ("ranges", "errors"),
    [
        ((), [400, 503, 599, 600]),
        (("500-599",), [503, 599]),
        (("400-,!503",), [400, 599, 600]),
        (("!500-",), [400]),
        (("302", "599-"), [302, 599, 600]),
        (("-302,!200",), [302]),
        (("!100-",), []),
    ],
)
def test_which_statuses_are_errors_can_be_said(ranges: tuple[str, ...], errors: list[int]) -> None:
    mistakes = Mistakes()
    found = errors_of(ranges, mistakes)
    assert not mistakes.problems
    assert [code for code in (200, 302, 400, 503, 599, 600) if any(code in each for each in found)] == errors


def test_a_status_that_is_said_to_be_none_is_no_error(server: RawServer) -> None:
    got = load(server.url("/sick"), "--rate", "100", "--requests", "50", *CALM, "--error-status", "400-,!503")
    assert got.exit_code == 0, got.output


def test_data_for_programs_is_alone_on_stdout(server: RawServer) -> None:
    got = load(server.url(), "--users", "2", "--requests", "20", *CALM, "-o", "json")
    assert got.exit_code == 0, got.output
    assert json.loads(got.stdout)
    assert "running" in got.stderr or "draining" in got.stderr


def test_a_target_that_is_not_there_is_exit_code_3_before_any_load() -> None:
    async def nobody(peer: Peer) -> None:
        return None

    with raw_server(nobody) as gone:
        pass
    got = load(gone.url(), "--rate", "1")
    assert got.exit_code == 3
    assert f"127.0.0.1:{gone.port}: connection refused" in got.stderr
    got = load("http://name.invalid/", "--rate", "1")
    assert got.exit_code == 3
    assert "cannot be resolved" in got.stderr


def test_a_server_that_speaks_no_tls_is_told_so(server: RawServer) -> None:
    got = load(server.url("/", "https"), "--rate", "1", "--connect-timeout", "5s")
    assert got.exit_code == 3
    assert "TLS" in got.stderr or "does not answer" in got.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what is to be loaded"),
        (["http://x/"], "how much load is not said"),
        (["http://x/", "--rate", "1", "--users", "2"], "--rate and --users: cannot go together"),
        (["http://x/", "--rate", "0"], "0 requests per second are not possible"),
        (["http://x/", "--rate", "0", "--users", "2"], "cannot go together"),
        (["ftp://x/", "--rate", "1"], "not an address to load"),
        (["http://x:99999/", "--rate", "1"], "URL"),
        (["http://x/", "--rate", "1", "--duration", "5"], "not a duration"),
        (["http://x/", "--rate", "1", "--slo", "latency-p101<=1s"], "--slo"),
        (["http://x/", "--rate", "1", "--goodput", "speed<=1s"], "no metric 'speed'"),
        (["http://x/", "--rate", "1", "-H", "nonsense"], "is not a header"),
        (["http://x/", "--schedule", "hop"], "no part of a schedule"),
        (["http://x/", "--trace", "/nonexistent"], "cannot be read"),
        (["http://x/", "--rate", "1", "--report", "r.pdf"], "its name does not tell"),
        (["http://x/", "--rate", "1", "--report", "/nonexistent/r.html"], "no folder /nonexistent"),
        (["http://x/", "--rate", "1", "--processes", "0"], "no number of processes"),
        (["http://x/", "--rate", "1", "--workers", "2"], "come only to a --master"),
        (["http://x/", "--rate", "1", "--insecure"], "TLS is asked for"),
        (["https://x/", "--rate", "1", "--cacert", "/nonexistent"], "there is no file"),
        (["http://x/", "--rate", "1", "--confidence", "2"], "2 is not possible"),
        (["http://x/", "--max", "--poisson"], "--poisson"),
        (["http://x/", "--rate", "1", "-X", "GET /"], "--method: the method 'GET /' is none"),
        (["http://x/", "--rate", "1", "-H", "a b: c"], "--header: the header's name 'a b' is none"),
        (["http://x/", "--rate", "1", "-H", "content-length: 1"], "--header: the header content-length is made"),
        (["http://x/", "--rate", "1", "--version-from", "nonsense"], "--version-from: 'nonsense'"),
        (["http://x/", "--rate", "1", "--shape", "a=1"], "--shape: is for the tensors of a model"),
        (["http://x/", "--rate", "1", "--stream-count", "2"], "--stream-count: is for gRPC"),
        (["http://x/", "--rate", "1", "--dialect", "plain"], "--dialect: is of a stream of events"),
        (["http://x/", "--rate", "1", "--error-status", "500-499"], "--error-status: '500-499' is no range"),
        (["http://x/", "--rate", "1", "--error-status", "4xx"], "--error-status: '4xx' is no range"),
        (["http://x/", "--rate", "1", "--grpc", "a.B/C", "--error-status", "400-"], "--error-status: is for HTTP"),
        (["--worker", "nonsense"], "'nonsense' is no address"),
        (["http://x/", "--worker", "localhost:1"], "leave the URL out"),
    ],
)
def test_mistakes_are_exit_code_2_and_told_before_anything_is_sent(arguments: list[str], said: str) -> None:
    got = load(*arguments)
    assert got.exit_code == 2, got.output
    assert said in got.stderr


def test_mistakes_come_all_at_once() -> None:
    got = load("http://x/", "--rate", "0", "--slo", "nonsense", "--timeout", "x", "--report", "r.pdf")
    assert got.stderr.count("error:") == 4


def test_ctrl_c_prints_what_was_measured_and_is_exit_code_130(server: RawServer) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "headgate",
            "load",
            server.url(),
            "--rate",
            "100",
            "--duration",
            "1h",
            *CALM,
            "-o",
            "json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    told = []
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    for line in process.stderr:
        told.append(line)
        if "running" in line:
            os.kill(process.pid, signal.SIGINT)
            break
    out = process.stdout.read()
    errors = process.stderr.read()
    watchdog.cancel()
    assert process.wait(60) == 130, (told, errors)
    assert "interrupted" in errors
    assert json.loads(out)


def test_what_is_secret_stays_out_of_the_command_line_in_reports() -> None:
    from headgate.load.results import command_line

    typed = [
        "load",
        "http://me:pw@x/",
        "-H",
        "Authorization: Bearer t0p",
        "--header=x-api-key: t0p",
        "-H",
        "accept: */*",
    ]
    told = command_line(typed)
    assert "t0p" not in told
    assert "pw" not in told
    assert "accept: */*" in told


def test_a_reader_that_has_gone_takes_no_report_with_it(server: RawServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "headgate", "load", server.url(), "--rate", "100", "--requests", "20", *CALM]
    with os.fdopen(write, "wb") as gone:
        subprocess.run(
            [*command, "--report", str(tmp_path / "r.json")], stdout=gone, stderr=gone, timeout=100, check=False
        )
    assert json.loads((tmp_path / "r.json").read_text())


def test_half_a_report_is_not_left_behind(server: RawServer, tmp_path: Path) -> None:
    limited = f'ulimit -f 1; exec "{sys.executable}" -m headgate load "$@"'
    got = subprocess.run(
        [
            "bash", "-c", limited, "-", server.url(), "--rate", "100", "--requests", "200", *CALM,
            "--report", str(tmp_path / "r.html"),
        ],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert got.returncode == 1, got.stderr
    assert "r.html: file too large" in got.stderr
    assert "200 requests" in got.stdout
    assert not (tmp_path / "r.html").exists()


def test_a_page_is_for_this_machine_unless_it_is_said_otherwise() -> None:
    assert local("8089") == "127.0.0.1:8089"
    assert local("0.0.0.0:8089") == "0.0.0.0:8089"
    assert local(None) is None
