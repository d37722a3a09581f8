"""What `validate`, `plan` and `translate` see is what the running control plane would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.offline import load
from router.step import RolloutState
from xds.ir import Gateway


def manifest(name: str, host: str = "", gateway: str = "default", probe: str = "readiness: {tcp: {}}, ") -> str:
    return f"""---
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec:
  hosts: [{host or name + ".test"}]
  gateway: {gateway}
  versions:
  - {{name: v1, weight: 9, {probe}backend: {{endpoints: ["127.0.0.1:8001"]}}}}
  - {{name: v2, weight: 1, {probe}backend: {{endpoints: ["127.0.0.1:8002"]}}}}
"""


def weights(plan) -> dict[str, int]:
    return {target.version: target.weight for target in plan.routes[-1].targets}


def test_a_folder_is_planned_as_if_everything_were_ready(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yaml").write_text(manifest("b"))
    (tmp_path / "sub/a.yaml").write_text(manifest("a"))
    offline = load(tmp_path)
    assert list(offline.plans) == ["default/b", "default/a"]
    assert weights(offline.plans["default/a"]) == {"v1": 9_000, "v2": 1_000}
    assert offline.planned["default/a"].why
    assert (offline.problems, offline.files) == ((), 2)


def test_a_single_file_can_be_loaded(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(manifest("a"))
    (tmp_path / "b.yaml").write_text(manifest("b"))
    assert list(load(tmp_path / "a.yaml").plans) == ["default/a"]


def test_readiness_can_be_assumed_otherwise(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(manifest("a"))
    assert weights(load(tmp_path, ready=False).plans["default/a"]) == {"v1": 10_000}
    assert weights(load(tmp_path, ready={"default/a": {"v1"}}).plans["default/a"]) == {"v2": 10_000}
    assert weights(load(tmp_path, ready={}).plans["default/a"]) == {"v1": 9_000, "v2": 1_000}


def test_an_assumption_that_changes_nothing_is_a_problem(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(manifest("a") + manifest("plain", probe=""))
    offline = load(tmp_path, ready={"default/a": {"v3"}, "default/b": {"v1"}, "default/plain": {"v1"}})
    assert [problem.where for problem in offline.problems] == ["default/a", "default/b", "default/plain"]
    assert [word in str(problem) for word, problem in zip(("v1, v2", "no such model", "no readiness probe"),
                                                         offline.problems, strict=True)] == [True] * 3  # fmt: skip


def test_all_problems_of_all_files_come_at_once_and_the_good_rest_is_planned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "a.yaml").write_text(manifest("a", host="same.test"))
    (tmp_path / "b.yaml").write_text(manifest("b", host="same.test"))
    (tmp_path / "c.yaml").write_text(manifest("a"))
    (tmp_path / "d.yaml").write_text(manifest("d", gateway="egde"))
    (tmp_path / "e.yaml").write_text("{{{")
    (tmp_path / "f.yaml").write_text(manifest("f").replace("weight", "wieght"))
    (tmp_path / "g.yaml").write_bytes(b"\xff")
    (tmp_path / "h.yaml").symlink_to("nowhere")
    offline = load(tmp_path, gateways={"default": Gateway("default", ())})
    assert list(offline.plans) == ["default/a"]
    for word in ("belongs to default/a", "already defined", "'egde'", "e.yaml:", "wieght", "UTF-8", "nowhere"):
        assert any(word in str(problem) for problem in offline.problems), word
    assert len(offline.problems) == len(set(offline.problems))
    assert set(offline.errors) <= set(offline.problems)
    assert caplog.records == []
    assert capfd.readouterr().err == "", "the caller shows them; a second time in the log would confuse"


def test_without_gateways_any_name_is_taken(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(manifest("a", gateway="edge"))
    offline = load(tmp_path)
    assert offline.plans["default/a"].gateway == "edge"
    assert offline.problems == ()


def test_a_path_that_does_not_exist_is_a_problem(tmp_path: Path):
    offline = load(tmp_path / "nowhere")
    assert offline.plans == {}
    assert "no such file" in str(offline.errors[0])


def test_saved_state_gives_the_arms_of_the_running_control_plane(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(manifest("a"))

    def order(state: RolloutState) -> list[str]:
        plan = load(tmp_path, states={"default/a": state}).plans["default/a"]
        return [target.version for target in plan.routes[-1].targets]

    assert order(RolloutState((("v2", 0),))) != order(RolloutState((("v2", 1),)))
