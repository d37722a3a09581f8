"""What plugins inside Envoy and beside it count, by files: added up, kept when who counted is gone, never trusted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.instruments import Family, Instruments, Joined, Sample
from sidecar.metrics.plugin_files import PluginFiles, parsed
from sidecar.plugin_figures import FOLDER, STALE, document, folder_named, own_file
from sidecar.plugin_figures import write as write_document

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


@pytest.mark.parametrize(("joined", "expected"), [("mean", 0.75), ("sum", 1.5)])
def test_a_gauge_of_several_is_their_sum_or_their_mean(joined: Joined, expected: float, tmp_path: Path) -> None:
    for value in (0.5, 1.0):
        instruments = Instruments()
        instruments.gauge("ratio", joined=joined).set(value)
        write_document(own_file(tmp_path), document(instruments.families("headgate_plugin_a_")))
    assert told(PluginFiles(tmp_path)) == {"headgate_plugin_a_ratio": expected}


def test_a_gauge_that_is_joined_in_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match="joined by sum or mean, not 'max'"):
        Instruments().gauge("ratio", joined="max")  # type: ignore[arg-type]


def test_a_file_that_nobody_writes_any_more_counts_as_gone(tmp_path: Path) -> None:
    files = PluginFiles(tmp_path)
    path = write(tmp_path / "1.json", 3)
    assert told(files) == {"headgate_plugin_a_seen_total": 3}
    fall_silent(path)
    assert told(files) == {"headgate_plugin_a_seen_total": 3}
    assert told(files) == {"headgate_plugin_a_seen_total": 3}, "it is added once"
    path.unlink()
    assert told(files) == {"headgate_plugin_a_seen_total": 3}


def test_who_was_only_held_up_is_not_counted_twice(tmp_path: Path) -> None:
    files = PluginFiles(tmp_path)
    path = write(tmp_path / "1.json", 3)
    told(files)
    fall_silent(path)
    told(files)
    write(path, 5)
    assert told(files) == {"headgate_plugin_a_seen_total": 5}


def test_plugins_that_were_loaded_anew_count_on(tmp_path: Path) -> None:
    files = PluginFiles(tmp_path)
    for value, sum_of_all in ((3, 3), (1, 4), (2, 5), (2, 5), (0, 5), (4, 9)):
        write(tmp_path / "1.json", value)
        assert told(files) == {"headgate_plugin_a_seen_total": sum_of_all}


def fall_silent(path: Path) -> None:
    past = time.time() - STALE - 5
    os.utime(path, (past, past))


def of(seconds: list[float]) -> tuple[Family, ...]:
    counted = [sum(one <= bound for one in seconds) for bound in (1.0, 2.0, float("inf"))]
    buckets = [Sample("_bucket", (("le", le),), n) for le, n in zip(("1", "2", "+Inf"), counted, strict=True)]
    rest = (Sample("_sum", (), sum(seconds)), Sample("_count", (), len(seconds)))
    return (Family("headgate_plugin_a_took", "histogram", "Took.", (*buckets, *rest)),)


lives = st.lists(st.lists(st.lists(st.sampled_from([0.5, 1.5, 9.0]), min_size=1, max_size=3), max_size=4), max_size=4)


@given(lives)
def test_no_history_of_restarts_makes_a_histogram_go_back_or_lose_what_was_seen(
    tmp_path_factory: pytest.TempPathFactory, processes: list[list[list[float]]]
) -> None:
    folder = tmp_path_factory.mktemp("figures")
    files, everything = PluginFiles(folder), []
    for process in processes:
        path, seconds = own_file(folder), []
        for more in process:
            seconds += more
            everything += more
            write_document(path, document(of(seconds)))
            assert files.families() == of(everything)
        if len(process) % 2:
            path.unlink(missing_ok=True)
        elif process:
            fall_silent(path)
        assert files.families() == (of(everything) if everything else ())


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
    assert folder_named() is None
    monkeypatch.setenv(FOLDER, str(tmp_path / "made"))
    folder = folder_named()
    assert folder is not None
    first, second = own_file(folder), own_file(folder)
    assert first != second
    write(first, 1)
    os.utime(first, (1, 1))
    own_file(folder)
    assert not first.exists()
