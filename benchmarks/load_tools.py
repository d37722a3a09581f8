"""Targets and generators that accuracy.py and rate.py run: a core for the target, another one for who loads it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadgen.outcome import Outcome
from loadgen.plan import Plan

HERE = Path(__file__).resolve().parent
BODY = b'{"id":"0","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}]}'


def pin(pid: int, to: set[int]) -> None:
    """All of a process's threads onto these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), to)


def cores() -> tuple[set[int], set[int]]:
    """The target's and the generator's; the same where there is but one."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, {available[-1]}


class Target:
    """load_target.c at work. `truth` ends it: how long each request took in it, in seconds, in order of their ends."""

    def __init__(self, binary: Path, kind: str, seed: int = 1) -> None:
        self._process = subprocess.Popen([str(binary), kind, str(seed)], stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(self._process.pid, cores()[0])
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def truth(self) -> list[float]:
        self._process.terminate()
        out, _ = self._process.communicate(timeout=60)
        return [int(line) / 1e6 for line in out.split()]


@contextmanager
def target(binary: Path, kind: str, seed: int = 1) -> Iterator[Target]:
    made = Target(binary, kind, seed)
    try:
        yield made
    finally:
        made._process.kill()
        made._process.wait()


@dataclass(frozen=True, slots=True)
class Ran:
    """What our engine did. `memory`: the most that it held, in bytes."""

    outcome: Outcome
    memory: int

    @property
    def cpu_per_request(self) -> float:
        """Seconds, of the engine's own count over the run."""
        (worker,) = self.outcome.workers
        (account,) = self.outcome.accounts
        return worker.cpu * account.duration / account.sent


def ours(plan: Plan) -> Ran:
    """Run a plan on the generator's core."""
    with tempfile.TemporaryDirectory() as folder:
        asked, result = Path(folder, "plan"), Path(folder, "result")
        asked.write_bytes(plan.to_json())
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.engine", str(asked), str(result)],
            stdout=subprocess.DEVNULL,
            cwd=HERE.parent,
        )
        os.sched_setaffinity(process.pid, cores()[1])
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"the engine ended with {process.returncode}")
        return Ran(Outcome.from_json(result.read_bytes()), used.ru_maxrss * 1024)


def locust(kind: str, url: str, users: int, seconds: float, rate: float = 500) -> dict[str, object]:
    """A class of load_locust.py on the generator's core: its requests, CPU seconds and percentiles."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        environment = {
            **os.environ,
            "LOAD_TARGET": url,
            "LOAD_RESULT": str(result),
            "LOAD_USERS": str(users),
            "LOAD_RATE": str(rate),
            "PYTHONPATH": str(HERE.parent),
        }
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "load_locust.py"), kind, "--headless"]
        command += ["-u", str(users), "-r", str(users), "-t", f"{seconds:g}s", "--only-summary"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(process.pid, cores()[1])
        _, errors = process.communicate(timeout=seconds + 120)
        if not result.exists():
            raise RuntimeError(f"locust left no result: {errors[-2000:]}")
        told: dict[str, object] = json.loads(result.read_text())
        return told


def wrk(url: str, connections: int, seconds: float) -> tuple[int, float]:
    """(requests, CPU seconds) on the generator's core; the body and headers are ours."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f"wrk.method='POST'\nwrk.body=[[{BODY.decode()}]]\nwrk.headers['content-type']='application/json'\n"
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", script.name, url]
        text, cpu = _measured(command, seconds + 60)
    found = re.search(r"(\d+) requests in", text)
    assert found is not None, text
    return int(found[1]), cpu


def h2load(url: str, streams: int, requests: int, headers: dict[str, str], body: bytes) -> tuple[int, float]:
    """(requests that succeeded, CPU seconds) on the generator's core, over one connection."""
    with tempfile.NamedTemporaryFile() as data:
        data.write(body)
        data.flush()
        told = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
        command = ["h2load", "-c1", f"-m{streams}", f"-n{requests}", "-d", data.name, *told, url]
        text, cpu = _measured(command, 300)
    found = re.search(r"(\d+) succeeded", text)
    assert found is not None, text
    return int(found[1]), cpu


def _measured(command: list[str], timeout: float) -> tuple[str, float]:
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, cores()[1])
        watchdog = time.monotonic() + timeout
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > watchdog:
                process.kill()
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return out.read(), used.ru_utime + used.ru_stime


@contextmanager
def canned_grpc(folder: Path, answer: bytes) -> Iterator[str]:
    """nginx, which answers every gRPC call over h2c with this message and status OK. Gives its URL."""
    (folder / "answer").write_bytes(b"\0" + len(answer).to_bytes(4, "big") + answer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;"
        "events { worker_connections 1024; } http { access_log off; keepalive_requests 100000000; sendfile off;"
        f"client_body_temp_path {folder}/body; {places} open_file_cache max=10 inactive=1h; open_file_cache_valid 1h;"
        f"http2_max_concurrent_streams 1024; server {{ listen 127.0.0.1:{port} http2; root {folder};"
        "default_type application/grpc; add_trailer grpc-status 0 always; add_header app-version v1 always;"
        "error_page 404 405 =200 /answer; } }"
    )
    command = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen(
        [command, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    os.sched_setaffinity(process.pid, cores()[0])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx did not start: {(folder / 'error.log').read_text()}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
