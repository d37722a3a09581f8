"""The order of tasks, what ends a run, what is kept, and traffic that is put back whatever happens."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_bench import Bench, answering, go, served

from loadgen.experiment.asserting import held, wanted
from loadgen.experiment.present import report
from loadgen.experiment.put_back import restore_abandoned
from loadgen.experiment.result import Result
from loadgen.experiment.routes import Before, RoutesFault
from loadgen.experiment.runner import NotResumable, exit_code
from loadgen.experiment.store import Busy, SqliteStore, StoreFault
from loadgen.experiment.tasks.settings import RouteSettings
from loadgen.outcome import Outcome, Series
from loadgen.plan import Plan
from loadgen.report.experiment import render


class Traffic:
    """Routes of one model, in memory. `log` is what was done, in order."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.weights = {"v1": 100, "v2": 0}
        self.log: list[str] = []
        self.stubborn = stubborn

    async def look(self, settings: RouteSettings, namespace: str, folder: str) -> Before:
        if settings.model != "iris":
            raise RoutesFault(f"no model {settings.model!r}")
        before = {name: {"weight": weight} for name, weight in self.weights.items()}
        return Before("default/iris", "memory", before, {}, {})

    async def change(self, settings: RouteSettings, before: Before, why: str) -> str:
        self.weights = dict(settings.weights or {})
        self.log.append(f"changed to {self.weights}")
        return "changed"

    async def restore(self, before: Before, why: str) -> str:
        if self.stubborn:
            raise RoutesFault("no answer")
        self.weights = {name: one["weight"] for name, one in before.versions.items()}
        self.log.append("put back")
        return "default/iris: as before"


ROUTE = "- task: route\n  with: {model: iris, weights: {v1: 20, v2: 80}}\n"


def kinds(result: Result) -> list[tuple[str, str]]:
    return [(one.task, one.state) for one in result.tasks]


# Order


def test_a_failed_task_ends_the_run(bench: Bench) -> None:
    result = go(bench.run("spec: [{run: 'true'}, {run: exit 7}, {run: touch after}]"))
    assert kinds(result) == [("run", "completed"), ("run", "failed")]
    assert (result.completed(), result.no_failure(), result.completed_tasks) == (False, False, 1)
    assert exit_code(result) == 1


def test_unless_it_says_otherwise(bench: Bench) -> None:
    result = go(bench.run("spec: [{run: exit 7, continueOnFailure: true}, {run: ls, if: NoFailure()}, {run: ls}]"))
    assert kinds(result) == [("run", "tolerated"), ("run", "skipped"), ("run", "completed")]
    assert (result.completed(), result.no_failure()) == (True, False)
    assert exit_code(result) == 0


def test_a_condition_sees_the_result_so_far(bench: Bench) -> None:
    result = go(
        bench.run(
            "metadata: {name: x}\nspec:\n- run: ls\n"
            "- run: ls\n  if: result.numCompletedTasks == 1 and metadata.name == 'x' and not Completed()\n"
            "- run: ls\n  if: result.insights.numVersions > 1\n"
        )
    )
    assert kinds(result) == [("run", "completed"), ("run", "completed"), ("run", "failed")]
    assert "cannot be compared" in result.tasks[2].message
    assert exit_code(result) == 2


def test_figures_of_all_loops_are_kept(bench: Bench) -> None:
    text = (
        "spec:\n  loops: 3\n  tasks:\n  - {task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}\n"
    )
    result = go(bench.run(text))
    assert (result.loops, result.completed()) == (3, True)
    assert result.insights.observed[0]["http/request-count"].values == (10, 10, 10)
    assert [one.loop for one in result.insights.loads] == [1, 2, 3]


def test_cron_waits_for_its_time_and_can_be_interrupted(bench: Bench) -> None:
    async def body() -> None:
        work = bench.prepared("spec: {cron: '0 0 1 1 *', tasks: [{run: touch never}]}")
        bench.when("next loop at", work.stop)
        result = await work.run()
        assert (result.interrupted, result.tasks) == (True, ())
        assert not (bench.folder / "never").exists()

    go(body())


def test_cron_runs_a_loop_when_it_is_due(bench: Bench) -> None:
    async def body() -> None:
        clock = [59.99]
        bench.when("next loop at", lambda: clock.append(clock[-1] + 60))
        text = "spec: {cron: '* * * * *', loops: 2, tasks: [{run: echo ran >> log}]}"
        result = await bench.run(text, now=lambda: clock[-1])
        assert (result.completed(), result.loops) == (True, 2)
        assert (bench.folder / "log").read_text() == "ran\nran\n"

    go(body())


