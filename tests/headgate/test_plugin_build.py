"""`headgate plugin build`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from headgate.cli import cli
from sidecar.native.build import NativeError, build


def test_it_prints_where_the_module_is_and_how_to_start_envoy(tmp_path: Path) -> None:
    try:
        module = build(cache=tmp_path)
    except NativeError as error:
        pytest.skip(f"NOT TESTED, building the module: {error}")
    done = CliRunner().invoke(cli, ["plugin", "build", "--into", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, f"{module.path}\n")
    assert f"start it with ENVOY_DYNAMIC_MODULES_SEARCH_PATH={module.path.parent}" in done.stderr


def test_an_envoy_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["plugin", "build", "--envoy", str(tmp_path / "envoy")])
    assert done.exit_code == 1
    assert "cannot ask" in done.stderr
    assert "envoy for its version" in done.stderr
