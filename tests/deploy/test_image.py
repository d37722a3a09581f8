"""The image: its Dockerfile lints, copies all that it needs, and its steps work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from charts import CHART, DEPLOY, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
IGNORED = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts"))


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(one.split()[0], one.partition(" ")[2]) for one in joined.splitlines() if one]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def copied() -> list[str]:
    return [source for name, rest in stages()[0] if name == "COPY" for source in rest.split()[:-1]]


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint for this machine")
def test_it_lints() -> None:
    found = subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(copied()) == sorted(["pyproject.toml", "README.md", *packages])


def test_nothing_else_is_sent_to_the_builder() -> None:
    assert "*" in IGNORED
    assert sorted(line[1:] for line in IGNORED if line.startswith("!")) == sorted(copied())


def test_it_says_how_it_is_run() -> None:
    last = dict(stages()[-1])
    assert last["USER"].partition(":")[0].isdigit()
    assert last["STOPSIGNAL"] == "SIGTERM"
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert last["USER"] == "{runAsUser}:{runAsGroup}".format(**values["podSecurityContext"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert last["ARG"] == f"VERSION={version}"


def test_the_last_stage_only_takes_the_environment_and_drops_pip() -> None:
    copies = [rest for name, rest in stages()[-1] if name == "COPY"]
    assert copies == ["--from=build /opt/headgate /opt/headgate"]
    (run,) = [rest for name, rest in stages()[-1] if name == "RUN"]
    assert run.startswith("pip uninstall")
    assert {"pip", "setuptools", "wheel"} <= set(run.split())


def test_its_steps_work(tmp_path: Path) -> None:
    """The environment without pip, filled from outside with only the files that the image gets.

    Dependencies are lent by this environment, which spares a minute; what they are is the same pyproject.toml's to say.
    """
    source, environment = tmp_path / "src", tmp_path / "headgate"
    source.mkdir()
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    run = [rest for name, rest in stages()[0] if name == "RUN"]
    assert run[0] == "python -m venv --without-pip /opt/headgate"
    assert run[1].startswith("pip --python /opt/headgate/bin/python install")
    assert '".[${EXTRAS}]"' in run[1]
    assert ("ARG", "EXTRAS=kubernetes,speed") in stages()[0]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "."], cwd=source, check=True, timeout=100)
    shutil.rmtree(source)
    lent = {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONSAFEPATH": "1", "PATH": ""}
    printed = subprocess.run(
        [str(environment / "bin/headgate"), "version"],
        env=lent,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert printed.stdout.startswith("headgate ")
    where = [str(python), "-c", "import headgate; print(headgate.__file__)"]
    found = subprocess.run(where, env=lent, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert found.startswith(str(environment)), "the copy is run, not the working tree"
