"""Log lines for people and for collectors, on stderr."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from headgate.config import Log
from headgate.logs import set_up


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Whatever is set up here does not outlive the test."""
    root = logging.getLogger()
    handlers, levels = (
        root.handlers[:],
        {name: logging.getLogger(name).level for name in ("", "headgate", "xds", "grpc._cython.cygrpc")},
    )
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_text_has_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log())
    logging.getLogger("xds.server").info("%s connected", "edge-1")
    assert capsys.readouterr().err.split(" ", 1)[1] == "INFO    edge-1 connected\n"


def test_json_has_one_object_per_line_with_the_traceback_inside(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log(format="json"))
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("headgate").exception("it broke")
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("error", "headgate", "it broke")
    assert found["exception"].endswith("ValueError: no")


def test_the_level_holds_for_ours_and_others_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log(level="debug"))
    logging.getLogger("headgate").debug("ours")
    logging.getLogger("aiohttp").info("theirs")
    set_up(Log(level="error"))
    logging.getLogger("headgate").warning("not important enough")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["ours"]


def test_streams_that_a_stop_ends_are_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log())
    logging.getLogger("grpc._cython.cygrpc").warning("Aborting method due to server stop.")
    assert capsys.readouterr().err == ""