def test_cron_keeps_to_a_clock_that_is_set_back(bench: Bench) -> None:
    async def body() -> None:
        clock = [7259.99]
        work = bench.prepared("spec: {cron: '* * * * *', tasks: [{run: touch ran}]}", now=lambda: clock[-1])
        jumps = iter([3659.99, 3660.01, 3660.01])
        bench.when("next loop at", lambda: clock.append(next(jumps)))
        bench.when("completed: the script", work.stop)
        await work.run()
        assert (bench.folder / "ran").exists()
        assert len([line for line in bench.lines if "next loop at" in line]) == 2  # an hour earlier the second time

    go(body())


def test_between_loops_the_last_one_is_what_is_known(bench: Bench) -> None:
    async def body() -> None:
        clock = [59.99]
        work = bench.prepared("spec: {cron: '* * * * *', tasks: [{run: 'true'}]}", now=lambda: clock[-1])
        jumps = iter([lambda: clock.append(60.0), work.stop])
        bench.when("next loop at", lambda: next(jumps)())
        result = await work.run()
        assert (result.loops, result.completed()) == (1, True)

    go(body())


# What is kept


class Disk(SqliteStore):
    """Is full after so many writes."""

    def __init__(self, path: Path, writes: int) -> None:
        super().__init__(path)
        self.writes = writes

    def _put(self, result: Result) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise StoreFault("database or disk is full")
        super()._put(result)


def test_every_run_is_kept_under_its_number(bench: Bench) -> None:
    async def body() -> None:
        for _ in range(3):
            await bench.run("spec: [{run: ls}]")
        rows = await bench.store.rows()
        assert [(one.name, one.revision, one.state) for one in rows] == [
            ("e", 3, "completed"),
            ("e", 2, "completed"),
            ("e", 1, "completed"),
        ]
        second = await bench.store.get("default", "e", 2)
        assert second is not None
        assert second.revision == 2
        assert await bench.store.delete("default", "e", 2) == 1
        assert await bench.store.get("default", "e", 2) is None
        assert await bench.store.delete("default", "e") == 2
        assert await bench.store.get("default", "e") is None

    go(body())


def test_a_result_comes_back_as_it_was_put(bench: Bench) -> None:
    async def body() -> None:
        text = "spec: [{task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}, {run: exit 1}]"
        result = await bench.run(text)
        assert await bench.store.get("default", "e") == result

    go(body())


def test_a_full_disk_ends_no_run_and_is_told(bench: Bench) -> None:
    async def body() -> None:
        from loadgen.experiment.runner import Run

        store = Disk(bench.folder / "s.db", writes=2)
        work = Run(bench.experiment("spec: [{run: ls}, {run: touch last}]"), store, bench.services())
        with pytest.raises(StoreFault, match="results could not be kept: database or disk is full"):
            await work.run()
        assert work.result.completed()
        assert (bench.folder / "last").exists()
        kept = await store.get("default", "e")
        assert kept is not None
        assert len(kept.tasks) == 1  # what was written before is there

    go(body())


def test_what_is_no_store_is_told(bench: Bench) -> None:
    file = bench.folder / "text.db"
    file.write_text("this is no database at all, but a text of some length\n" * 10)
    with pytest.raises(StoreFault, match="is no SQLite file"):
        SqliteStore(file)
    with pytest.raises(StoreFault, match=r"exists|not a directory"):
        SqliteStore(file / "below.db")


def test_a_result_of_another_version_is_told(bench: Bench) -> None:
    async def body() -> None:
        await bench.run("spec: [{run: ls}]")
        with sqlite3.connect(bench.store.path) as db:
            db.execute("update results set document = '{\"name\": 3}'")
        with pytest.raises(StoreFault, match="cannot read"):
            await bench.store.get("default", "e")

    go(body())


def test_two_of_one_name_do_not_run_at_once_and_others_do(bench: Bench) -> None:
    async def body() -> None:
        store = bench.store
        async with store.running("default", "e"):
            with pytest.raises(Busy, match=r"experiment default/e is being run by process \d+"):
                await bench.run("spec: [{run: ls}]")
            other = await bench.run("metadata: {name: other}\nspec: [{run: ls}]")
            assert other.completed()
        assert (await bench.run("spec: [{run: ls}]")).completed()

    go(body())


# Resuming


