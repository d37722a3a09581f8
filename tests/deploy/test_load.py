"""Manifests for loads of several machines: consistent, valid, and with arguments that the command has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from charts import DEPLOY, ROOT
from kubedouble.fixture import Cluster, cluster

from headgate.cli import cli

__all__ = ["cluster"]

LOAD = DEPLOY / "load"
KUSTOMIZATION = yaml.safe_load((LOAD / "kustomization.yaml").read_text())


def objects() -> list[dict[str, Any]]:
    return [one for file in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((LOAD / file).read_text())]


def patched() -> dict[str, dict[str, Any]]:
    """The Jobs with the patches of the kustomization, which replace values at paths."""
    found = {one["metadata"]["name"]: one for one in objects() if one["kind"] == "Job"}
    for patch in KUSTOMIZATION["patches"]:
        for change in yaml.safe_load(patch["patch"]):
            assert change["op"] == "replace"
            at: Any = found[patch["target"]["name"]]
            *way, last = change["path"].strip("/").split("/")
            for step in way:
                at = at[int(step)] if isinstance(at, list) else at[step]
            assert last in at
            at[last] = change["value"]
    return found


def arguments(job: dict[str, Any]) -> list[str]:
    given: list[str] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return given


@pytest.mark.parametrize("one", objects(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_an_object_is_valid(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, "1.33", strict=True)


def test_an_api_server_takes_all_of_it(cluster: Cluster) -> None:
    for one in objects():
        cluster.create({**one, "metadata": {**one["metadata"], "namespace": "default"}})


@pytest.mark.parametrize("name", ["headgate-load", "headgate-load-worker"])
def test_the_command_has_these_options(name: str) -> None:
    for job in (patched()[name], next(one for one in objects() if one["metadata"]["name"] == name)):
        command, *rest = arguments(job)
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        context = found.make_context(command, list(rest))
        assert context.params


def test_leader_and_workers_agree() -> None:
    jobs = patched()
    leader, worker = arguments(jobs["headgate-load"]), jobs["headgate-load-worker"]["spec"]
    assert f"--workers={worker['parallelism']}" in leader
    assert worker["completions"] == worker["parallelism"]
    [service] = [one for one in objects() if one["kind"] == "Service"]
    [port] = service["spec"]["ports"]
    assert arguments(jobs["headgate-load-worker"]) == [
        "load",
        f"--worker={service['metadata']['name']}:{port['port']}",
    ]
    assert f"--master=0.0.0.0:{port['port']}" in leader
    labels = jobs["headgate-load"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_image_is_the_one_of_experiments() -> None:
    from headgate.experiment_job import IMAGE

    [image] = KUSTOMIZATION["images"]
    assert image["name"] == IMAGE
    assert image["newTag"] == re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_pages_that_its_readme_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (LOAD / "README.md").read_text()):
        assert Path(LOAD, target).exists(), target
