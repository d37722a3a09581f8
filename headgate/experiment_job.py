"""`headgate experiment run --in-cluster`: a Job or CronJob that runs the experiment, with no more rights than it needs.

The files that the experiment names travel in the same ConfigMap as the experiment itself; results come back in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import yaml

from headgate.commands.output import Failure
from headgate.experiments import connect, run_async
from headgate.kube_context import Choice
from loadgen.experiment.cluster_store import ClusterStore
from loadgen.experiment.spec import Experiment
from loadgen.experiment.summary import own_version
from loadgen.experiment.tasks.grpc_settings import GrpcEndpoint, GrpcSettings
from loadgen.experiment.tasks.http_settings import HttpEndpoint, HttpSettings
from loadgen.experiment.tasks.settings import CustomMetricsSettings, NotifySettings, ReadySettings, RouteSettings

if TYPE_CHECKING:
    from router.kube.client import Client

IMAGE = "headgate-load"
FOLDER = "/experiment"
MANAGER = "headgate-cli"
_EVERY = 1.0
_SILENCE = 60.0
"""Seconds until a Job that says nothing is worth a word."""
_FILES = 900_000

Object = dict[str, Any]


def launch(experiment: Experiment, file: Path, choice: Choice, *, image: str | None, dry_run: bool, form: str) -> int:
    """Create or replace everything, wait for a Job's end and print the report; a CronJob goes on by itself."""
    if not dry_run:
        return run_async(_launched(experiment, file, choice, image or _image(), form))
    made = manifests(experiment, file, experiment.namespace, image or _image())
    click.echo(yaml.dump_all(made, Dumper=yaml.CSafeDumper, sort_keys=False, explicit_start=True), nl=False)
    return 0


async def _launched(experiment: Experiment, file: Path, choice: Choice, image: str, form: str) -> int:
    async with await connect(choice) as client:
        if choice.namespace is None and experiment.namespace == "default":
            experiment = replace(experiment, namespace=client.namespace)
        made = manifests(experiment, file, experiment.namespace, image)
        store = ClusterStore(client)
        before = await store.get(experiment.namespace, experiment.name)
        for one in made:
            await _applied(client, one)
        kind = made[-1]["kind"]
        click.echo(f"{kind} {experiment.namespace}/{made[-1]['metadata']['name']} is there", err=True)
        if kind == "CronJob":
            click.echo(f"headgate experiment report {experiment.namespace}/{experiment.name} --store cluster", err=True)
            return 0
        return await _followed(client, store, experiment, before.revision if before else 0, made[-1], form)


def manifests(experiment: Experiment, file: Path, namespace: str, image: str) -> list[Object]:
    """ServiceAccount, Role, RoleBinding, ConfigMap, and last the Job or CronJob."""
    name = f"headgate-experiment-{experiment.name}"[:52].rstrip("-.")
    meta = {"name": name, "namespace": namespace, "labels": _labels(experiment)}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    found: list[Object] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": list(_rules(experiment)),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "subjects": [subject],
            "roleRef": role,
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**meta, "name": f"{name}-spec"},
            "data": _files(experiment, file),
        },
    ]
    spec = _job(experiment, file, name, image)
    if not experiment.cron:
        return [*found, {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}]
    cron = {
        "schedule": experiment.cron,
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": _labels(experiment)}, "spec": spec},
    }
    return [*found, {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": cron}]


def _image() -> str:
    return f"{IMAGE}:{own_version()}"


def _labels(experiment: Experiment) -> dict[str, str]:
    return {"app.kubernetes.io/name": "headgate-experiment", "app.kubernetes.io/instance": experiment.name}


def _rules(experiment: Experiment) -> Iterator[Object]:
    """Results, and what the tasks look at or change; nothing else."""
    yield {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "update"]}
    seen: dict[str, list[str]] = {}
    for task in experiment.tasks:
        if isinstance(task.settings, ReadySettings) and task.settings.resource:
            seen.setdefault(task.settings.group, []).append(task.settings.resource)
    for group, resources in seen.items():
        yield {"apiGroups": [group], "resources": sorted(set(resources)), "verbs": ["get"]}
    if any(isinstance(task.settings, RouteSettings) for task in experiment.tasks):
        yield {"apiGroups": ["headgate.dev"], "resources": ["modelrollouts"], "verbs": ["get", "list", "patch"]}


def _files(experiment: Experiment, file: Path) -> dict[str, str]:
    """The experiment and the files beside it that it names, by their names; they must be text and small."""
    found = {"experiment.yaml": file.read_text()}
    for one in _named(experiment):
        path = experiment.folder / one
        if Path(one).is_absolute() or ".." in Path(one).parts or "/" in one:
            what = f"{one}: only files beside {file.name} can travel into a cluster"
            raise Failure(what, "move it there", exit_code=2)
        try:
            found[one] = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"cannot take {path} along: {error}", "use an address instead", exit_code=2) from None
    size = sum(len(text.encode()) for text in found.values())
    if size > _FILES:
        raise Failure(f"the files of the experiment have {size:,} bytes: a ConfigMap holds {_FILES:,}", exit_code=2)
    return found


