"""`headgate experiment` on the command line: what it prints, its exit codes, an interrupt, and what it serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner, Result

from headgate.cli import cli


class Answers(BaseHTTPRequestHandler):
    """200 with a version, or what /status/N says."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Target)
        with self.server.asked:
            self.server.count += 1
            self.server.asked.notify_all()
        status = int(self.path.rpartition("/")[2]) if "/status/" in self.path else 200
        self.send_response(status)
        self.send_header("app-version", "v1")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass


class Target(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = threading.Condition()
        self.count = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_for(self, count: int) -> None:
        with self.asked:
            assert self.asked.wait_for(lambda: self.count >= count, 60)


@pytest.fixture
def server() -> Iterator[Target]:
    server = Target()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(server: Target) -> str:
    return server.url


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        file = tmp_path / "experiment.yaml"
        file.write_text(text)
        return file

    return written


def run(*arguments: object, store: Path) -> Result:
    given = ["experiment", *map(str, arguments)]
    return CliRunner().invoke(cli, given, env={"HEADGATE_STORE": str(store)})


def test_from_a_run_to_its_end(write: Callable[[str], Path], tmp_path: Path, target: str) -> None:
    store = tmp_path / "store.db"
    file = write(
        f"""\
metadata: {{name: wisdom, namespace: team}}
spec:
- task: http
  with: {{url: "{target}/", qps: 100, numRequests: 30, maxLag: 5s}}
- task: assess
  with: {{SLOs: {{upper: {{http/latency-mean: 0.0001, http/error-rate: 0}}}}}}
- run: echo rolling back
  if: not SLOs()
"""
    )
    ran = run("run", file, store=store)
    assert ran.exit_code == 99, ran.stderr
    assert "completed: 30 requests, 0 errors" in ran.stderr
    assert "  rolling back" in ran.stderr
    assert "SLO Conditions" in ran.stdout
    for name in (file, "team/wisdom"):
        reported = run("report", name, store=store)
        assert (reported.exit_code, reported.stdout) == (0, ran.stdout)
    for form in ("html", "json", "junit", "markdown", "csv"):
        made = run("report", file, "-o", form, store=store)
        assert made.exit_code == 0
        assert "v1" in made.stdout
    held = run("assert", file, "-c", "COMPLETED,nofailure", store=store)
    assert (held.exit_code, held.stdout) == (0, "completed: holds\nnofailure: holds\n")
    broken = run("assert", file, "-c", "slos", "--timeout", "10ms", store=store)
    assert broken.exit_code == 99
    assert "v1: http/latency-mean <= 0.0001: fail" in broken.stdout
    assert "error: assert conditions failed" in broken.stderr
    [row] = json.loads(run("list", "-o", "json", store=store).stdout)
    assert (row["namespace"], row["name"], row["revision"], row["state"]) == ("team", "wisdom", 1, "completed")
    assert "team       wisdom      1    completed" in run("list", store=store).stdout
    assert run("delete", file, store=store).stderr.startswith("error: nobody can be asked here: add --yes")
    assert run("delete", file, "--yes", store=store).stdout == "team/wisdom: 1 run deleted\n"
    assert run("list", store=store).stdout == "no results are kept\n"
    gone = run("report", file, store=store)
    assert (gone.exit_code, gone.stderr) == (
        2,
        "error: there are no results of an experiment team/wisdom (none was run yet)\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "cannot read nowhere.yaml: no such file or directory"),
        (("report", "nowhere.yaml"), "nowhere.yaml: there is no such file (give a file, NAME or NAMESPACE/NAME)"),
        (("assert", "x", "-c", "complete"), "unsupported assert condition 'complete' (did you mean 'completed'?)"),
        (("assert", "x", "-c", "slos", "--timeout", "60"), "is not a duration"),
        (("run", "FILE", "--cron", "* * *"), "'* * *' is not a schedule"),
        (("run", "FILE", "--every", "1m"), "--every goes with --loops"),
        (("run", "FILE", "--image", "x"), "--image goes with --in-cluster"),
        (("run", "FILE", "--resume"), "there is nothing to resume: default/experiment has not been run"),
        (("run", "FILE", "--resume", "--in-cluster"), "do not go together"),
        (("delete", "nothing", "--yes"), "there are no results of an experiment default/nothing"),
        (("serve", "--listen", "here"), "--listen 'here' is not HOST:PORT"),
    ],
)
def test_what_is_wrong_is_told_with_exit_code_2(
    write: Callable[[str], Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    file = write("spec: [{run: ls}]")
    result = run(*(file if one == "FILE" else one for one in arguments), store=tmp_path / "s.db")
    assert result.exit_code == 2
    assert message in result.stderr


def test_everything_wrong_in_a_file_is_told_before_anything_runs(write: Callable[[str], Path], tmp_path: Path) -> None:
    file = write("spec:\n- run: touch ran\n- task: htpp\n- task: http\n  with: {url: 'http://x', percentiles: [101]}\n")
    result = run("run", file, store=tmp_path / "s.db")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {file}:3: spec[1].task: unknown task: htpp (did you mean 'http'?)",
        f"error: {file}:5: spec[2].with.percentiles[0]: there is no percentile 101 (give more than 0 and at most 100)",
    ]
    assert not (tmp_path / "ran").exists()
    assert run("run", write("spec: [{run: touch ran}]"), "--dry-run", store=tmp_path / "s.db").exit_code == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("path", "more", "code"), [("/status/404", "", 3), ("/status/500", "allowInitialErrors: true, ", 0)]
)
def test_a_target_that_only_fails(
    write: Callable[[str], Path], tmp_path: Path, target: str, path: str, more: str, code: int
) -> None:
    """100 % errors are a result, once it is said that they may be."""
    load = f"{{task: http, with: {{url: '{target}{path}', {more}qps: 100, numRequests: 20, maxLag: 5s}}}}"
    result = run("run", write(f"spec: [{load}]"), store=tmp_path / "s.db")
    assert result.exit_code == code, result.stderr
    if code:
        assert f"failed: error 404 for {target}/status/404 (2 bytes)" in result.stderr
    else:
        assert "20 requests, 20 errors" in result.stderr
        assert "http/error-rate" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_ends_a_load_with_a_partial_report(
    write: Callable[[str], Path], tmp_path: Path, server: Target, number: signal.Signals
) -> None:
    file = write(
        f"spec:\n- task: http\n  with: {{url: '{server.url}/', qps: 50, duration: 10m, maxLag: 5s}}\n"
        "- run: touch after\n"
    )
    store = tmp_path / "store.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate", "experiment", "run", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HEADGATE_STORE": str(store)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would stay ignored, as it should
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == "task 1 of 2: http\n"
        server.wait_for(12)  # the first four come before the load
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "http/request-count" in out
    assert not (tmp_path / "after").exists()
    [row] = json.loads(run("list", "-o", "json", store=store).stdout)
    assert row["state"] == "interrupted"


