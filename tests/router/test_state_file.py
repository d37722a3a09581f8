"""Rollout state survives a restart, and no trouble with its file stops anything."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from router import state_file
from router.state_file import StateFile, save
from router.step import RolloutState
from router.store import Store

SLOTS = RolloutState((("v2", 0), ("v3", 2)))


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def run(file: StateFile, scene, store: Store | None = None) -> None:
    async def play() -> None:
        running = asyncio.create_task(file.run(store or Store()))
        try:
            await scene()
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


def test_what_was_put_is_there_after_a_restart_and_what_was_forgotten_is_not(tmp_path: Path):
    path = tmp_path / "state.json"

    async def scene() -> None:
        first.put("default/iris", SLOTS)
        first.put("default/gone", SLOTS)
        first.forget("default/gone")
        await until(path.exists)

    first = StateFile(path)
    run(first, scene)
    again = StateFile(path)
    assert again.get("default/iris") == SLOTS
    assert again.get("default/gone") is None
    assert list(tmp_path.iterdir()) == [path], "no scratch file stays behind"


def test_the_last_change_before_the_end_is_written(tmp_path: Path):
    async def scene() -> None:
        await asyncio.sleep(0)
        file.put("default/iris", SLOTS)

    file = StateFile(tmp_path / "state.json", gap=3600)
    run(file, scene)
    assert StateFile(tmp_path / "state.json").get("default/iris") == SLOTS


def test_equal_state_is_not_written(tmp_path: Path):
    path = tmp_path / "state.json"
    save(path, {"default/iris": SLOTS})
    before = path.stat().st_ino

    async def scene() -> None:
        file.put("default/iris", SLOTS)
        file.forget("default/unknown")
        await asyncio.sleep(0)

    file = StateFile(path)
    run(file, scene)
    assert path.stat().st_ino == before


def test_changes_during_a_slow_write_become_one_more_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writes: list[int] = []
    go_on = threading.Event()

    def slow(path: Path, states: dict[str, RolloutState]):
        writes.append(len(states))
        assert go_on.wait(10)
        return save(path, states)

    monkeypatch.setattr(state_file, "save", slow)

    async def scene() -> None:
        file.put("m0", SLOTS)
        await until(lambda: writes == [1])
        for number in range(1, 1_000):
            file.put(f"m{number}", SLOTS)
        go_on.set()
        await until(lambda: len(writes) == 2)

    file = StateFile(tmp_path / "state.json", gap=0)
    run(file, scene)
    assert writes == [1, 1_000]


def test_an_older_write_that_comes_late_does_not_undo_a_newer_one(tmp_path: Path):
    file = StateFile(tmp_path / "state.json")
    assert file._write({"new": SLOTS}, 2) is None
    assert file._write({"old": SLOTS}, 1) is None
    assert StateFile(tmp_path / "state.json").get("new") == SLOTS


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"format": 99, "states": {}}', b'{"format": 1, "states": []}', b"\xff\xfe",
     b'{"format": 1, "states": {"a": 7}}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_told_and_replaced(tmp_path: Path, content: bytes):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    file, store = StateFile(path), Store()

    async def scene() -> None:
        await until(lambda: str(path) in store.problems())
        assert store.problems()[str(path)][0].severity == "warning"
        file.put("default/iris", SLOTS)
        await until(lambda: not store.problems())

    run(file, scene, store)
    assert StateFile(path).get("default/iris") == SLOTS


def test_state_of_an_odd_shape_is_forgotten_for_that_model_only(tmp_path: Path):
    path = tmp_path / "state.json"
    states = {"default/iris": SLOTS.to_json(), "default/odd": {"slots": [1, 2]}}
    path.write_text(json.dumps({"format": 1, "states": states}))
    file = StateFile(path)
    assert file.get("default/iris") == SLOTS
    assert file.get("default/odd") == RolloutState()


def test_a_folder_that_cannot_be_written_is_told_and_tried_again(tmp_path: Path):
    path = tmp_path / "missing" / "state.json"
    file, store = StateFile(path, retry=0.01), Store()

    async def scene() -> None:
        file.put("default/iris", SLOTS)
        await until(lambda: str(path) in store.problems())
        assert "cannot be saved: no such file" in store.problems()[str(path)][0].what
        assert file.get("default/iris") == SLOTS
        path.parent.mkdir()
        await until(lambda: not store.problems())

    run(file, scene, store)
    assert StateFile(path).get("default/iris") == SLOTS


def test_a_state_path_that_is_a_folder_is_told(tmp_path: Path):
    assert save(tmp_path, {}) is not None
    assert StateFile(tmp_path).get("default/iris") is None
