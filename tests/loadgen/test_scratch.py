"""Folders of runs: gone with them, and with those that were killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loadgen.scratch import scratch

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from loadgen.scratch import scratch
with scratch() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "headgate-load-foreign").mkdir()  # without a lock: nobody knows whose it is
    command = [sys.executable, "-c", HOLD]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        (held / "result.json.partial").write_text("measured")
        os.utime(held / "in-use", (0, 0))
        with scratch() as mine:
            assert mine.parent == held.parent == tmp_path
        assert held.exists()
        assert not mine.exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
    os.utime(held / "in-use")
    with scratch():
        assert held.exists()  # so young that it may be about to be locked
    os.utime(held / "in-use", (0, 0))
    with scratch():
        assert not held.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["headgate-load-foreign"]
