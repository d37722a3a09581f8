"""A run in this one process, under locust's local runner."""

from __future__ import annotations

from time import perf_counter

from loadgen.engine.console import Commands, Console
from loadgen.engine.drive import Drive
from loadgen.engine.locusts import environment, open_page, show
from loadgen.parts import Report
from loadgen.plan import Plan
from loadgen.schedule import WHOLE

HEAD_START = 0.05  # seconds between the order to begin and the schedule's zero


def run(plan: Plan, console: Console, commands: Commands, page: tuple[str, int] | None) -> int:
    """Gives the exit code. Raises ValueError for what cannot be run, OSError where the page cannot be opened."""
    drive = Drive(plan, WHOLE, "this process")
    commands.stop, commands.abandon = drive.stop, drive.abandon
    made = environment(plan)
    made.create_local_runner()
    if page is not None:
        console.note = f"locust's page is at {open_page(made, *page)}"
    made.runner.start(1, spawn_rate=1)
    made.events.test_stopping.add_listener(lambda **_: commands.again())

    def tell(report: Report) -> None:
        console.take(report)
        if page is not None:
            show(made, plan, report)
        console.beat()

    drive.settle()
    start = perf_counter() + HEAD_START
    console.begin(start)
    drive.begin(start)
    drive.run(tell)
    return console.finish(drive.interrupted)