def test_a_run_goes_on_after_its_last_completed_task(bench: Bench) -> None:
    async def body() -> None:
        text = "spec: [{run: echo one >> log}, {run: test -f gate}, {run: echo three >> log}]"
        first = await bench.run(text)
        assert kinds(first) == [("run", "completed"), ("run", "failed")]
        (bench.folder / "gate").touch()
        second = await bench.run(text, resume=True)
        assert second.completed()
        assert second.revision == first.revision
        assert not second.failure
        assert (bench.folder / "log").read_text() == "one\nthree\n"
        with pytest.raises(NotResumable, match="it is complete"):
            await bench.run(text, resume=True)
        with pytest.raises(NotResumable, match="was changed since"):
            await bench.run("spec: [{run: ls}]", resume=True)

    go(body())


def test_nothing_can_be_resumed_that_was_not_run(bench: Bench) -> None:
    with pytest.raises(NotResumable, match="has not been run"):
        go(bench.run("spec: [{run: ls}]", resume=True))


def test_resuming_changes_the_traffic_again(bench: Bench) -> None:
    async def body() -> None:
        traffic = Traffic()
        text = f"spec:\n{ROUTE}- run: test -f gate\n"
        await bench.run(text, routes=traffic)
        (bench.folder / "gate").touch()
        await bench.run(text, resume=True, routes=traffic)
        assert traffic.log == ["changed to {'v1': 20, 'v2': 80}", "put back"] * 2

    go(body())


# Traffic


@pytest.mark.parametrize("then", ["true", "exit 1"])
def test_traffic_is_put_back_at_the_end(bench: Bench, then: str) -> None:
    async def body() -> None:
        traffic = Traffic()
        await bench.run(f"spec:\n{ROUTE}- run: '{then}'\n", routes=traffic)
        assert traffic.log == ["changed to {'v1': 20, 'v2': 80}", "put back"]
        assert traffic.weights == {"v1": 100, "v2": 0}
        assert await bench.store.notes() == ()

    go(body())


def test_of_two_changes_the_first_state_is_put_back(bench: Bench) -> None:
    async def body() -> None:
        traffic = Traffic()
        await bench.run(f"spec:\n{ROUTE}{ROUTE.replace('20', '50').replace('80', '50')}", routes=traffic)
        assert traffic.weights == {"v1": 100, "v2": 0}

    go(body())


def test_kept_traffic_stays(bench: Bench) -> None:
    async def body() -> None:
        traffic = Traffic()
        await bench.run(f"spec:\n{ROUTE.replace('iris,', 'iris, keep: true,')}", routes=traffic)
        assert traffic.weights == {"v1": 20, "v2": 80}

    go(body())


def test_an_interrupt_ends_a_task_puts_traffic_back_and_keeps_what_there_is(bench: Bench) -> None:
    async def body() -> None:
        traffic = Traffic()
        work = bench.prepared(f"spec:\n- run: ls\n{ROUTE}- run: sleep 600\n", routes=traffic)
        bench.when("task 3 of 3", work.stop)
        result = await work.run()
        assert kinds(result) == [("run", "completed"), ("route", "completed"), ("run", "interrupted")]
        assert (result.interrupted, exit_code(result)) == (True, 130)
        assert traffic.log[-1] == "put back"
        assert (await bench.store.rows())[0].state == "interrupted"

    go(body())


def test_a_load_that_is_interrupted_keeps_what_it_measured(bench: Bench) -> None:
    async def body() -> None:
        async def engine(plan: Any, tell: Any) -> Outcome:
            work.stop()
            return replace(await answering(Series("http", "v1", ok=3, codes={"200": 3}))(plan, tell), interrupted=True)

        text = "spec: [{task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}]"
        work = bench.prepared(text, engine=engine)
        result = await work.run()
        assert kinds(result) == [("http", "interrupted")]
        assert result.insights.observed[0]["http/request-count"].values == (3,)

    go(body())


def test_what_cannot_be_put_back_is_told_and_stays_noted(bench: Bench) -> None:
    async def body() -> None:
        await bench.run(f"spec:\n{ROUTE}", routes=Traffic(stubborn=True))
        assert any("could not be put back: no answer" in line for line in bench.lines)
        kept = await bench.store.get("default", "e")
        assert kept is not None
        assert exit_code(kept) == 1
        assert "could not be put back" in render(report(kept), "text")
        assert len(await bench.store.notes()) == 1
        again = Traffic()
        assert await restore_abandoned(bench.store, bench.services(routes=again)) == ["default/iris: as before"]
        assert await bench.store.notes() == ()

    go(body())


