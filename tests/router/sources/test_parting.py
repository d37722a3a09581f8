"""A version that has parted is decided about once, after a while in which its resources were followed."""

from __future__ import annotations

import asyncio

from router.sources.parting import GRACE, Partings


class Story:
    def __init__(self) -> None:
        self.now = 100.0
        self.looked: list[str] = []
        self.deaf: set[tuple[str, str]] = set()
        self.partings = Partings(self.looked.append, lambda *one: one in self.deaf, lambda: self.now)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.partings.check()


def test_each_version_is_decided_about_once_when_its_time_is_over():
    story = Story()
    story.partings.begin("a", "v1")
    story.later(GRACE / 2)
    story.partings.begin("b", "v1")
    assert story.partings.undecided("a", "v1")
    story.later(GRACE / 2)
    assert story.looked == ["a"]
    assert not story.partings.undecided("a", "v1")
    assert story.partings.undecided("b", "v1")
    story.later(GRACE)
    story.later(GRACE)
    assert story.looked == ["a", "b"]


def test_time_in_which_nothing_could_be_heard_does_not_count():
    story = Story()
    story.deaf.add(("a", "v1"))
    story.partings.begin("a", "v1")
    story.partings.begin("b", "v1")
    story.later(GRACE)
    assert story.looked == ["b"]
    story.deaf.clear()
    story.later(GRACE / 2)
    assert story.partings.undecided("a", "v1")
    story.later(GRACE / 2)
    assert story.looked == ["b", "a"]


def test_who_parts_again_has_all_of_the_time_and_who_is_known_to_be_protected_needs_none():
    story = Story()
    story.partings.begin("a", "v1")
    story.partings.begin("a", "v2")
    story.later(GRACE / 2)
    story.partings.begin("a", "v1")
    story.partings.forget("a", "v2")
    story.later(GRACE / 2)
    assert story.looked == []
    story.later(GRACE / 2)
    assert story.looked == ["a"]


def test_it_works_by_itself():
    story = Story()

    async def test() -> None:
        seen = asyncio.Event()
        partings = Partings(lambda model: seen.set(), lambda *one: False, lambda: story.now)
        task = asyncio.create_task(partings.run())
        await asyncio.sleep(0)
        partings.begin("a", "v1")
        story.now += GRACE
        await asyncio.wait_for(seen.wait(), 10)
        task.cancel()

    asyncio.run(test())