def _named(experiment: Experiment) -> Iterator[str]:
    for task in experiment.tasks:
        settings = task.settings
        if isinstance(settings, HttpSettings | GrpcSettings):
            for one in (settings, *settings.endpoints.values()):
                yield from _of_endpoint(one)
        elif isinstance(settings, CustomMetricsSettings):
            yield from (one for one in settings.templates.values() if "://" not in one)
        elif isinstance(settings, NotifySettings) and settings.payload_template_url:
            if "://" not in settings.payload_template_url:
                yield settings.payload_template_url
        elif isinstance(settings, RouteSettings) and settings.manifest:
            what = "route with manifest: works beside a folder, not in a cluster"
            raise Failure(what, "leave manifest out", exit_code=2)


def _of_endpoint(one: HttpEndpoint | GrpcEndpoint) -> Iterator[str]:
    if isinstance(one, HttpEndpoint):
        files = [one.payload_file, *((one.tls.ca_cert, one.tls.cert, one.tls.key) if one.tls else ())]
    else:
        files = [
            one.proto,
            one.protoset,
            one.data_file,
            one.binary_file,
            one.metadata_file,
            one.cacert,
            one.cert,
            one.key,
        ]
    yield from (file for file in files if file)


def _job(experiment: Experiment, file: Path, name: str, image: str) -> Object:
    arguments = ["experiment", "run", f"{FOLDER}/experiment.yaml", "--store", "cluster", "-n", experiment.namespace]
    if experiment.loops > 1:
        arguments += ["--loops", str(experiment.loops)]
    if experiment.every:
        arguments += ["--every", f"{experiment.every:g}s"]
    container = {
        "name": "experiment",
        "image": image,
        "args": [*arguments, "-o", "none"],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "HEADGATE_EXPERIMENT_NAME", "value": experiment.name}],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "spec", "mountPath": FOLDER, "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "serviceAccountName": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 90,
        "containers": [container],
        "volumes": [
            {"name": "spec", "configMap": {"name": f"{name}-spec"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    labels = {"labels": _labels(experiment), "annotations": {"sidecar.istio.io/inject": "false"}}
    return {"backoffLimit": 0, "template": {"metadata": labels, "spec": pod}}


async def _applied(client: Client, one: Object) -> None:
    """Created, or made so. A Job cannot be changed: the old one goes first."""
    from router.kube.client import APPLY_PATCH, ApiFault

    kind, metadata = one["kind"], one["metadata"]
    group = "/api/v1" if one["apiVersion"] == "v1" else f"/apis/{one['apiVersion']}"
    path = f"{group}/namespaces/{quote(metadata['namespace'])}/{kind.lower()}s/{quote(metadata['name'])}"
    if kind == "Job":
        try:
            await client.delete(path, {"propagationPolicy": "Background"})
        except ApiFault as fault:
            if fault.status != 404:
                raise
        for _ in range(600):
            if not await _is_there(client, path):
                break
            await asyncio.sleep(0.1)
    await client.patch(path, one, APPLY_PATCH, {"fieldManager": MANAGER, "force": "true"})


async def _is_there(client: Client, path: str) -> bool:
    from router.kube.client import ApiFault

    try:
        await client.get(path)
    except ApiFault as fault:
        if fault.status == 404:
            return False
        raise
    return True


async def _followed(
    client: Client, store: ClusterStore, experiment: Experiment, revision: int, job: Object, form: str
) -> int:
    """The Job's end, with each task as it ends; then the report, and the run's exit code."""
    from headgate.experiment_report import printed
    from loadgen.experiment.runner import exit_code
    from loadgen.experiment.store import StoreFault
    from router.kube.client import ApiFault

    path = f"/apis/batch/v1/namespaces/{quote(experiment.namespace)}/jobs/{quote(job['metadata']['name'])}"
    told, loop = 0, asyncio.get_running_loop()
    patience = loop.time() + _SILENCE
    while True:
        try:
            status = (await client.get(path)).get("status") or {}
            result = await store.get(experiment.namespace, experiment.name)
        except (ApiFault, StoreFault) as fault:
            if isinstance(fault, ApiFault) and not fault.of_the_server:
                raise
            await asyncio.sleep(_EVERY)  # the Job goes on without us
            continue
        if result is not None and result.revision > revision:
            for number, task in list(enumerate(result.tasks, 1))[told:]:
                click.echo(f"task {number} of {len(result.spec)}: {task.task}: {task.state} {task.message}", err=True)
            told = max(told, len(result.tasks)) if result.loops == 1 else len(result.tasks)
            if result.ended is not None:
                if form != "none":
                    printed(result, form)
                return exit_code(result)
        if status.get("failed"):
            what = f"Job {experiment.namespace}/{job['metadata']['name']} failed before it had a result"
            raise Failure(what, f"kubectl -n {experiment.namespace} logs job/{job['metadata']['name']}")
        if not told and loop.time() > patience:
            name = f"-n {experiment.namespace} describe pods -l job-name={job['metadata']['name']}"
            click.echo(f"no task has ended yet; if its Pod cannot start, kubectl {name} says why", err=True)
            patience = float("inf")
        await asyncio.sleep(_EVERY)
