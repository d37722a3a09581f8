"""The command line: what it prints, what it complains of, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from headgate import show
from headgate.cli import cli
from headgate.config import Config
from router.kube import queue
from router.kube.status_writer import Counters

ROOT = Path(__file__).parents[2]
SPLIT = [
    {"name": "v1", "weight": 3, "backend": {"endpoints": ["127.0.0.1:8001"]}},
    {"name": "v2", "weight": 1, "backend": {"endpoints": ["127.0.0.1:8002"]}, "readiness": {"tcp": {}}},
]


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments], env={"HEADGATE_URL": "", **environment})


def commands() -> list[tuple[str, click.Command]]:
    return sorted(cli.commands.items())


# Help and documentation


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"headgate {name}" in result.output.split("Examples:")[1]


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    start = text.index(f"## `headgate {name}")
    section = text[start : text.find("\n## ", start + 1)]
    missing = [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if f"`{option}" not in section
    ]
    assert not missing, f"docs/cli.md does not tell of {missing}"


def keys(model: type, path: str = "") -> Iterator[str]:
    """The dotted names of all configuration keys that hold a value."""
    import typing

    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        inner = [one for one in (field.annotation, *typing.get_args(field.annotation)) if isinstance(one, type)]
        parts = [one for one in inner if issubclass(one, BaseModel)]
        if parts:
            many = typing.get_origin(field.annotation) is tuple
            yield from keys(parts[0], f"{here}[]." if many else f"{here}.")
        else:
            yield here


def test_every_configuration_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    found = list(keys(Config))
    assert "gateways[].listeners[].tls.clientCA" in found
    assert [key for key in found if f"| `{key}` |" not in text] == []


def test_every_documented_configuration_key_exists() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    table = text[text.index("## Keys") : text.index("## The HTTP port")]
    documented = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(documented) == sorted(keys(Config))


IN_A_CLUSTER = SimpleNamespace(
    source=SimpleNamespace(
        trouble=None, reflectors=(SimpleNamespace(path="/api/v1/services", objects={}, heard_at=0),)
    ),
    leads=True,
    members=lambda: (),
    draining=dict,
    written=lambda: Counters(queue.Counters(0, 0, 0, 0, 0), 0, 0, 0, 0),
)


def test_every_metric_is_documented_and_every_documented_one_exists(plane) -> None:
    from prometheus_client import CollectorRegistry

    from headgate.cluster_metrics import ClusterMetrics
    from headgate.http import application
    from xds.metrics import XdsMetrics

    registry = CollectorRegistry()
    XdsMetrics(registry)
    registry.register(ClusterMetrics(IN_A_CLUSTER))
    application(plane.status, registry, dict)
    suffix = {"counter": "_total", "info": "_info"}
    named = {family.name + suffix.get(family.type, "") for family in registry.collect()}
    served = {name for name in named if name.startswith("headgate_")}
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert served == {line.split("`")[1] for line in text.splitlines() if line.startswith("| `headgate_")}


def test_help_is_instant() -> None:
    """What is slow to import is imported by the command that needs it."""
    slow = ("grpc", "aiohttp", "pydantic", "rich", "yaml", "envoy_data_plane", "prometheus_client")
    code = f"import sys, headgate.cli; print([name for name in {slow} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"


# Usage


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["statu"], "error: no command 'statu' (did you mean 'status'?)\n"),
        (["who"], "error: Missing argument 'MODEL' (see 'headgate who --help')\n"),
        (["plan", "x", "--wat"], "error: No such option '--wat' (see 'headgate plan --help')\n"),
        (
            ["plan", str(ROOT), "--not-ready", "v2"],
            "error: --not-ready 'v2' is not MODEL/VERSION, such as iris/v2 or default/iris/v2 "
            "(see 'headgate plan --help')\n",
        ),
        (
            ["bootstrap", "--xds", "nowhere"],
            "error: --xds 'nowhere' is not HOST:PORT, such as 127.0.0.1:18000 (see 'headgate bootstrap --help')\n",
        ),
        (
            ["bootstrap", "--tls-key", "k"],
            "error: --tls-certificate and --tls-key go together (see 'headgate bootstrap --help')\n",
        ),
        (
            ["bootstrap", "--tls-server-name", "x"],
            "error: --tls-certificate, --tls-key and --tls-server-name need --tls-ca "
            "(see 'headgate bootstrap --help')\n",
        ),
        (
            ["serve"],
            "error: no rollouts: give --manifests or --kubernetes, or either in the configuration "
            "(see 'headgate serve --help')\n",
        ),
        (
            ["serve", "--manifests", "/nonexistent"],
            "error: /nonexistent: there is no such folder (create it or mend --manifests)\n",
        ),
        (["serve", "--xds", "1:²"], "error: --xds '1:²' is not HOST:PORT, such as 127.0.0.1:18000 "),
        *(
            (
                [*command, name],
                f"error: {name!r} is not a model: write NAME or NAMESPACE/NAME (see 'headgate {command[0]} --",
            )
            for command in (["status"], ["plan", str(ROOT / "docs"), "--model"])
            for name in ("a/b/c", "", "a/", "/a")
        ),
        (["who", "iris", "a\udcff"], "error: KEY 'a\\udcff' is no header value: write printable text in UTF-8 (see "),
        (["who", "iris", "a\nb"], "error: KEY 'a\\nb' is no header value: write printable text in UTF-8 (see "),
        (["who", "\udcff", "a"], "error: '\\udcff' is not a model: write NAME or NAMESPACE/NAME (see "),
        (["bootstrap", "--node-id", ""], "error: --node-id is empty (see 'headgate bootstrap --help')\n"),
        *(
            ([command, "/nonexistent"], "error: /nonexistent: there is no such folder or file (create it or mend the ")
            for command in ("validate", "plan", "translate")
        ),
        (["serve", "--xds", "1:99999"], "error: --xds '1:99999' is not HOST:PORT, such as 127.0.0.1:18000 "),
        (["status", "-w", "-o", "json"], "error: -w shows a table: leave out -o (see 'headgate status --help')\n"),
        (["status", "--url", "here"], "error: --url 'here' is not an HTTP address (write for example http://"),
    ],
)
def test_wrong_usage_is_one_line_with_what_to_do(arguments: list[str], expected: str) -> None:
    result = run(*arguments)
    assert result.stderr.startswith(expected)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_no_command_at_all_shows_the_help() -> None:
    result = run()
    assert result.stderr.startswith("Usage: ")
    assert result.exit_code == 2


def test_a_wrong_configuration_is_listed_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "headgate.yaml"
    file.write_text("xds: {prot: 1}\nlog: {level: inf}\n")
    result = run("serve", "--config", file)
    assert result.stderr == (
        f"error: {file}:1: xds.prot: unknown field 'prot' (did you mean 'port'?)\n"
        f"error: {file}:2: log.level: 'inf' is not one of debug, info, warning, error (did you mean 'info'?)\n"
    )
    assert result.exit_code == 2


def test_interruption_is_no_traceback(monkeypatch, manifests: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("router.offline.load", interrupted)
    result = run("validate", manifests)
    assert (result.exit_code, result.stderr.strip()) == (130, "")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -c 'from headgate.cli import main; main()' bootstrap | head -c 1"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert (shown.stdout, shown.stderr) == ("n", "")


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "headgate", "bootstrap"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert (shown.returncode, shown.stderr) == (1, "error: no space left on device\n")


def test_a_closed_output_is_no_traceback(manifests: Path, put) -> None:
    put("iris")
    command = f"exec {sys.executable} -m headgate plan {manifests} >&-"
    shown = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_colours_only_on_a_terminal() -> None:
    from headgate.commands.output import coloured

    class Terminal:
        def isatty(self) -> bool:
            return True

    assert coloured(Terminal())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        assert not coloured(Terminal())
    assert "\x1b" not in run("nothing").stderr


# Offline


def test_validate_counts_what_is_good(manifests: Path, put) -> None:
    put("iris")
    put("wine")
    result = run("validate", manifests)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 rollouts, 0 errors, 0 warnings\n", "")


def test_validate_lists_all_problems_of_all_files_at_once(manifests: Path, put) -> None:
    put("iris", versions=[{"name": "v1", "wieght": 1, "backend": {"endpoints": ["127.0.0.1"]}}])
    put("wine", strategy="canari")
    put("fine")
    result = run("validate", manifests)
    lines = [line.replace(f"{manifests}/", "") for line in result.stderr.splitlines()]
    assert lines == [
        "error: iris.yaml:11: spec.versions[0].backend.endpoints[0]: '127.0.0.1' has no port (write '127.0.0.1:8080')",
        "error: iris.yaml:13: spec.versions[0].wieght: unknown field 'wieght' (did you mean 'weight'?)",
        "error: wine.yaml:8: spec.strategy: 'canari' is not one of none, blue-green, canary, mirror "
        "(did you mean 'canary'?)",
    ]
    assert result.stdout == "1 rollout, 3 errors, 0 warnings\n"
    assert result.exit_code == 2


def test_warnings_alone_are_no_failure(manifests: Path, put) -> None:
    put("iris", versions=[{"name": "v1", "weight": 0, "backend": {"endpoints": ["127.0.0.1:8001"]}}])
    result = run("validate", manifests)
    assert result.stderr.startswith("warning: ")
    assert (result.exit_code, result.stdout) == (0, "1 rollout, 0 errors, 1 warning\n")


def test_validate_knows_the_gateways_of_a_configuration(manifests: Path, put, tmp_path: Path) -> None:
    put("iris", gateway="egde")
    assert run("validate", manifests).exit_code == 0
    file = tmp_path / "headgate.yaml"
    file.write_text("gateways: [{name: edge}]")
    result = run("validate", manifests, "--config", file)
    assert "spec.gateway: gateway 'egde' is not known" in result.stderr
    assert result.exit_code == 2


def test_validate_can_be_read_by_programs(manifests: Path, put) -> None:
    put("iris", strategy="canari")
    result = run("validate", manifests, "-o", "json")
    found = json.loads(result.stdout)
    assert (found["rollouts"], found["files"]) == (0, 1)
    assert found["problems"][0]["field"] == "spec.strategy"
    assert result.exit_code == 2


def test_plan_shows_routes_in_order_with_shares_and_reasons(manifests: Path, put) -> None:
    put("iris", versions=[SPLIT[0], SPLIT[1] | {"match": [{"headers": [{"name": "traffic", "exact": "test"}]}]}])
    assert run("plan", manifests).stdout.splitlines() == [
        "default/iris on default (iris.example; strategy none)",
        "  ROUTE          REQUESTS                  GO TO             COPIED TO",
        "  1. v2/match-0  header traffic is 'test'  v2 100 %          -",
        "  2. weighted    every request             v2 25 %, v1 75 %  -",
        "  why: v1 (primary) is ready (no readiness probe: assumed ready) and gets 75 % of the traffic",
        "  why: v2 is ready and gets 25 % of the traffic and the requests that match its header route",
    ]


PLUGINS = """
gateways:
- plugins:
    chain:
    - {name: stamp, plugin: "sidecar.plugins.stamp:Stamp", models: all}
    - {name: rate-limit, plugin: "sidecar.plugins.rate_limit:RateLimit"}
