"""What a gRPC ModelInfer costs the load generator: its own client beside h2load and beside grpcio under gevent.

nginx serves one canned answer with its trailers, so that the target is never what is measured; the callers run in turn
on one core, nginx on another, 16 calls in flight. Needs `nginx` and `h2load` (Debian: nghttp2-client).
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.child import Child
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median, paired_ratio
from headgate.demo import v2_messages as pb

PATH = "/inference.GRPCInferenceService/ModelInfer"
ROUNDS, CALLS = 7, 60_000
CALLERS = {"own, 1 connection": ("own", 1), "own, 4 connections": ("own", 4), "grpcio under gevent": ("grpcio", 1)}
CONFIG = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 100000000; open_file_cache max=10;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} http2;
    location = {path} {{ error_page 405 =200 /reply.bin; return 405; }}
    location = /reply.bin {{
      root {folder}; types {{}} default_type application/grpc;
      add_trailer grpc-status 0 always; add_header app-version v1 always;
    }}
  }}
}}
"""


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextmanager
def target(folder: Path) -> Iterator[int]:
    """nginx with its answer; its port."""
    answer = pb.ModelInferResponse(model_name="iris", model_version="v1", id="1")
    output = answer.outputs.add(name="label", datatype="INT64", shape=[1])
    output.contents.int64_contents.append(2)
    (folder / "reply.bin").write_bytes(framed(answer.SerializeToString()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.chmod(0o755)  # nginx' worker may be somebody else
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, path=PATH))
    process = subprocess.Popen([*pinned(0), "nginx", "-c", str(config), "-e", "stderr"])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("nginx did not start") from None
        yield port
    finally:
        process.terminate()
        process.wait(20)


def pinned(core: int) -> list[str]:
    """Target and caller on a core each, where that can be arranged."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ["taskset", "-c", str(cores[core])] if len(cores) > core and shutil.which("taskset") else []


def h2load(port: int, message: Path, calls: int) -> tuple[float, float]:
    """Microseconds of CPU a call, and calls a second."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*pinned(1), "h2load", "-n", str(calls), "-c", "1", "-m", "16", "-d", str(message)]
    command += ["-H", "te: trailers", "-H", "content-type: application/grpc", f"http://127.0.0.1:{port}{PATH}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if f"{calls} succeeded" not in said:
        raise RuntimeError(f"h2load: {said}")
    rate = re.search(r"([\d.]+) req/s", said)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used / calls * 1e6, float(rate[1]) if rate else float("nan")


def caller(kind: str, connections: int, port: int, message: Path, calls: int) -> tuple[float, float]:
    script = [sys.executable, "-m", "benchmarks.grpc_call_client", kind, f"http://127.0.0.1:{port}", str(message)]
    with Child(*pinned(1), *script, str(calls), str(connections)) as child:
        told = child.hear("ended", timeout=120)
    if told["failed"]:
        raise RuntimeError(f"{kind}: {told['failed']} of {calls} calls failed")
    return told["cpu"] / calls * 1e6, calls / told["seconds"]


def main() -> int:
    chosen = arguments(__doc__)
    missing = [tool for tool in ("nginx", "h2load") if shutil.which(tool) is None]
    if missing:
        print(f"missing: {', '.join(missing)} (Debian: apt-get install nginx-light nghttp2-client)", file=sys.stderr)
        return 2
    report = Report("grpc calls", machine())
    rounds, calls = (3, 20_000) if chosen.quick else (ROUNDS, CALLS)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("h2load", *CALLERS)}
    with tempfile.TemporaryDirectory(prefix="headgate-") as name, target(Path(name)) as port:
        message = Path(name) / "request.bin"
        message.write_bytes(framed(pb.iris_request((5.1, 3.5, 1.4, 0.2))))
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            found["h2load"].append(h2load(port, message, calls))
            for each, (kind, connections) in CALLERS.items():
                few = calls // 10 if kind == "grpcio" else calls
                found[each].append(caller(kind, connections, port, message, few - few % 16))
    costs = {each: [cost for cost, _ in runs] for each, runs in found.items()}
    report.table(
        "ModelInfer, 16 in flight",
        ["caller", "CPU us per call", "x h2load", "calls per second"],
        [
            [each, median(costs[each]), paired_ratio(costs[each], costs["h2load"]), median([rate for _, rate in runs])]
            for each, runs in found.items()
        ],
    )
    own = costs["own, 1 connection"]
    report.figure("CPU of a call, beside h2load's", paired_ratio(own, costs["h2load"]), "x", 1.6, headline=True)
    cheaper = paired_ratio(costs["grpcio under gevent"], own)
    report.figure("CPU of grpcio under gevent, beside ours", cheaper, "x", 8, "at least", headline=True)
    return report.close(chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
