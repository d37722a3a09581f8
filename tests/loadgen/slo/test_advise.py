from loadgen.plan import Arrivals, Goodput, Load, Plan, Scenario, Stage, Target
from loadgen.slo.advise import check, expected
from loadgen.slo.language import parse_all


def load(requests: int | None = None, rate: float = 100.0, seconds: float = 60.0, warmup: float = 0.0) -> Load:
    return Load(arrivals=Arrivals(stages=(Stage(seconds, rate, rate),)), requests=requests, warmup=warmup)


def plan(*scenarios: Scenario) -> Plan:
    return Plan("x", scenarios)


def told(asked: Plan, *texts: str) -> list[tuple[str, str]]:
    slos, problems = parse_all(texts)
    assert not problems
    return [(each.severity, str(each)) for each in check(slos, asked)]


plain = Scenario("default", Target("http://x/"), load())


def test_nothing_is_said_of_what_is_well() -> None:
    assert told(plan(plain), "latency-p99<=1s", "error-rate<=1%", "v2.latency-p95<=1.2*v1.latency-p95") == []


def test_too_few_requests_for_a_percentile_are_warned_of() -> None:
    few = Scenario("default", Target("http://x/"), load(requests=100))
    ((severity, words),) = told(plan(few), "latency-p99<=1s")
    assert severity == "warning"
    assert "sends 100 requests, and latency-p99 takes at least 368" in words
    assert told(plan(few), "latency-p95<=1s") == []
    assert "at least 3,688" in told(plan(few), "error-rate<=0.1%")[0][1]


def test_a_scenario_that_there_is_not_is_an_error() -> None:
    ((severity, words),) = told(plan(plain), "defualt:latency-p99<=1s")
    assert (severity, "did you mean 'default'?" in words) == ("error", True)


def test_figures_that_this_load_does_not_measure_are_errors() -> None:
    both = plan(plain, Scenario("chat", Target("http://x/", stream=True, goodput=Goodput({"ttft": 1.0})), load()))
    assert "not read as a stream" in told(both, "ttft-p95<=1s")[0][1]
    assert told(both, "chat:ttft-p95<=1s", "chat:goodput>=90%") == []
    assert "nothing says which requests of 'default' are good" in told(both, "goodput>=90%")[0][1]


def test_a_version_that_a_scenario_cannot_give_is_an_error() -> None:
    pinned = plan(Scenario("candidate", Target("http://x/", version="v2"), load()))
    assert "counts everything as version 'v2', never as 'v1'" in told(pinned, "candidate:v1.latency-p50<=1s")[0][1]
    assert told(pinned, "candidate:v2.latency-p50<=1s") == []


def test_how_many_requests_a_load_sends() -> None:
    ramp = Load(arrivals=Arrivals(stages=(Stage(10, 0, 100), Stage(10, 100, 100))), warmup=5.0)
    assert expected(ramp) == round(37.5 * 10 + 1000)
    assert expected(load(requests=10)) == 10
    assert expected(Load(arrivals=Arrivals(trace=(0.0, 1.0)))) == 2
    assert expected(Load(executor="max", duration=3)) is None
