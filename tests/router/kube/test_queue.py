"""The work queue: everything that was added is done after it was added, by one at a time, and failures wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.kube.client import ApiFault
from router.kube.queue import Queue


@contextlib.asynccontextmanager
async def working(queue: Queue, work: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while True:
            if true():
                return
            await asyncio.sleep(0)


async def idle(queue: Queue) -> None:
    await until(lambda: not queue.counters.depth)


def test_a_name_added_often_is_done_once():
    async def body() -> None:
        queue, done = Queue(), []

        async def work(key: str) -> None:
            done.append(key)

        for key in "abba":
            queue.add(key)
        assert queue.counters.depth == 2
        async with working(queue, work):
            await idle(queue)
        assert done == ["a", "b"]

    asyncio.run(body())


def test_a_name_added_while_it_is_worked_on_is_done_once_more_and_never_by_two_at_once():
    async def body() -> None:
        queue, done, free = Queue(), [], asyncio.Event()
        begun = asyncio.Event()

        async def work(key: str) -> None:
            done.append(key)
            begun.set()
            await free.wait()

        async with working(queue, work):
            queue.add("a")
            await begun.wait()
            for _ in range(5):
                queue.add("a")
            assert queue.counters.working == 1
            assert queue.counters.ready == 0
            free.set()
            await idle(queue)
        assert done == ["a", "a"]

    asyncio.run(body())


def test_urgent_ones_go_first_also_when_they_were_lazy_before():
    async def body() -> None:
        queue, done = Queue(hands=1), []

        async def work(key: str) -> None:
            done.append(key)

        for key in "abc":
            queue.add(key)
        queue.add("c", urgent=True)
        queue.add("d", urgent=True)
        queue.add("d")
        async with working(queue, work):
            await idle(queue)
        assert done == ["c", "d", "a", "b"]

    asyncio.run(body())


def test_no_more_hands_than_allowed_are_at_work():
    async def body() -> None:
        queue, most, now = Queue(hands=3), 0, 0

        async def work(key: str) -> None:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

        for number in range(50):
            queue.add(str(number))
        async with working(queue, work):
            await idle(queue)
        assert most == 3
        assert queue.counters.done == 50

    asyncio.run(body())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_due_later_can_be_moved_forward_but_not_back():
    clock = Clock()
    queue = Queue(clock=clock)
    queue.add("a", after=10)
    queue.add("a", after=20)
    queue.add("b", after=30)
    queue.add("b", after=5, urgent=True)
    queue.add("c", after=1)
    queue.add("c")
    assert (queue.counters.ready, queue.counters.waiting) == (1, 2)
    clock.now += 5
    assert queue._take_due() == 110
    assert [queue._next(), queue._next(), queue._next()] == ["b", "c", None]
    clock.now += 5
    assert queue._take_due() is None
    assert queue._next() == "a"


@pytest.mark.parametrize("fault", [ApiFault(503, "", "away"), ValueError("ours")])
def test_what_fails_is_tried_again_later_each_time_and_marks_do_not_hurry_it(fault):
    async def body() -> None:
        clock, tried = Clock(), []
        queue = Queue(clock=clock, dice=lambda: 0.0, first=1.0, most=8.0)

        async def work(key: str) -> None:
            tried.append(clock.now)
            if len(tried) < 6:
                raise fault

        queue.add("a")
        async with working(queue, work):
            for attempt in range(1, 6):
                await until(lambda: queue.counters.retries == attempt and not queue.counters.working)  # noqa: B023
                queue.add("a", urgent=True)
                assert queue.counters.waiting == 1, "it hurried"
                clock.now = queue._due["a"][0]
                queue._changed.set()
            await idle(queue)
        assert [after - before for before, after in itertools.pairwise(tried)] == [1, 2, 4, 8, 8]
        assert (queue.counters.retries, queue.counters.done) == (5, 1)
        assert not queue._failing

    asyncio.run(body())


def test_a_server_that_names_a_time_is_given_it():
    async def body() -> None:
        clock = Clock()
        queue = Queue(clock=clock, first=0.1)

        async def work(key: str) -> None:
            raise ApiFault(429, "", "slow down", retry_after=7.0)

        queue.add("a")
        async with working(queue, work):
            await until(lambda: queue.counters.retries)
        assert queue._due["a"][0] == 107

    asyncio.run(body())


def test_one_that_hangs_or_fails_holds_up_no_other():
    async def body() -> None:
        queue, done = Queue(hands=2), []

        async def work(key: str) -> None:
            if key == "hangs":
                await asyncio.Event().wait()
            if key == "fails":
                raise ApiFault(500, "", "no")
            done.append(key)

        for key in ("hangs", "fails", "a", "b"):
            queue.add(key, urgent=key in ("hangs", "fails"))
        async with working(queue, work):
            await until(lambda: len(done) == 2)
        assert done == ["a", "b"]

    asyncio.run(body())


def test_cancelled_work_is_awaited_and_done_by_the_next_run():
    async def body() -> None:
        queue, story = Queue(), []
        begun = asyncio.Event()

        async def slow(key: str) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                story.append("cut off")

        queue.add("a")
        async with working(queue, slow):
            await begun.wait()
        assert story == ["cut off"]
        assert queue.counters.working == 0
        assert "a" in queue

        async def quick(key: str) -> None:
            story.append(key)

        async with working(queue, quick):
            await idle(queue)
        assert story == ["cut off", "a"]

    asyncio.run(body())


def test_dropped_names_are_not_worked_on():
    async def body() -> None:
        queue, done = Queue(), []

        async def work(key: str) -> None:
            done.append(key)

        queue.add("a")
        queue.add("b", after=0.01)
        queue.add("c")
        queue.drop("a")
        queue.drop("b")
        async with working(queue, work):
            await idle(queue)
        assert done == ["c"]

    asyncio.run(body())


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from([0.0, 0.0, 0.001, 0.002]), st.booleans()),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(steps, st.integers(1, 3), st.integers(0, 4))
def test_after_the_last_mark_every_name_is_done_at_least_once_more(story: Any, hands: int, failures: int):
    async def body() -> None:
        queue = Queue(hands=hands, first=0.0005, most=0.001)
        marks: Counter[str] = Counter()
        seen: dict[str, int] = {}
        at_work: set[str] = set()
        left = failures

        async def work(key: str) -> None:
            nonlocal left
            assert key not in at_work
            at_work.add(key)
            try:
                looked = marks[key]
                await asyncio.sleep(0)
                if left:
                    left -= 1
                    raise ApiFault(500, "", "no")
                seen[key] = looked
            finally:
                at_work.discard(key)

        async with working(queue, work):
            for key, urgent, after, turn in story:
                marks[key] += 1
                queue.add(key, urgent, after)
                if turn:
                    await asyncio.sleep(0)
            await idle(queue)
        assert seen == dict(marks)

    asyncio.run(body())