def test_traffic_of_a_run_that_was_killed_is_put_back_by_the_next_one(bench: Bench) -> None:
    """kill -9: the lock is gone with the process, the note is not."""
    folders = (Path(__file__).parents[3], Path(__file__).parents[2] / "doubles", Path(__file__).parent)
    code = f"""
import asyncio, sys
sys.path[:0] = {[str(one) for one in folders]!r}
from pathlib import Path
from experiment_bench import Bench
from test_runner import ROUTE, Traffic
bench = Bench(Path({str(bench.folder)!r}))
spec = "spec:\\n" + ROUTE + "- run: touch reached; while kill -0 $PPID; do sleep 0.1; done\\n"
asyncio.run(bench.run(spec, routes=Traffic()))
"""
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while not (bench.folder / "reached").exists():
            assert child.poll() is None

        async def meanwhile() -> None:
            assert (await bench.store.rows())[0].state == "running"
            assert await restore_abandoned(bench.store, bench.services(routes=Traffic())) == []

        go(meanwhile())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()

    async def body() -> None:
        assert (await bench.store.rows())[0].state == "interrupted"
        traffic = Traffic()
        await bench.run("spec: [{run: ls}]", routes=traffic)
        assert traffic.log == ["put back"]
        assert await bench.store.notes() == ()

    go(body())


# Assert


def test_conditions_are_written_in_any_way(bench: Bench) -> None:
    assert wanted(["Completed,NOFAILURE", "slos", "completed"]) == ("completed", "nofailure", "slos")
    with pytest.raises(ValueError, match=r"unsupported assert condition 'slo' \(did you mean 'slos'\?\)"):
        wanted(["slo"])


def test_conditions_hold_or_not(bench: Bench) -> None:
    async def body() -> None:
        good = await bench.run("spec: [{run: ls}]")
        assert held(good, ("completed", "nofailure", "slos")).code == 0
        bad = await bench.run("spec: [{run: exit 1}]")
        found = held(bad, ("completed", "nofailure", "slos"))
        assert found.code == 1
        assert found.lines == (
            "completed: does not hold: 0 of 1 tasks are done",
            "nofailure: does not hold: run: the script ended with exit code 1",
            "slos: holds",
        )
        text = (
            "spec:\n- {task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}\n"
            "- {task: assess, with: {SLOs: {lower: {http/request-count: 11}}}}\n"
        )
        broken = await bench.run(text)
        assert held(broken, ("completed", "nofailure")).code == 0
        assert held(broken, ("slos",)).code == 99
        assert held(broken, ("slos",)).lines[1] == "  version 0: http/request-count >= 11: fail, it is 10"
        assert exit_code(broken) == 99

    go(body())


def test_of_many_loops_not_everything_is_kept() -> None:
    from loadgen.experiment.metric import Measured, MetricInfo, Observed
    from loadgen.experiment.result import MOST_LOADS, MOST_VALUES, Insights, LoadRun

    load = LoadRun("http", 1, {}, {}, (), Outcome("e", 0, 1, (), ()))
    insights = Insights()
    for _ in range(MOST_LOADS + 5):
        insights = insights.loaded(load)
    assert len(insights.loads) == MOST_LOADS
    many = Measured({"a/b": MetricInfo("Gauge")}, {"": {"a/b": Observed(tuple(range(MOST_VALUES)))}})
    both = Insights().joined(many).joined(Measured(many.info, {"": {"a/b": Observed((-1.0,))}}))
    assert len(both.observed[0]["a/b"].values) == MOST_VALUES
    assert both.observed[0]["a/b"].values[-1] == -1


def test_samples_of_all_loops_are_one_sample_and_a_loop_that_is_believed_heals_a_gauge() -> None:
    from loadgen.experiment.metric import Measured, MetricInfo, Observed, read
    from loadgen.experiment.result import Insights
    from loadgen.histogram import Histogram

    def measured(milliseconds: float, distrust: str) -> Measured:
        made = Histogram()
        made.record([milliseconds / 1000] * 60)
        info = {"grpc/latency": MetricInfo("Sample"), "grpc/error-rate": MetricInfo("Gauge")}
        seen = {
            "grpc/latency": Observed(distribution=made.rest(), samples=60, distrust=distrust),
            "grpc/error-rate": Observed((0.0,), samples=60, distrust=distrust),
        }
        return Measured(info, {"v1": seen})

    both = Insights().joined(measured(10, "late")).joined(measured(20, "")).observed[0]
    assert (read("grpc/latency/count", both).value, read("grpc/latency/p99", both).samples) == (120, 120)
    assert read("grpc/latency/p99", both).distrust == "late"
    assert read("grpc/error-rate", both).distrust == ""


# Secrets, and what must not happen


