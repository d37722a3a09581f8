import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.slo.figures import DURATIONS, SINGLE, figure, percentile
from loadgen.slo.language import parse, parse_all
from loadgen.slo.objective import Slo
from router.problem import Problem

NAMES = [*(name for name, single in SINGLE.items() if single[0] != "dropped"), "latency-p99.9"]


def slo(text: str) -> Slo:
    found = parse(text)
    assert isinstance(found, Slo), found
    return found


def complaint(text: str) -> str:
    found = parse(text)
    assert not isinstance(found, Slo), found
    return "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("text", "name", "operator", "constant"),
    [
        ("latency-p99<=200ms", "latency-p99", "<=", 0.2),
        ("latency.p99 < 250 ms", "latency-p99", "<", 0.25),
        ("service-p99.9<=1s", "service-p99.9", "<=", 1.0),
        ("latency.p99.99 <= 1500us", "latency-p99.99", "<=", 0.0015),
        ("200ms >= latency-p50", "latency-p50", "<=", 0.2),
        ("error-rate<=0.01", "error-rate", "<=", 0.01),
        ("errors.rate < 0.1%", "error-rate", "<", 0.001),
        ("error-count ≤ 0", "error-count", "<=", 0.0),
        ("throughput>=100/s", "throughput", ">=", 100.0),
        ("goodput>=95%", "goodput", ">=", 0.95),
        ("tokens-per-second > 50 tok/s", "tokens-per-second", ">", 50.0),
        ("ttft-mean<0.4s", "ttft-mean", "<", 0.4),
        ("samples>=1e3", "samples", ">=", 1000.0),
        ("e2e-p95<=5s", "latency-p95", "<=", 5.0),
        ("http/latency-p99<=200", "latency-p99", "<=", 0.2),
        ("grpc/latency/p95 <= 20", "latency-p95", "<=", 0.02),
        ("http/error-rate<=0", "error-rate", "<=", 0.0),
        ("http/request-count >= 10", "samples", ">=", 10.0),
    ],
)
def test_a_figure_is_held_against_a_limit(text: str, name: str, operator: str, constant: float) -> None:
    found = slo(text)
    assert (found.subject.figure.name, found.operator, found.other) == (name, operator, None)
    assert found.constant == pytest.approx(constant)


@pytest.mark.parametrize(
    ("text", "subject", "factor", "other", "constant"),
    [
        ("v2.latency-p95<=1.2*v1.latency-p95", "v2", 1.2, "v1", 0.0),
        ("v2.latency-p95<=v1.latency-p95*120%", "v2", 1.2, "v1", 0.0),
        ("v2.latency-p95 - v1.latency-p95 <= 20ms", "v2", 1.0, "v1", 0.02),
        ("v2.latency-p95 <= 1.1*v1.latency-p95 + 5ms", "v2", 1.1, "v1", 0.005),
        ("2*v2.latency-p95 <= 3*v1.latency-p95", "v2", 1.5, "v1", 0.0),
        ("1.1*v1.latency-p95 >= v2.latency-p95", "v1", 1 / 1.1, "v2", 0.0),
    ],
)
def test_two_figures_are_brought_to_one_form(
    text: str, subject: str, factor: float, other: str, constant: float
) -> None:
    found = slo(text)
    assert found.other is not None
    assert (found.subject.version, found.other.version) == (subject, other)
    assert (found.factor, found.constant) == (pytest.approx(factor), pytest.approx(constant))


@pytest.mark.parametrize(
    ("text", "scenario", "version"),
    [
        ("latency-p99<1s", None, None),
        ("all: latency-p99<1s", None, None),
        ("v1.2-rc1.latency-p99<1s", None, "v1.2-rc1"),
        ("2024-01.latency-p99<1s", None, "2024-01"),
        ("1.latency-p99<1s", None, "1"),
        ("`my model: v1+x`.latency-p99<1s", None, "my model: v1+x"),
        ('"error-rate".error-rate<1%', None, "error-rate"),
        ("chat:latency-p99<1s", "chat", None),
        ("chat:v2.latency.p99<1s", "chat", "v2"),
        ("'a chat' : 'v 2'.latency-p99<1s", "a chat", "v 2"),
        ("http-chat/latency-p99<100", "chat", None),
        ("all.error-rate<1%", None, "all"),
    ],
)
def test_whom_a_figure_is_of(text: str, scenario: str | None, version: str | None) -> None:
    found = slo(text).subject
    assert (found.scenario, found.version) == (scenario, version)


