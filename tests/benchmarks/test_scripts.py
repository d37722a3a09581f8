import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["convergence", "fanout", "coldstart", "storm", "sticky", "kubernetes", "tokens"])
def test_help_says_what_is_measured_and_which_options_there_are(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "--quick" in done.stdout
    assert "Envoy" in done.stdout


def test_without_a_compiler_the_swarm_says_what_to_install(monkeypatch, tmp_path):
    from benchmarks.swarm import NoCompiler, compile_swarm

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match="install cc, gcc or clang"):
        compile_swarm(tmp_path)