"""


def test_plan_shows_the_plugins_of_each_model(manifests: Path, put, tmp_path: Path) -> None:
    file = tmp_path / "headgate.yaml"
    file.write_text(PLUGINS)
    put("iris", plugins=[{"name": "rate-limit", "config": {"per_second": 5}}])
    put("wine", plugins=[{"name": "stamp", "enabled": False}])
    iris, wine = run("plan", manifests, "--config", file).stdout.split("\n\n")
    assert iris.startswith("default/iris on default (iris.example; strategy none; plugins stamp, rate-limit)\n")
    assert "  why: plugin rate-limit runs: the model asks for it, with settings of its own" in iris
    assert wine.startswith("default/wine on default (wine.example; strategy none)\n")
    found = json.loads(run("plan", manifests, "--config", file, "-o", "json").stdout)
    assert [one["plugins"] for one in found] == [["stamp", "rate-limit"], []]


def test_plan_takes_plugins_as_they_are_called_where_it_knows_no_gateway(manifests: Path, put) -> None:
    put("iris", plugins=[{"name": "anything"}])
    result = run("plan", manifests)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "plugins anything" in result.stdout


def test_a_plugin_that_the_gateway_lacks_is_found_by_validate(manifests: Path, put, tmp_path: Path) -> None:
    file = tmp_path / "headgate.yaml"
    file.write_text(PLUGINS)
    put("iris", plugins=[{"name": "rate-limt"}])
    result = run("validate", manifests, "--config", file)
    assert result.exit_code == 2
    assert "spec.plugins[0].name: gateway 'default' has no plugin 'rate-limt'" in result.stderr
    assert "did you mean 'rate-limit'?" in result.stderr


def test_plan_answers_what_if(manifests: Path, put) -> None:
    put("iris", versions=SPLIT)
    result = run("plan", manifests, "--not-ready", "iris/v2", "-o", "json")
    [found] = json.loads(result.stdout)
    assert [route["targets"] for route in found["routes"]] == [[{"version": "v1", "weight": 100.0}]]
    assert found["why"][0] == "v2 is not ready (assumed not ready): its 25 % goes to v1"
    assert result.exit_code == 0


def test_plan_of_nothing_says_so(tmp_path: Path) -> None:
    result = run("plan", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"warning: there are no rollouts in {tmp_path}\n"


def test_plan_of_an_unknown_version_is_an_error(manifests: Path, put) -> None:
    put("iris", versions=SPLIT)
    result = run("plan", manifests, "--not-ready", "iris/v9")
    assert "there is no such version" in result.stderr
    assert result.exit_code == 2


def test_plan_can_be_limited_to_one_model(manifests: Path, put) -> None:
    put("iris")
    put("wine")
    found = yaml.safe_load(run("plan", manifests, "--model", "wine", "-o", "yaml").stdout)
    assert [one["model"] for one in found] == ["default/wine"]


@pytest.mark.parametrize("command", ["plan", "translate"])
def test_an_unknown_model_is_answered_with_the_nearest(manifests: Path, put, command: str) -> None:
    put("iris")
    result = run(command, manifests, "--model", "irs")
    assert result.stderr == "error: no model 'default/irs' (did you mean 'default/iris'?)\n"
    assert result.exit_code == 2


def test_matches_are_told_in_words(manifests: Path, put) -> None:
    match = {
        "path": {"prefix": "/v2"},
        "method": "POST",
        "headers": [{"name": "a", "present": True, "invert": True}, {"name": "b", "regex": "x+"}],
        "query": [{"name": "q", "contains": "y"}],
    }
    put("iris", versions=[SPLIT[0], SPLIT[1] | {"match": [match]}])
    [found] = json.loads(run("plan", manifests, "-o", "json").stdout)
    assert found["routes"][0]["match"] == (
        "method POST and path starts with '/v2' and header a not present and header b matches 'x+' "
        "and query q contains 'y'"
    )


def test_translate_prints_what_envoy_would_get(manifests: Path, put) -> None:
    put("iris", versions=SPLIT)
    found = yaml.safe_load(run("translate", manifests).stdout)
    assert set(found) == {"gateway/default", "default/iris"}
    model = found["default/iris"]
    assert set(model) == {"cluster", "endpoint", "listener", "scope", "route"}
    [host] = model["route"]["default/iris"]["virtual_hosts"]
    arms = host["routes"][0]["route"]["weighted_clusters"]["clusters"]
    assert [(arm["name"], arm["weight"]) for arm in arms] == [("default/iris/v2", 2500), ("default/iris/v1", 7500)]


def test_translate_can_be_limited(manifests: Path, put) -> None:
    put("iris")
    put("wine", gateway="edge")
    assert set(json.loads(run("translate", manifests, "--model", "iris", "-o", "json").stdout)) == {"default/iris"}
    assert set(yaml.safe_load(run("translate", manifests, "--gateway", "edge").stdout)) == {"default/wine"}
    result = run("translate", manifests, "--gateway", "egde")
    assert result.stderr == "error: no gateway 'egde' (known: default, edge)\n"
    assert result.exit_code == 2


@pytest.mark.parametrize(("strategy", "loggers"), [("none", 0), ("mirror", 2)])
def test_translate_counts_copies_if_there_are_any(manifests: Path, put, strategy: str, loggers: int) -> None:
    put("iris")
    put("wine", strategy=strategy, versions=[{"name": name, "backend": SPLIT[0]["backend"]} for name in ("v1", "v2")])
    found = yaml.safe_load(run("translate", manifests).stdout)
    [router] = found["gateway/default"]["extension"].values()
    assert len(router["typed_config"].get("upstream_log", ())) == loggers


def test_translate_turns_to_on_demand_as_the_control_plane_would(manifests: Path, put, tmp_path: Path) -> None:
    put("iris")
    file = tmp_path / "headgate.yaml"
    file.write_text("gateways: [{onDemandAbove: 0}]")
    eager = yaml.safe_load(run("translate", manifests, "--model", "iris").stdout)
    lazy = yaml.safe_load(run("translate", manifests, "--model", "iris", "--config", file).stdout)
    assert "on_demand" not in eager["default/iris"]["scope"]["iris.example"]
    assert lazy["default/iris"]["scope"]["iris.example"]["on_demand"] is True


def test_who_computes_arms_from_a_folder(manifests: Path, put) -> None:
    put("iris", versions=SPLIT, sticky={"header": "x-user"})
    assert run("who", "iris", "alice", "bob", "--manifests", manifests).stdout.splitlines() == [
        "X-USER  VERSION  BUCKET  RANGE",
        "alice   v1       9289    2500-9999 of 10000",
        "bob     v2       27      0-2499 of 10000",
    ]


def test_who_knows_the_slots_that_a_control_plane_left_in_the_folder(manifests: Path, put) -> None:
    """After another candidate was deleted, v2 keeps its place at the right end; a fresh start would move it."""
    from router.state_file import NAME, save
    from router.step import RolloutState

    put("iris", versions=SPLIT, sticky={"header": "x-user"})
    assert save(manifests / NAME, {"default/iris": RolloutState((("v2", 1),))}) is None
    [found] = json.loads(run("who", "iris", "alice", "--manifests", manifests, "-o", "json").stdout)
    assert [arm["version"] for arm in found["arms"]] == ["v1", "v2"]


def test_who_of_a_model_that_is_not_sticky_is_an_error(manifests: Path, put) -> None:
    put("iris")
    result = run("who", "iris", "alice", "--manifests", manifests)
    assert result.stderr == "error: default/iris is not sticky (set spec.sticky.header in its manifest)\n"
    assert result.exit_code == 2


def test_bootstrap_is_what_xds_makes() -> None:
    from xds.bootstrap import UpstreamTls, bootstrap

    plain = yaml.safe_load(run("bootstrap", "--node-id", "e", "--xds", "[::1]:1", "--admin-port", "2").stdout)
    assert plain == bootstrap(node_id="e", node_cluster="default", xds_address="::1", xds_port=1, admin_port=2)
    arguments = ("--tls-ca", "ca", "--tls-certificate", "c", "--tls-key", "k", "--tls-server-name", "n", "--sotw")
    secured = json.loads(run("bootstrap", "--cluster", "edge", "-o", "json", *arguments).stdout)
    assert secured == bootstrap(
        node_id="envoy-1",
        node_cluster="edge",
        xds_address="127.0.0.1",
        xds_port=18000,
        tls=UpstreamTls("ca", "c", "k", "n"),
        sotw=True,
    )


def test_version_names_headgate_and_envoy() -> None:
    assert set(json.loads(run("version", "-o", "json").stdout)) == {"headgate", "python", "envoy"}
    assert run("version").stdout.startswith("headgate 0.1.0\n")


def test_envoy_becomes_envoy_with_our_bootstrap(monkeypatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("headgate.envoy.find_binary", lambda: Path("/bin/envoy"))
    monkeypatch.setattr("os.execv", lambda path, arguments: became.append(arguments))
    assert run("envoy", "--node-id", "e", "--", "--concurrency", "2").exit_code == 0
    [[binary, option, config, *rest]] = became
    assert (binary, option) == ("/bin/envoy", "--config-yaml")
    assert json.loads(config)["node"] == {"id": "e", "cluster": "default"}
    assert rest[-2:] == ["--concurrency", "2"]


def test_a_missing_envoy_says_what_to_install(monkeypatch) -> None:
    from headgate.envoy import MISSING, EnvoyError

    def missing() -> Path:
        raise EnvoyError(MISSING)

    monkeypatch.setattr("headgate.envoy.find_binary", missing)
    result = run("envoy")
    assert (result.exit_code, result.stderr) == (1, f"error: {MISSING}\n")


# Asking a control plane


def test_status_draws_models_versions_and_envoys(answers, plane) -> None:
    plane.put("iris", versions=SPLIT)
    url, said = answers
    model = plane.status.model("default/iris")
    model["envoys"] = {"applied": 1, "total": 2, "lagging": [{"node": "e-2", "why": "no ACK yet"}]}
    said["/status"] = 200, json.dumps({"models": [model], "envoys": [{}, {}], "problems": [], "gateways": []})
    lines = run("status", "--url", url).stdout.splitlines()
    assert lines[0].split() == [
        "MODEL",
        "STATE",
        "ENVOYS",
        "VERSION",
        "WEIGHT",
        "MIRROR",
        "MATCH",
        "READY",
        "FOR",
        "REASON",
    ]
    assert lines[1].split()[:6] == ["default/iris", "Pending", "1/2", "v1", "*", "100"]
    assert lines[2].split()[:2] == ["v2", "-"]
    assert "waiting for first probe" in lines[2]
    assert lines[-2:] == ["default/iris: e-2: no ACK yet", "1 model, 2 Envoys connected, 1 pending"]


def test_status_of_one_model_tells_why(answers, plane) -> None:
    plane.put("iris")
    url, said = answers
    said["/models/default/iris"] = 200, json.dumps(plane.status.model("default/iris"))
    shown = run("status", "iris", "--url", url).stdout
    assert "hosts: iris.example\n" in shown
    assert "why: v1 (primary) is ready" in shown


def test_status_shows_envoys_words(answers, plane) -> None:
    plane.put("iris")
    url, said = answers
    model = plane.status.model("default/iris")
    words = {"node": "e-1", "type": "route", "resource": "default/iris", "message": "bad regex", "version": "1"}
    said["/models/default/iris"] = 200, json.dumps(model | {"state": "Rejected", "rejection": words})
    assert "default/iris: e-1 rejected route default/iris: bad regex\n" in run("status", "iris", "--url", url).stdout


def test_status_shows_why_envoy_would_not_take_a_listener(answers) -> None:
    url, said = answers
    words = {"node": "e-1", "type": "listener", "resource": "http", "message": "cannot bind", "version": "1"}
    document = {"models": [], "envoys": [{}], "problems": [], "gateways": [{"gateway": "edge", "rejection": words}]}
    said["/status"] = 200, json.dumps(document)
    assert "gateway edge: e-1 rejected listener http: cannot bind\n" in run("status", "--url", url).stdout


def test_status_passes_documents_on(answers) -> None:
    url, said = answers
    said["/status"] = 200, json.dumps({"models": []})
    assert json.loads(run("status", "--url", url, "-o", "json").stdout) == {"models": []}
    assert run("status", "-o", "yaml", HEADGATE_URL=url).stdout == "models: []\n"


def test_watching_goes_on_when_the_control_plane_comes_and_goes(answers, monkeypatch) -> None:
    url, said = answers
    said["/status"] = 200, json.dumps({"models": [], "envoys": [], "problems": [], "gateways": []})
    turns = iter((lambda: said.clear(), lambda: said.update({"/status": (200, json.dumps(later))})))
    later = {"models": [], "envoys": [{}], "problems": [], "gateways": []}

    def pause(_: float) -> None:
        turn = next(turns, None)
        if turn is None:
            raise KeyboardInterrupt
        turn()

    monkeypatch.setattr("time.sleep", pause)
    result = run("status", "-w", "--url", url)
    assert result.stdout.splitlines()[-1].startswith("0 models, 1 Envoy connected")
    assert (result.exit_code, result.stderr.strip()) == (130, "")


def test_who_asks_the_control_plane(answers) -> None:
    url, said = answers
    arms = [{"version": "v1", "from": 0, "to": 10000}]
    said["/models/default/iris/arm?key=a%2Fb%20c"] = (
        200,
        json.dumps({"key": "a/b c", "header": "x-user", "version": "v1", "bucket": 7, "arms": arms, "headerRoutes": 1}),
    )
    assert run("who", "iris", "a/b c", "--url", url).stdout.splitlines() == [
        "X-USER  VERSION  BUCKET  RANGE",
        "a/b c   v1       7       0-9999 of 10000",
        "requests that match one of its header routes go there instead",
    ]


def test_the_control_planes_complaint_is_passed_on(answers) -> None:
    url, said = answers
    said["/models/default/irs"] = 404, json.dumps({"error": "no model 'default/irs'", "hint": "did you mean 'x'?"})
    result = run("status", "irs", "--url", url)
    assert (result.exit_code, result.stderr) == (2, "error: no model 'default/irs' (did you mean 'x'?)\n")


def test_a_port_of_somebody_else_is_told(answers) -> None:
    url, said = answers
    said["/status"] = 200, "<html>"
    assert "answers, but not as a control plane does" in run("status", "--url", url).stderr
    del said["/status"]
    result = run("status", "--url", url)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {url} answers 404 Not Found (give the control plane's HTTP port)\n",
    )


def test_no_answer_says_what_to_start(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    result = run("status", "--url", url)
    assert result.stderr == (
        f"error: no control plane answers at {url}: connection refused "
        "(start one with 'headgate serve', or give its --url)\n"
    )
    assert result.exit_code == 1


def test_serve_tells_of_a_taken_port(manifests: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        result = run("serve", "--manifests", manifests, "--http", where, "--xds", "127.0.0.1:0")
    assert result.stderr == (
        f"error: cannot open the HTTP port {where}: address already in use "
        "(set http.port in the configuration, or --http)\n"
    )
    assert result.exit_code == 1


# Figures


@pytest.mark.parametrize(
    ("percent", "text"), [(0.0, "-"), (0.01, "0.01 %"), (12.5, "12.5 %"), (33.33, "33.33 %"), (100.0, "100 %")]
)
def test_shares_in_words(percent: float, text: str) -> None:
    assert show.share(percent) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (-5, "0s"),
    ],
)
def test_ages_in_words(seconds: int, text: str) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert show.age((now - timedelta(seconds=seconds)).isoformat(), now) == text
    assert show.age(None, now) == "-"


INTERRUPTED_IMPORT = """
import os, signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == "headgate.commands.load":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
from headgate.__main__ import main
main()
"""


def test_ctrl_c_while_it_is_imported_is_quiet() -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
