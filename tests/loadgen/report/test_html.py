"""The page: its structure and facts, and that a browser shows it without a complaint."""

import os
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import lognormal, outcome, series

from loadgen.outcome import Fault, Outcome, Worker
from loadgen.plan import Arrivals, Load, Plan, Scenario, Stage, Target
from loadgen.report import html
from loadgen.report.contents import Report
from loadgen.slo.compare import compare
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all

VOID = {"meta", "link", "br", "rect", "circle", "path"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each kind, and whether they nest well."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words[tag][-1] += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(key.strip("_")) == value for key, value in wanted.items())
        ]


def two(**more: object) -> Outcome:
    slow = series(
        "v2",
        lognormal(0.08, 1500, seed=2),
        failures={"status 503": 60},
        samples={"status 503": "no healthy upstream"},
        seconds=30,
    )
    return outcome(series("v1", lognormal(0.05, 6000), seconds=30), slow, **more)  # type: ignore[arg-type]


def report(run: Outcome, *slos: str, **more: object) -> Report:
    found, problems = parse_all(slos)
    assert not problems
    return Report(run, assess(run, found), **more)  # type: ignore[arg-type]


def full() -> Report:
    run = two(workers=(Worker("worker 1", 7500, 0.4, 0.0004, 9000.0),))
    slos = ("latency-p99<=200ms", "error-rate<=1%", "v2.latency-p95<=1.2*v1.latency-p95")
    return report(run, *slos, comparison=compare(run, "v1", "v2", weights={"v1": 80, "v2": 20}))


def test_the_page_is_well_formed_and_names_every_verdict() -> None:
    page = Page(html.render(full()))
    assert (page.open, page.wrong) == ([], [])
    assert page.words["h1"] == ["a run"]
    assert page.words["h2"][:3] == ["Objectives", "v2 against v1", "Versions"]
    rows = [re.sub(r"\s+", " ", row) for row in page.words["tr"]]
    assert any("FAIL" in row and "v2" in row and "latency-p99<=200ms" in row and "≤ 200 ms" in row for row in rows)
    assert any("PASS" in row and "v1" in row and "error-rate<=1%" in row for row in rows)
    assert any("v2status 50360" in row.replace(" ", "").replace("status", "status ") for row in rows)
    assert "no healthy upstream" in "".join(page.words["td"])


def test_figures_stand_side_by_side_with_their_intervals() -> None:
    made = full()
    page = Page(html.render(made))
    measured = [v for v in made.assessment.verdicts if v.slo.text == "latency-p99<=200ms"]
    (row,) = [row for row in page.words["tr"] if row.startswith("p99") and not row.startswith("p99.9")]
    assert all(verdict.value is not None and f"{verdict.value * 1000:.0f} ms" in row for verdict in measured)
    assert "service" in row


def test_every_version_has_its_curves_and_each_chart_its_words() -> None:
    page = Page(html.render(full()))
    charts = page.of("svg", class_="chart")
    assert len(charts) == 5
    assert all(each["role"] == "img" and each["aria-labelledby"] for each in charts)
    names = [each.get("data-name") for each in page.of("g", class_="line c0")]
    assert set(names) == {"v1"}
    assert len(page.of("g", class_="line c1 dashed")) == 2  # service time, and the median over time
    identities = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(identities) == len(set(identities))
    assert "p50" in page.words["desc"][0]


