"""A child process that is commanded and answers in JSON lines, and is always gone when its block is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent


class Child:
    """Runs a command whose stdout is JSON lines, each with an "event"."""

    def __init__(self, *command: str) -> None:
        self._name = " ".join(command[:4])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=HERE.parent
        )

    @classmethod
    def script(cls, name: str, *arguments: object) -> Self:
        """Run benchmarks/NAME with this interpreter."""
        return cls(sys.executable, str(HERE / name), *map(str, arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def do(self, what: str, **more: Any) -> None:
        self.say(json.dumps({"do": what, **more}))

    def end_input(self) -> None:
        """Most children take the end of their input as "finish"."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def hear(self, event: str, timeout: float = 30.0) -> dict[str, Any]:
        """Read lines until one tells `event`. A child that dies or stays silent is an error; it is killed."""
        assert self._process.stdout is not None
        alarm = threading.Timer(timeout, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            for line in self._process.stdout:
                said: dict[str, Any] = json.loads(line)
                if said["event"] == event:
                    return said
        finally:
            alarm.cancel()
        ended = self._process.poll()
        raise TimeoutError(f"no {event!r} within {timeout:.0f} s from {self._name} (exit code {ended})")

    def stall(self) -> None:
        """Stop the process where it is, as one that hangs."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def resident(self) -> int:
        """Resident bytes now."""
        return resident(self.pid)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
