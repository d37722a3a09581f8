"""What plugins inside Envoy count, by files: added up, kept when its Envoy is gone, and never trusted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.metrics.plugin_files import PluginFiles, parsed
from sidecar.plugin_figures import FOLDER, STALE, own_file

PARTS = {"counter": "_total", "gauge": "", "histogram": "_count"}


def write(path: Path, value: float, kind: str = "counter", name: str = "headgate_plugin_a_seen") -> Path:
    samples = [[PARTS[kind], {"who": "ann"}, value]]
    path.write_text(json.dumps({"families": [{"name": name, "kind": kind, "help": "Seen.", "samples": samples}]}))
    return path


def told(files: PluginFiles) -> dict[str, float]:
    return {one.name + sample.suffix: sample.value for one in files.families() for sample in one.samples}


def test_configurations_are_added_up_and_stay_counted_when_they_are_gone(tmp_path: Path) -> None:
    files = PluginFiles(tmp_path)
    first, second = write(tmp_path / "1.json", 3), write(tmp_path / "2.json", 4)
    assert told(files) == {"headgate_plugin_a_seen_total": 7}
    first.unlink()
    assert told(files) == {"headgate_plugin_a_seen_total": 7}
    write(second, 6)
    write(tmp_path / "3.json", 1)
    assert told(files) == {"headgate_plugin_a_seen_total": 10}


def test_a_gauge_goes_with_its_configuration(tmp_path: Path) -> None:
    files, path = PluginFiles(tmp_path), write(tmp_path / "1.json", 3, "gauge")
    assert told(files) == {"headgate_plugin_a_seen": 3}
    path.unlink()
    assert told(files) == {}


def test_a_file_that_nobody_writes_any_more_counts_as_gone(tmp_path: Path) -> None:
    files = PluginFiles(tmp_path)
    path = write(tmp_path / "1.json", 3)
    assert told(files) == {"headgate_plugin_a_seen_total": 3}
    past = time.time() - STALE - 5
    os.utime(path, (past, past))
    assert told(files) == {"headgate_plugin_a_seen_total": 3}
    assert told(files) == {"headgate_plugin_a_seen_total": 3}, "it is added once"


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "{", "[]", "{}", '{"families": 1}', '{"families": [1]}', "[" * 5_000),
        json.dumps({"families": [{"name": "A b", "kind": "counter", "help": "", "samples": []}]}),
        json.dumps({"families": [{"name": "a", "kind": "odd", "help": "", "samples": []}]}),
        json.dumps({"families": [{"name": "a", "kind": "gauge", "help": "", "samples": [["_total", {}, 1]]}]}),
        json.dumps({"families": [{"name": "a", "kind": "gauge", "help": "", "samples": [["", {"A-b": ""}, 1]]}]}),
        json.dumps({"families": [{"name": "a", "kind": "gauge", "help": "", "samples": [["", {}, "x"]]}]}),
    ],
)
def test_a_wrong_file_hurts_no_other_and_is_told_once(wrong: str, tmp_path: Path, caplog: Any) -> None:
    files = PluginFiles(tmp_path)
    write(tmp_path / "1.json", 3)
    (tmp_path / "2.json").write_text(wrong)
    assert told(files) == told(files) == {"headgate_plugin_a_seen_total": 3}
    assert len([one for one in caplog.records if "2.json" in one.getMessage()]) == 1


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_no_document_breaks_the_reader(document: Any) -> None:
    samples = [{"name": "a", "kind": "gauge", "help": "", "samples": document}]
    for one in (document, {"families": document}, {"families": samples}):
        try:
            parsed(json.dumps(one).encode())
        except ValueError:
            continue


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert PluginFiles(tmp_path / "none").families() == ()


def test_files_have_names_of_their_own_and_litter_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert own_file() is None
    monkeypatch.setenv(FOLDER, str(tmp_path / "made"))
    first, second = own_file(), own_file()
    assert first is not None
    assert second is not None
    assert first != second
    write(first, 1)
    os.utime(first, (1, 1))
    own_file()
    assert not first.exists()