def test_a_curve_goes_to_the_rarest_percentile_that_there_are_samples_for() -> None:
    ticks = Page(html.render(full())).words["text"]
    assert "99.9 %" in ticks
    assert "99.99 %" not in ticks
    long = report(outcome(series("v1", lognormal(0.05, 40_000))))
    assert "99.99 %" in Page(html.render(long)).words["text"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    made = html.render(full())
    outside = set(re.findall(r"https?://[^\s\"'<>)]+", made))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name of SVG in the script; nothing is fetched
    page = Page(made)
    assert not page.of("img")
    assert not page.of("iframe")
    assert all(not attributes.get("src") for _, attributes in page.elements)
    assert [each["href"] for each in page.of("link")] == ["data:,"]
    (policy,) = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'")
    assert len(made) < 1_000_000


def test_it_is_made_for_the_dark_and_for_print() -> None:
    style = Page(html.render(full())).words["style"][0]
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media print" in style


def test_no_name_or_message_becomes_markup() -> None:
    bad = "</script><script>alert(1)</script>'\"&"
    run = outcome(
        series(bad, lognormal(0.05, 400), scenario=bad, failures={bad: 3}, samples={bad: bad}),
        faults=(Fault("other", bad, bad),),
    )
    made = html.render(report(run, "latency-p99<=1s", title=bad, command=bad))
    page = Page(made)
    assert (page.open, page.wrong, len(page.of("script"))) == ([], [], 1)
    assert page.words["h1"] == [bad]
    assert "alert(1)" not in page.words["script"][0]


def test_faults_come_before_everything_else() -> None:
    run = two(faults=(Fault("lag", "requests started 80 ms late", "lower the rate"),))
    page = Page(html.render(report(run, "latency-p99<=1s")))
    assert page.words["h2"][0] == "This run is invalid"
    assert page.words["li"] == ["requests started 80 ms late (lower the rate)"]
    assert page.of("section", role="alert")
    assert "INVALID" in page.words["p"][1]


def test_a_run_without_any_request_and_one_without_any_success_say_so() -> None:
    empty = Page(html.render(report(Outcome("x", 1.7e9, 0.0, (), ()), "latency-p99<=1s")))
    assert any("Not one request ended" in words for words in empty.words["p"])
    assert not empty.of("svg", class_="chart")
    refused = outcome(series("unattributed", [0.001] * 90, failures={"connection refused": 90}))
    failed = Page(html.render(report(refused)))
    assert "100 %: every request failed" in failed.words["dd"]


def test_of_many_versions_the_busiest_are_drawn_and_all_have_their_line() -> None:
    same = lognormal(0.05, 200)
    run = outcome(*(series(f"v{i}", same[: 100 + i], seconds=3) for i in range(40)))
    page = Page(html.render(report(run)))
    legend = [each for each in page.of("span") if str(each.get("class")).startswith("key")]
    assert len(legend) == 8
    assert any("and 32 more" in words for words in page.words["p"])
    assert {f"v{i}" for i in range(40)} <= set(page.words["th"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    """The script runs (the legend's keys have become buttons), the console stays empty, and nothing is asked for."""
    page = tmp_path / "report.html"
    page.write_text(html.render(full()), encoding="utf-8")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}"]
        shown = subprocess.run(
            [*command, "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=110,
            check=True,
            env={**os.environ, "HOME": profile},
        )
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    dom = Page(shown.stdout)
    assert len([each for each in dom.of("button") if each.get("aria-pressed") == "true"]) == 2
    assert dom.words["h1"] == ["a run"]


def test_many_scenarios_of_many_versions_still_make_one_page_of_modest_size() -> None:
    same = lognormal(0.05, 100)
    wrong = {"status 500": 9}
    many = (series(f"v{i}", same, scenario=f"s{j}", seconds=60, failures=wrong) for i in range(12) for j in range(16))
    made = html.render(report(outcome(*many), "latency-p50<=1s", "error-rate<=50%"))
    assert len(made) < 1_000_000
    assert made.count('<section class="scenario">') == 16


def test_the_page_says_what_was_asked_without_anybodys_password() -> None:
    load = Load(arrivals=Arrivals(stages=(Stage(10, 50, 200),), spacing="poisson"))
    target = Target("http://me:secret@gateway/v2/models/iris/infer", method="POST")
    made = html.render(report(two(), plan=Plan("x", (Scenario("default", target, load),))))
    words = "POST http://gateway/v2/models/iris/infer, 50/s to 200/s, poisson arrivals"
    assert words in Page(made).words["dd"]
    assert "secret" not in made


def test_throughput_ends_with_the_load_and_not_with_the_last_late_answer() -> None:
    late = series("v1", lognormal(0.05, 1000), seconds=14)  # the account says that the load lasted 10 s
    made = html.render(report(outcome(late)))
    tips = [str(each["data-tips"]).split("|") for each in Page(made).of("g", class_="line c0") if each.get("data-tips")]
    assert {line[-1].partition(":")[0].partition("at ")[2] for line in tips if "at 0 s" in line[0]} == {"13 s", "9 s"}
