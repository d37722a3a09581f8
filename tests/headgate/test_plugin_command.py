"""`headgate plugin`: from nothing to a plugin that was tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headgate.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["plugin", *(str(one) for one in arguments)])


def test_a_new_plugin_passes_its_check_its_test_and_its_recording(tmp_path: Path) -> None:
    made = run("new", "be-kind", "--in", tmp_path)
    assert made.exit_code == 0, made.output
    folder = tmp_path / "be-kind"
    assert sorted(path.name for path in folder.iterdir()) == ["be_kind.py", "request.yaml", "test_be_kind.py"]
    checked = run("check", folder / "be_kind.py")
    assert (checked.exit_code, checked.stdout) == (
        0,
        "be-kind: on_request_headers, on_response_headers; policy open, 50 ms for a hook, 64Mi to keep\n",
    )
    tried = run("run", folder / "be_kind.py", folder / "request.yaml")
    assert tried.exit_code == 0
    assert "  + x-greeting: hello, ann" in tried.stdout
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    tested = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": f"{ROOT}:{folder}"}, check=False
    )
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    again = run("new", "be-kind", "--in", tmp_path)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_a_name_that_cannot_be_is_told() -> None:
    assert "cannot be a plugin's name" in run("new", "../x").stderr


def test_check_tells_everything_that_is_wrong(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins.yaml"
    plugins.write_text(
        "plugins:\n- plugin: nothing.py\n- plugin: sidecar.plugins.rate_limit:RateLimit\n  config: {per_second: 0}\n"
    )
    checked = run("check", plugins)
    assert checked.exit_code == 2
    assert [line.split(": ")[1] for line in checked.stderr.splitlines()] == [
        "plugins[0].plugin",
        "plugins[1].config.per_second",
    ]


def test_run_tells_of_a_plugin_that_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from sidecar.plugin import *\n"
        "class C(HttpContext):\n    def on_request_headers(self, headers):\n        1 / 0\n"
        "class Bad(Plugin):\n    context = C\n"
    )
    (tmp_path / "request.yaml").write_text("request: {path: /x}")
    tried = run("run", tmp_path / "bad.py", tmp_path / "request.yaml", "-o", "json")
    assert tried.exit_code == 1
    assert json.loads(tried.stdout)["request"]["after"]["headers"][1] == ":path /x"
    assert tried.stderr == (
        "error: plugin 'Bad': on_request_headers: raised ZeroDivisionError: division by zero at bad.py:4\n"
    )


def test_run_answers_the_calls_of_plugins_from_the_recording(tmp_path: Path) -> None:
    recording = tmp_path / "request.yaml"
    recording.write_text(
        "request:\n  path: /v2/models/iris/infer\n  json: {inputs: []}\n"
        'calls:\n  "http://m/iris":\n    json: {inputs: [{name: x, datatype: FP32, shape: [4]}]}\n'
    )
    config = tmp_path / "config.yaml"
    config.write_text("url: http://m/{model}")
    tried = run("run", "sidecar.plugins.v2_schema:V2Schema", recording, "--config", config)
    assert "request: answered by a plugin" in tried.stdout
    assert "input 'x' is missing" in tried.stdout
    assert "  GET http://m/iris" in tried.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("request: {metod: GET}", "request.metod: extra inputs are not permitted"),
        ("response: {status: 99}", "response.status: input should be greater than or equal to 200"),
        ("{", "is no YAML"),
    ],
)
def test_a_recording_that_cannot_be_read_is_told(tmp_path: Path, text: str, told: str) -> None:
    recording = tmp_path / "request.yaml"
    recording.write_text(text)
    tried = run("run", "sidecar.plugins.stamp:Stamp", recording)
    assert tried.exit_code == 2
    assert told in tried.stderr


def test_check_tells_where_alone_a_plugin_can_run() -> None:
    done = CliRunner().invoke(cli, ["plugin", "check", "sidecar.plugins.cache:Cache", "sidecar.plugins.stamp:Stamp"])
    cache, stamp = done.stdout.splitlines()
    assert cache.endswith("; runs only at the backends, with at: backend, or in the sidecar's proxy")
    assert "runs only" not in stamp


def test_check_refuses_what_would_end_the_process_and_does_not_run_it(tmp_path: Path) -> None:
    plugin = tmp_path / "last.py"
    plugin.write_text("import os\nfrom sidecar.plugin import Plugin\n\nos._exit(0)\n\n\nclass Last(Plugin): ...\n")
    done = CliRunner().invoke(cli, ["plugin", "check", str(plugin)])
    assert done.exit_code == 2
    assert "plugins[0].plugin: os._exit ends the whole process, and nothing can contain it at last.py:4" in done.stderr