def test_a_run_survives_that_nobody_reads_what_it_says(write: Callable[[str], Path], tmp_path: Path) -> None:
    file = write("spec:\n- run: echo one\n- run: touch after\n")
    ours, theirs = os.pipe()
    os.close(ours)
    store = tmp_path / "store.db"
    command = [sys.executable, "-m", "headgate", "experiment", "run", file, "-o", "none", "--store", store]
    ended = subprocess.run(command, stdout=theirs, stderr=theirs, timeout=120, check=False)
    os.close(theirs)
    assert ended.returncode == 0
    assert (tmp_path / "after").exists()


# serve


def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
    try:
        with urlopen(Request(url, data=body, method=method), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_results_are_served_as_the_dashboards_of_iter8_read_them(
    write: Callable[[str], Path], tmp_path: Path, target: str
) -> None:
    store = tmp_path / "store.db"
    file = write(f"spec: [{{task: http, with: {{url: '{target}/', qps: 100, numRequests: 20, maxLag: 5s}}}}]")
    assert run("run", file, "-o", "none", store=store).exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate", "experiment", "serve", "--listen", "127.0.0.1:0", "--store", store],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        where = "namespace=default&test=experiment"
        status, text = ask(f"{url}/httpDashboard?{where}")
        assert status == 200
        board = json.loads(text)
        [endpoint] = board["Endpoints"]
        assert endpoint == f"{target}/"
        assert board["Endpoints"][endpoint]["Return codes"] == {"200": 20}
        assert board["Endpoints"][endpoint]["Statistics"]["Count"] == 20
        assert board["ExperimentResult"]["Completed tasks"] == 1
        assert board["ExperimentResult"]["Failure"] is False
        assert board["ExperimentResult"]["Start time"].endswith(" UTC")
        assert json.loads(ask(f"{url}/grpcDashboard?{where}")[1])["Endpoints"] == {}
        [row] = json.loads(ask(f"{url}/experiments")[1])
        assert row["name"] == "experiment"
        assert json.loads(ask(f"{url}/experiments/default/experiment?revision=1")[1])["revision"] == 1
        assert ask(f"{url}/experiments/default/nothing")[0] == 404
        # Iter8's own table of what is refused
        assert ask(f"{url}/httpDashboard?{where}", "POST", b"") == (405, "expected GET\n")
        assert ask(f"{url}/httpDashboard?test=x") == (400, "no namespace specified\n")
        assert ask(f"{url}/grpcDashboard?namespace=x") == (400, "no test specified\n")
        assert ask(f"{url}/httpDashboard?namespace=x&test=y")[0] == 400
        assert ask(f"{url}/testResult?namespace=x&test=y") == (405, "expected PUT\n")
        assert ask(f"{url}/testResult?namespace=x", "PUT", b"{}") == (400, "no test specified\n")
        status, text = ask(f"{url}/testResult?namespace=x&test=y", "PUT", b"[1")
        assert (status, text.startswith("cannot unmarshal body into ExperimentResult")) == (400, True)
        assert ask(f"{url}/testResult?namespace=x&test=y", "PUT", b'{"startTime": "today"}')[0] == 400
        sent = json.dumps({"name": "y", "namespace": "x", "numCompletedTasks": 5, "failure": True, "insights": None})
        assert ask(f"{url}/testResult?namespace=x&test=y", "PUT", sent.encode())[0] == 200
        board = json.loads(ask(f"{url}/httpDashboard?namespace=x&test=y")[1])
        assert (board["Endpoints"], board["ExperimentResult"]["Completed tasks"]) == ({}, 5)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
