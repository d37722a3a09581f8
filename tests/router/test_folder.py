"""A folder of manifests, with all that can happen to it: nothing that works is ever lost by accident."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router.manifests import Located, parse
from router.problem import Problem
from router.sources.catalog import Catalog
from router.sources.folder import Folder
from router.sources.scan import scan
from router.store import Store

LONG = 30.0


def manifest(name: str = "iris", host: str = "") -> str:
    return f"""
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec: {{hosts: [{host or name + ".test"}], versions: [{{name: v1, backend: {{endpoints: ["127.0.0.1:8001"]}}}}]}}
"""


class Watched:
    """A running Folder and its Store."""

    def __init__(self, store: Store, folder: Folder) -> None:
        self.store, self.folder = store, folder

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for changes of the store, never for time."""
        async with asyncio.timeout(LONG):
            while not condition():
                await self.store.next_dirty()

    async def until_problem(self, word: str, *, gone: bool = False) -> None:
        await self.look(lambda: (word in self.words()) != gone)

    async def look(self, condition: Callable[[], bool]) -> None:
        """For what wakes no reader of the store: look whenever the loop turns."""
        async with asyncio.timeout(LONG):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def words(self) -> str:
        return "\n".join(str(problem) for problems in self.store.problems().values() for problem in problems)

    def host(self, name: str = "iris") -> str | None:
        one = self.store.get(f"default/{name}")
        return one.rollout.spec.hosts[0] if one else None

    def names(self) -> set[str]:
        return {key.removeprefix("default/") for key in self.store.keys()}  # noqa: SIM118


def watch(
    root: Path,
    scene: Callable[[Watched], Awaitable[None]],
    *,
    awaited: bool = True,
    rescan: float = 3600,
    **options: Any,
) -> None:
    """Run `scene` beside a Folder, by default one that lives from events alone: the next rescan is an hour away."""

    async def play() -> None:
        store = Store()
        folder = Folder(root, rescan=rescan, **options)
        running = asyncio.create_task(folder.run(store))
        try:
            async with asyncio.timeout(LONG):
                if awaited:
                    await folder.loaded.wait()
                await scene(Watched(store, folder))
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_exists_is_loaded_and_changes_follow(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("a"))
    write(tmp_path / "deep/er/b.yml", manifest("b"))
    write(tmp_path / "c.json", '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}')
    write(tmp_path / "notes.txt", "not: [yaml")
    write(tmp_path / ".hidden.yaml", "not: [yaml")
    write(tmp_path / ".git/config.yaml", "not: [yaml")
    write(tmp_path / "a.yaml~", "not: [yaml")

    async def scene(at: Watched) -> None:
        assert at.names() == {"a", "b"}
        assert at.words() == ""
        write(tmp_path / "a.yaml", manifest("a", "other.test"))
        await at.until(lambda: at.host("a") == "other.test")
        write(tmp_path / "new/c.yaml", manifest("c"))
        await at.until(lambda: at.names() == {"a", "b", "c"})
        write(tmp_path / "new/d.yaml", manifest("d"))
        await at.until(lambda: at.names() == {"a", "b", "c", "d"})
        (tmp_path / "deep/er/b.yml").unlink()
        await at.until(lambda: at.names() == {"a", "c", "d"})

    watch(tmp_path, scene)