@given(st.text("abcdev0123456789._-/@", min_size=1, max_size=12), st.sampled_from(NAMES))
def test_any_name_of_a_version_can_be_quoted(version: str, name: str) -> None:
    limit = "1s" if name.startswith("latency") else "0.5"
    assert slo(f"`{version}`.{name} <= {limit}").subject.version == version


@given(st.sampled_from(DURATIONS), st.floats(0, 100))
def test_a_figures_name_says_which_figure_it_is(metric: str, percent: float) -> None:
    wanted = percentile(metric, round(percent, 3))
    assert figure(wanted.name) == wanted


@pytest.mark.parametrize("name", SINGLE)
def test_every_single_figure_has_one_name(name: str) -> None:
    found = figure(name)
    assert getattr(found, "name", None) == name


def test_two_slos_may_be_joined() -> None:
    slos, problems = parse_all(["ttft-p95<400ms && itl-p99<60ms and error-rate<1%", "samples>=10"])
    assert not problems
    assert [each.text for each in slos] == ["ttft-p95<400ms", "itl-p99<60ms", "error-rate<1%", "samples>=10"]


@pytest.mark.parametrize(
    ("text", "at", "what"),
    [
        ("latency-p101<=200ms", 1, "there is no percentile 101"),
        ("latncy-p99<=2ms", 1, "did you mean 'latency-p99'?"),
        ("p99<=2ms", 1, "did you mean 'latency-p99'?"),
        ("v2.errorrate<=1%", 4, "did you mean 'error-rate'?"),
        ("latency<=2ms", 1, "say which one: latency-p99"),
        ("lag-men<=2ms", 1, "did you mean lag-mean?"),
        ("latency-p99<=200", 14, "200ms or 200s?"),
        ("latency-p99<=200foo", 17, "there is no unit 'foo'"),
        ("latency-p99<=1%", 14, "the figure is a time, and the limit a share"),
        ("error-rate<=1", 1, "1% or 0.01?"),
        ("error-rate<=-1%", 1, "no figure is ever below 0"),
        ("throughput>=0", 1, "always holds"),
        ("goodput>=10/s", 10, "goodput-per-second"),
        ("v2.dropped<=1", 1, "never sent"),
        ("v2.latency-p99 <= v1.error-rate", 1, "latency-p99 is a time, and error-rate is a share"),
        ("v2.latency-p95 <= 1.2ms*v1.latency-p95", 25, "only a number without a unit multiplies"),
        ("v2.latency-p95 + v1.latency-p95 <= 1s", 1, "sum of two figures"),
        ("a.latency-p9 - b.latency-p9 <= c.latency-p9", 1, "three figures or more"),
        ("latency-p99==3ms", 12, "use <=, <, >= or >"),
        ("50ms<=latency-p50<=200ms", 18, "join two by &&"),
        ("latency-p99<1s || error-rate<1%", 16, "cannot be joined by ||"),
        ("latency-p99 200ms", 13, "a comparison is missing"),
        ("latency-p99 <= ", 16, "something is missing at the end"),
        ("", 1, "something is missing at the end"),
        ("1<=2", 1, "no figure is measured here"),
        ("`v1.latency-p99<1s", 1, "never closed"),
        ("`v1` latency-p99<1s", 6, "A figure is missing"),
        ("latency-p99 ; 1", 13, "';' means nothing here"),
        ("p95(latency)<1s", 4, "'(' cannot stand here"),
        ("latency-p99<1s so there", 16, "'so' is one word too many"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, at: int, what: str) -> None:
    said = complaint(text)
    assert what in said
    assert f"{text!r} at {at}:" in said


def test_all_mistakes_are_told_at_once() -> None:
    slos, problems = parse_all(["v2.latncy-p9<=1.2*v1.latency-p101", "error-rate<=1%", "oops", "goodput>=2"], "slos")
    assert [each.text for each in slos] == ["error-rate<=1%"]
    assert len(problems) == 4
    assert all(isinstance(each, Problem) and each.where == "slos" for each in problems)


@given(st.text(max_size=30))
def test_any_text_is_an_slo_or_a_problem(text: str) -> None:
    slos, problems = parse_all([text])
    assert bool(slos) != bool(problems)


@given(
    st.lists(st.sampled_from(["latency-p99", "v1.", "<=", "*", "1.2", "ms", "-", ":", "`a`", "error-rate", "&&", " "]))
)
def test_any_row_of_words_is_an_slo_or_a_problem(words: list[str]) -> None:
    slos, problems = parse_all(["".join(words)])
    assert bool(slos) != bool(problems)
