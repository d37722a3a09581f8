import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [
        *("convergence", "fanout", "coldstart", "storm", "sticky", "kubernetes", "tokens"),
        *("sidecar_overhead", "sidecar_stream", "sidecar_truth"),
    ],
)
def test_help_says_what_is_measured_and_which_options_there_are(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "--quick" in done.stdout
    assert "Envoy" in done.stdout


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch, tmp_path):
    from benchmarks.compiled import NoCompiler, compiled

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match="install cc, gcc or clang"):
        compiled("swarm", tmp_path)


@pytest.mark.parametrize("name", ["accuracy", "rate"])
def test_benchmarks_of_the_load_generator_say_what_they_measure(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "headgate load" in done.stdout


def test_the_target_of_known_times_answers_as_it_says(tmp_path):
    import os
    import shutil
    import socket

    from benchmarks.compiled import compiled
    from benchmarks.load_tools import target

    if not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        pytest.skip("no C compiler")
    binary = compiled("load_target", tmp_path)
    with target(binary, "mix", seed=7) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi" * 200)
            got = b""
            while got.count(b"200 OK") < 200:
                got += client.recv(65536)
        truth = server.truth()
    assert len(truth) == 200
    assert 0.004 < sorted(truth)[60] < sorted(truth)[150]