def test_an_atomic_replacement_is_one_change(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        at.store.take_dirty()
        for host in ("one.test", "two.test"):
            write(tmp_path / "a.yaml.tmp", manifest("a", host))
            (tmp_path / "a.yaml.tmp").replace(tmp_path / "a.yaml")
            await at.until(lambda host=host: at.host("a") == host)

    watch(tmp_path, scene)


def test_a_broken_file_keeps_its_last_good_objects_and_says_what_is_wrong(tmp_path: Path):
    write(tmp_path / "two.yaml", manifest("a") + "---" + manifest("b"))

    async def scene(at: Watched) -> None:
        write(tmp_path / "two.yaml", manifest("a", "new.test") + "---" + manifest("b").replace("hosts", "hsots"))
        await at.until(lambda: at.host("a") == "new.test")
        assert at.host("b") == "b.test"
        assert "hsots" in at.words()
        assert [p.where for p in at.store.problems_of("default/b")], "the model that is kept says why"
        assert at.store.problems_of("default/a") == ()
        write(tmp_path / "two.yaml", "{{{ no yaml")
        await at.until_problem("two.yaml:1")
        assert at.names() == {"a", "b"}
        write(tmp_path / "two.yaml", manifest("a"))
        await at.until(lambda: at.names() == {"a"})
        assert at.words() == ""

    watch(tmp_path, scene)


def test_a_half_written_file_loses_nothing(tmp_path: Path):
    whole = manifest("a") + "---" + manifest("b")
    write(tmp_path / "two.yaml", whole)

    async def scene(at: Watched) -> None:
        seen = at.folder._known
        with (tmp_path / "two.yaml").open("w") as file:
            for part in ("", whole[:200], whole[:-9]):
                file.seek(0)
                file.write(part)
                file.flush()
                await at.look(lambda part=part: seen[file.name].digest == hash(part.encode()))
                assert at.names() == {"a", "b"}
        write(tmp_path / "two.yaml", whole)
        await at.look(lambda: seen[file.name].digest == hash(whole.encode()))
        assert at.names() == {"a", "b"}
        assert at.words() == ""

    watch(tmp_path, scene, confirm=60.0)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe\x00broken", "UTF-8"),
        (b"# " + b"x" * (10 * 1024 * 1024), "larger than 10 MB"),
        (b"a: &a [1]\nb: *nobody", "bad.yaml"),
        (b"- just\n- a list", "mapping"),
        (b"\x00\x01\x02", "bad.yaml"),
        (b"[" * 100_000, "bad.yaml"),
    ],
    ids=["not UTF-8", "too large", "unknown alias", "a list", "binary", "deep nesting"],
)
def test_a_file_that_makes_no_sense_harms_no_other(tmp_path: Path, content: bytes, word: str):
    write(tmp_path / "good.yaml", manifest("good"))
    (tmp_path / "bad.yaml").write_bytes(content)

    async def scene(at: Watched) -> None:
        assert at.names() == {"good"}
        assert word in at.words()
        (tmp_path / "bad.yaml").unlink()
        await at.until_problem("bad.yaml", gone=True)

    watch(tmp_path, scene)


def test_ten_thousand_lines_in_one_file_are_read(tmp_path: Path):
    documents = "---".join(manifest(f"m{number}") for number in range(1_700))
    assert documents.count("\n") > 8_000
    write(tmp_path / "many.yaml", documents + "\n# end" * 2_000)

    async def scene(at: Watched) -> None:
        assert len(at.names()) == 1_700
        assert at.words() == ""

    watch(tmp_path, scene)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_or_folder_keeps_what_was_loaded(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("a"))
    write(tmp_path / "closed/b.yaml", manifest("b"))

    async def scene(at: Watched) -> None:
        (tmp_path / "a.yaml").chmod(0)
        (tmp_path / "closed").chmod(0)
        try:
            write(tmp_path / "c.yaml", manifest("c"))
            await at.until_problem("permission denied")
            assert {"a", "b"} <= at.names()
        finally:
            (tmp_path / "closed").chmod(0o755)
            (tmp_path / "a.yaml").chmod(0o644)

    watch(tmp_path, scene, rescan=0.05)


def test_a_folder_that_cannot_be_listed_for_a_while_keeps_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "closed/a.yaml", manifest("a"))
    write(tmp_path / "b.yaml", manifest("b"))
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    async def scene(at: Watched) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scandir)
            await at.until_problem("permission denied")
            write(tmp_path / "b.yaml", manifest("b", "later.test"))
            await at.until(lambda: at.host("b") == "later.test")
            assert at.names() == {"a", "b"}
        await at.until_problem("permission denied", gone=True)
        assert at.names() == {"a", "b"}

    watch(tmp_path, scene, rescan=0.02, confirm=0.0)