def test_secrets_are_not_kept_shown_or_sent_on(bench: Bench) -> None:
    """Whatever repeats them: a script, an address, the experiment itself."""

    async def body() -> None:
        async with served() as web:
            text = f"""
spec:
- task: notify
  with: {{url: "{web.url}/status/500?hook-s3cret", headers: {{Authorization: Bearer t0p-s3cret}}}}
  continueOnFailure: true
- {{run: echo t0p-s3cret}}
- {{task: http, with: {{url: "{web.url}/ok?api_key=query-s3cret", headers: {{X-Token: http-s3cret, host: h}}}}}}
- task: notify
  with: {{url: "{web.url}/json", payloadTemplate: '{{{{ .Report.experiment | toJson }}}}'}}
- {{task: github, if: "false", with: {{owner: a, repo: b, token: github-s3cret}}}}
"""
            result = await bench.run(text)
            assert kinds(result)[0] == ("notify", "tolerated")
            assert {state for _, state in kinds(result)[1:]} == {"completed", "skipped"}
            page = render(report(result), "html")
            seen = [result.to_json(), web.asked[-1].body, page.encode(), *(line.encode() for line in bench.lines)]
            assert [one for one in seen if b"s3cret" in one] == []
            assert b"run" in web.asked[-1].body
            assert {one.query.get("api_key") for one in web.asked} == {None, "query-s3cret"}

    go(body())


def test_a_fault_of_our_own_fails_the_task_and_not_the_rest(bench: Bench) -> None:
    async def broken(plan: object, tell: object) -> Outcome:
        raise ZeroDivisionError("division by zero")

    text = "spec: [{task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}]"
    result = go(bench.run(text, engine=broken))
    assert result.tasks[0].state == "failed"
    assert "ZeroDivisionError: division by zero (test_runner.py, line" in result.tasks[0].message
    assert exit_code(result) == 1


def test_an_interrupt_does_not_wait_for_requests_before_the_load(bench: Bench) -> None:
    async def body() -> None:
        hung = await asyncio.start_server(lambda reader, writer: work.stop(), "127.0.0.1", 0)
        port = hung.sockets[0].getsockname()[1]
        work = bench.prepared(f"spec: [{{task: http, with: {{url: 'http://127.0.0.1:{port}/', timeout: 100s}}}}]")
        result = await work.run()
        assert (result.interrupted, result.tasks[0].message) == (True, "")
        hung.close()

    go(body())


def test_traffic_that_another_experiment_changed_is_left_to_it(bench: Bench) -> None:
    """Each would put back what the other made of it."""

    async def body() -> None:
        traffic = Traffic()
        other = bench.prepared(f"metadata: {{name: other}}\nspec:\n{ROUTE}", routes=traffic)

        async def meanwhile(plan: Plan, tell: object) -> Outcome:
            found = await other.run()
            assert found.tasks[0].message.startswith("traffic of default/iris is changed by experiment default/e")
            return await answering()(plan, lambda progress: None)

        http = "- {task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}\n"
        assert (await bench.run(f"spec:\n{ROUTE}{http}", routes=traffic, engine=meanwhile)).no_failure()
        assert traffic.weights == {"v1": 100, "v2": 0}

    go(body())


def test_a_note_that_cannot_be_read_is_told_and_can_be_forgotten(bench: Bench) -> None:
    async def body() -> None:
        store = bench.store
        with sqlite3.connect(store.path) as db:
            db.execute("insert into restorations (experiment, noted, document) values ('default/e', 0, 'nonsense')")
        with pytest.raises(StoreFault, match="in a way that this version cannot read") as fault:
            await bench.run("spec: [{run: 'true'}]")
        assert "--forget" in fault.value.hint
        async with store.running("default", "e"):
            assert await store.forget() == 0
        assert await store.forget() == 1
        assert (await bench.run("spec: [{run: 'true'}]")).completed()

    go(body())


def test_a_store_of_a_newer_version_is_left_alone(bench: Bench) -> None:
    with sqlite3.connect(bench.store.path) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(StoreFault, match="is of a newer headgate"):
        bench.store  # noqa: B018


def test_a_run_that_cannot_be_read_does_not_stop_the_next_one(bench: Bench) -> None:
    async def body() -> None:
        await bench.run("spec: [{run: 'true'}]")
        with sqlite3.connect(bench.store.path) as db:
            db.execute("update results set document = '{}'")
        assert (await bench.run("spec: [{run: 'true'}]")).revision == 2
        assert (bench.store.path.stat().st_mode & 0o077) == 0
        assert await bench.store.get("default", "e", 10**30) is None

    go(body())