def test_a_folder_exchanged_in_one_go_is_followed_even_if_its_inode_is_the_same(tmp_path: Path):
    root = tmp_path / "manifests"
    write(root / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        for turn in range(3):
            shutil.rmtree(root)
            write(root / "a.yaml", manifest("a", f"new{turn}.test"))
            await at.until(lambda turn=turn: at.host("a") == f"new{turn}.test")
            write(root / "a.yaml", manifest("a", f"edited{turn}.test"))
            await at.until(lambda turn=turn: at.host("a") == f"edited{turn}.test")

    watch(root, scene, confirm=60.0)


def test_a_pipe_named_like_a_manifest_blocks_nobody(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    write(tmp_path / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        assert at.names() == {"a"}
        assert "not a regular file" in at.words()

    watch(tmp_path, scene)


def test_of_two_files_with_one_name_the_serving_one_wins_until_it_goes(tmp_path: Path):
    write(tmp_path / "b.yaml", manifest("iris", "b.test"))

    async def scene(at: Watched) -> None:
        write(tmp_path / "a.yaml", manifest("iris", "a.test"))
        await at.until_problem("default/iris is already defined")
        assert str(tmp_path / "a.yaml") in at.words()
        assert str(tmp_path / "b.yaml") in at.words()
        assert at.host() == "b.test"
        (tmp_path / "b.yaml").unlink()
        await at.until(lambda: at.host() == "a.test")
        assert at.words() == ""

    watch(tmp_path, scene)


def test_at_a_fresh_start_the_first_file_by_path_wins(tmp_path: Path):
    write(tmp_path / "b.yaml", manifest("iris", "b.test"))
    write(tmp_path / "a.yaml", manifest("iris", "a.test"))

    async def scene(at: Watched) -> None:
        assert at.host() == "a.test"

    watch(tmp_path, scene)


def test_a_renamed_file_is_a_move_not_a_removal(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("iris"))
    write(tmp_path / "folder/b.yaml", manifest("b"))

    async def scene(at: Watched) -> None:
        dropped: list[str] = []
        drop = at.store.drop
        at.store.drop = lambda key: dropped.append(key) or drop(key)  # type: ignore[method-assign]
        (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
        (tmp_path / "folder").rename(tmp_path / "elsewhere")
        places = {"default/iris": tmp_path / "z.yaml", "default/b": tmp_path / "elsewhere/b.yaml"}
        await at.until(lambda: all(at.store.get(key).where.startswith(str(place)) for key, place in places.items()))
        assert dropped == []

    watch(tmp_path, scene, confirm=5.0)


def test_a_vanished_folder_keeps_everything_and_is_followed_again_when_it_is_back(tmp_path: Path):
    root = tmp_path / "manifests"
    write(root / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        shutil.rmtree(root)
        await at.until_problem("no such file or directory")
        assert at.names() == {"a"}
        write(root / "a.yaml", manifest("a", "back.test"))
        await at.until(lambda: at.host("a") == "back.test")
        assert at.words() == ""
        write(root / "a.yaml", manifest("a", "again.test"))
        await at.until(lambda: at.host("a") == "again.test")

    watch(root, scene, confirm=60.0)


def test_a_folder_that_does_not_exist_yet_is_awaited_and_not_taken_for_empty(tmp_path: Path):
    root = tmp_path / "later"

    async def scene(at: Watched) -> None:
        await at.until_problem("no such file or directory")
        assert not at.folder.loaded.is_set(), "else Envoys would be told to delete everything"
        write(root / "a.yaml", manifest("a"))
        await at.folder.loaded.wait()
        assert at.names() == {"a"}

    watch(root, scene, awaited=False)


def test_when_half_of_the_files_go_at_once_their_objects_wait_for_them(tmp_path: Path):
    for name in "abcdef":
        write(tmp_path / f"{name}.yaml", manifest(name))

    async def scene(at: Watched) -> None:
        for name in "abc":
            (tmp_path / f"{name}.yaml").unlink()
        await at.until_problem("3 of 6 rollouts lost their files at once")
        assert len(at.names()) == 6
        for name in "abc":
            write(tmp_path / f"{name}.yaml", manifest(name))
        await at.until_problem("lost their files", gone=True)
        assert len(at.names()) == 6

    watch(tmp_path, scene, hold=3600.0, confirm=0.5)


def test_a_mass_deletion_that_lasts_is_believed(tmp_path: Path):
    for name in "abcdef":
        write(tmp_path / f"{name}.yaml", manifest(name))

    async def scene(at: Watched) -> None:
        for name in "abc":
            (tmp_path / f"{name}.yaml").unlink()
        await at.until(lambda: at.names() == {"d", "e", "f"})
        assert at.words() == ""

    watch(tmp_path, scene, hold=0.3, confirm=0.1)


def test_a_kubernetes_mount_is_read_once_and_followed_when_it_is_exchanged(tmp_path: Path):
    write(tmp_path / "..2026_1/a.yaml", manifest("a"))
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    async def scene(at: Watched) -> None:
        assert at.names() == {"a"}
        assert at.words() == ""
        write(tmp_path / "..2026_2/a.yaml", manifest("a", "new.test"))
        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await at.until(lambda: at.host("a") == "new.test")
        assert at.words() == ""

    watch(tmp_path, scene)


def test_what_came_through_a_link_stays_while_the_link_leads_nowhere(tmp_path: Path):
    """A mount whose volume went away: nobody deleted the manifest."""
    for name in ("..2026_1", "elsewhere", "models"):
        (tmp_path / name).mkdir()
    write(tmp_path / "..2026_1/a.yaml", manifest("a"))
    write(tmp_path / "elsewhere/b.yaml", manifest("b"))
    (tmp_path / "models/a.yaml").symlink_to("../..2026_1/a.yaml")
    (tmp_path / "models/more").symlink_to("../elsewhere")

    async def scene(at: Watched) -> None:
        (tmp_path / "..2026_1").rename(tmp_path / "gone")
        (tmp_path / "elsewhere").rename(tmp_path / "gone-too")
        await at.until_problem("a.yaml, which does not exist")
        await at.until_problem("elsewhere, which does not exist")
        assert at.names() == {"a", "b"}
        (tmp_path / "models/a.yaml").unlink()
        (tmp_path / "models/more").unlink()
        await at.until(lambda: not at.names())

    watch(tmp_path / "models", scene, rescan=0.1)


def test_an_emptied_file_keeps_what_it_held_until_it_is_deleted(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("a"))
    write(tmp_path / "b.yaml", manifest("b"))

    async def scene(at: Watched) -> None:
        (tmp_path / "a.yaml").write_text("")
        await at.until_problem("a.yaml: is empty")
        assert at.names() == {"a", "b"}
        (tmp_path / "a.yaml").unlink()
        await at.until(lambda: at.names() == {"b"})
        assert at.words() == ""

    watch(tmp_path, scene)


def test_links_are_followed_loops_are_cut_and_broken_links_are_told(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "manifests"
    write(outside / "a.yaml", manifest("a"))
    write(root / "b.yaml", manifest("b"))
    (root / "linked").symlink_to(outside)
    (root / "same-again.yaml").symlink_to("b.yaml")
    (root / "loop").symlink_to(root)
    (root / "broken.yaml").symlink_to("nowhere.yaml")
    (root / "self.yaml").symlink_to("self.yaml")

    async def scene(at: Watched) -> None:
        assert at.names() == {"a", "b"}
        words = at.words()
        assert "a folder that contains it" in words
        assert "nowhere.yaml, which does not exist" in words
        assert "too many levels of symbolic links" in words
        assert len(words.splitlines()) == 3
        (root / "broken.yaml").unlink()
        await at.until_problem("nowhere.yaml", gone=True)
        write(outside / "a.yaml", manifest("a", "changed.test"))
        await at.until(lambda: at.host("a") == "changed.test")

    watch(root, scene, rescan=0.1)


def test_a_lost_event_is_made_up_for_by_the_rescan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def deaf(*_: object, **__: object):
        await asyncio.Event().wait()
        yield set()

    monkeypatch.setattr("router.sources.folder.awatch", deaf)
    write(tmp_path / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        write(tmp_path / "a.yaml", manifest("a", "new.test"))
        await at.until(lambda: at.host("a") == "new.test")

    watch(tmp_path, scene, rescan=0.05)


def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.yaml", manifest("a"))
    write(tmp_path / "b.yaml", manifest("b"))

    async def scene(at: Watched) -> None:
        parsed: list[str] = []

        def counting(data: bytes, where: str):
            parsed.append(Path(where).name)
            return parse(data, where)

        monkeypatch.setattr("router.sources.folder.parse", counting)
        write(tmp_path / "a.yaml", manifest("a"))
        write(tmp_path / "b.yaml", manifest("b", "new.test"))
        await at.until(lambda: at.host("b") == "new.test")
        assert set(parsed) == {"b.yaml"}

    watch(tmp_path, scene, rescan=0.05)


def test_a_single_file_can_be_the_source(tmp_path: Path):
    write(tmp_path / "only.yaml", manifest("a"))
    write(tmp_path / "other.yaml", manifest("b"))

    async def scene(at: Watched) -> None:
        assert at.names() == {"a"}
        write(tmp_path / "only.yaml", manifest("a", "new.test"))
        await at.until(lambda: at.host("a") == "new.test")

    watch(tmp_path / "only.yaml", scene, rescan=0.5)


def test_a_rollout_deleted_and_made_again_is_there_again(tmp_path: Path):
    write(tmp_path / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        (tmp_path / "a.yaml").unlink()
        await at.until(lambda: at.names() == set())
        write(tmp_path / "a.yaml", manifest("a"))
        await at.until(lambda: at.names() == {"a"})

    watch(tmp_path, scene)


@pytest.mark.parametrize("way", ["relative", "link", "polling"])
def test_however_the_folder_is_named_or_watched_its_changes_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    write(tmp_path / "real/a.yaml", manifest("a"))
    root = {"relative": Path("real"), "link": tmp_path / "link", "polling": tmp_path / "real"}[way]
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("router.sources.folder._POLL_EVERY", 0.02)

    async def scene(at: Watched) -> None:
        write(tmp_path / "real/a.yaml", manifest("a", "new.test"))
        await at.until(lambda: at.host("a") == "new.test")
        write(tmp_path / "real/deep/b.yaml", manifest("b"))
        await at.until(lambda: at.host("b") == "b.test")
        (tmp_path / "real/a.yaml").unlink()
        await at.until(lambda: at.host("a") is None)

    watch(root, scene, force_polling=True if way == "polling" else None)


def test_without_watches_left_the_folder_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def exhausted(*_: object, **__: object):
        raise OSError(28, "OS file watch limit reached")
        yield set()

    monkeypatch.setattr("router.sources.folder.awatch", exhausted)
    monkeypatch.setattr("router.sources.folder._POLL_EVERY", 0.02)
    write(tmp_path / "a.yaml", manifest("a"))

    async def scene(at: Watched) -> None:
        write(tmp_path / "a.yaml", manifest("a", "new.test"))
        await at.until(lambda: at.host("a") == "new.test")

    watch(tmp_path, scene)


def test_a_file_that_cannot_be_read_for_a_while_keeps_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.yaml", manifest("a"))
    denied = Problem(str(tmp_path / "a.yaml"), "", "cannot be read: permission denied")

    async def scene(at: Watched) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("router.sources.folder.read", lambda path: denied)
            write(tmp_path / "a.yaml", "")
            await at.until_problem("permission denied")
            assert at.names() == {"a"}
        await at.until_problem("permission denied", gone=True)

    watch(tmp_path, scene, rescan=0.05, confirm=60.0)


def test_a_defect_of_the_parser_is_a_problem_of_that_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.yaml", manifest("a"))
    write(tmp_path / "b.yaml", manifest("b"))

    def parser(data: bytes, where: str):
        if where.endswith("a.yaml"):
            raise RecursionError("too deep")
        return parse(data, where)

    monkeypatch.setattr("router.sources.folder.parse", parser)

    async def scene(at: Watched) -> None:
        assert at.names() == {"b"}
        assert "RecursionError: too deep" in at.words()

    watch(tmp_path, scene)


def test_a_long_load_tells_how_far_it_is_and_nobody_is_told_loaded_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for number in range(200):
        write(tmp_path / f"m{number}.yaml", manifest(f"m{number}"))
    ticks = count()
    caplog.set_level(logging.INFO, "router.sources.folder")

    async def play() -> None:
        store = Store()
        folder = Folder(tmp_path, monotonic=lambda: next(ticks) * 2.0)
        running = asyncio.create_task(folder.run(store))
        async with asyncio.timeout(LONG):
            while len(store.keys()) < 200:
                assert not folder.loaded.is_set()
                await store.next_dirty()
            await folder.loaded.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert any("read 128 of 200 manifests" in message for message in caplog.messages)
    assert caplog.messages[-1].endswith("200 rollouts loaded")


def test_one_rollout_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "router.sources.folder")
    write(tmp_path / "iris.yaml", manifest())

    async def play() -> None:
        folder = Folder(tmp_path)
        running = asyncio.create_task(folder.run(Store()))
        async with asyncio.timeout(LONG):
            await folder.loaded.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert caplog.messages == [f"{tmp_path}: 1 rollout loaded"]


# The catalog alone, with time as an argument


def one(name: str, where: str) -> dict[str, Located]:
    (found,) = parse(manifest(name).encode(), where).rollouts
    return {name: found}


def test_a_removal_is_believed_when_it_is_still_true_a_moment_later():
    catalog = Catalog(confirm=1.0)
    catalog.file("a", one("x", "a"), complete=True)
    catalog.settle(0.0)
    catalog.gone("a")
    assert catalog.settle(10.0).drops == ()
    assert catalog.settle(10.9).drops == ()
    changes = catalog.settle(11.0)
    assert (changes.drops, changes.again_at) == (("x",), None)


def test_a_file_that_comes_back_in_time_ends_its_removal():
    catalog = Catalog(confirm=1.0)
    catalog.file("a", one("x", "a"), complete=True)
    catalog.settle(0.0)
    catalog.gone("a")
    assert catalog.settle(10.0).again_at == 11.0
    catalog.file("a", one("x", "a"), complete=True)
    changes = catalog.settle(10.5)
    assert (changes.puts, changes.drops, changes.again_at) == ({}, (), None)
    assert catalog.settle(99.0).drops == ()


def test_files_lost_one_after_another_within_the_moment_count_as_one_loss():
    catalog = Catalog(confirm=1.0, hold=60.0)
    for name in "abcd":
        catalog.file(name, one(name, name), complete=True)
    catalog.settle(0.0)
    catalog.gone("a")
    assert catalog.settle(10.0).held is None
    catalog.gone("b")
    changes = catalog.settle(10.9)
    assert changes.held is not None
    assert (changes.held.missing, changes.held.known, changes.held.until) == (2, 4, 70.9)
    assert catalog.settle(69.9).drops == ()
    assert set(catalog.settle(70.9).drops) == {"a", "b"}


def test_a_broken_files_memory_yields_to_a_file_that_is_whole():
    catalog = Catalog()
    catalog.file("a", one("x", "a"), complete=True)
    catalog.settle(0.0)
    catalog.file("a", {}, complete=False)
    catalog.settle(1.0)
    assert catalog.stale("a") == ("x",)
    catalog.file("b", one("x", "b"), complete=True)
    changes = catalog.settle(2.0)
    assert changes.puts["x"].where.startswith("b")


def test_a_scan_of_an_unlistable_folder_does_not_call_its_files_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "closed/a.yaml", manifest("a"))
    real = os.scandir

    def scandir(path: str):
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan(tmp_path)
    assert found.files == {}
    assert found.hides(str(tmp_path / "closed/a.yaml"))
    assert not found.hides(str(tmp_path / "open.yaml"))
    assert "permission denied" in str(found.problems[str(tmp_path / "closed")])
