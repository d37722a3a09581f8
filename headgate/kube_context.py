"""From a terminal to a cluster: the options that choose one, a client of it, and its refusals in plain words."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.output import Failure, is_unicode

if TYPE_CHECKING:
    from router.kube.client import ApiFault, Client

CRD_FILE = "deploy/crds/modelrollouts.headgate.dev.yaml"
READER, OPERATOR = "headgate-view", "headgate-edit"
"""The roles in deploy/ for people: to look, and to change rollouts."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")
_DENIED = re.compile(r'User "(?P<who>[^"]*)" cannot (?P<verb>\w+) resource "(?P<what>[^"]*)"')
_READS = ("get", "list", "watch")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which cluster and namespace, as far as the user said."""

    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str | None = None
    everywhere: bool = False

    @property
    def given(self) -> bool:
        return bool(self.context or self.kubeconfig or self.namespace or self.everywhere)


def kube_options(*, listing: bool = False) -> Callable[[_Function], _Function]:
    """`--context`, `--kubeconfig`, `-n` and where it lists also `-A`, as one argument `choice`."""
    options = [
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. By default its current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, dir_okay=False),
            help="By default $KUBECONFIG or ~/.kube/config.",
        ),
        click.option("-n", "--namespace", metavar="NAME", help="By default that of the context."),
    ]
    if listing:
        options.append(click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces."))

    def wrap(function: _Function) -> _Function:
        @functools.wraps(function)
        def gathered(
            *args: Any,
            context: str | None,
            kubeconfig: Path | None,
            namespace: str | None,
            everywhere: bool = False,
            **rest: Any,
        ) -> Any:
            if namespace is not None and everywhere:
                raise click.UsageError("-n and -A do not go together")
            if namespace is not None and not _is_name(namespace):
                raise click.UsageError(f"-n {namespace!r} is not the name of a namespace")
            return function(*args, choice=Choice(context, kubeconfig, namespace, everywhere), **rest)

        made: Any = gathered
        for option in reversed(options):
            made = option(made)
        return made  # type: ignore[no-any-return]

    return wrap


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text) is not None


class Cluster:
    """A client and the loop that it lives on, for code that is not asynchronous."""

    def __init__(self, runner: asyncio.Runner, client: Client, choice: Choice) -> None:
        self._runner = runner
        self.client = client
        self.choice = choice

    @property
    def namespace(self) -> str:
        return self.choice.namespace or self.client.namespace

    def key(self, model: str) -> tuple[str, str]:
        """Namespace and name of a model as users write it: NAME or NAMESPACE/NAME."""
        namespace, slash, name = model.rpartition("/")
        if not is_unicode(model) or not name or "/" in namespace or (slash and not namespace):
            raise click.UsageError(f"{model!r} is not a model: write NAME or NAMESPACE/NAME")
        if slash and self.choice.namespace not in (None, namespace):
            raise click.UsageError(f"{model!r} is not in the namespace {self.choice.namespace!r}: leave one out")
        return (namespace if slash else self.namespace), name

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Its result, or what the API server has against it as a Failure."""
        from router.kube.client import ApiFault

        try:
            return self._runner.run(work)
        except ApiFault as fault:
            raise told(fault, self.client.url) from None


@contextlib.contextmanager
def cluster(choice: Choice) -> Iterator[Cluster]:
    """The chosen cluster. Nothing is sent yet."""
    from router.kube.client import NoCluster, connect

    if choice.kubeconfig is not None and not choice.kubeconfig.exists():
        raise Failure(f"--kubeconfig {choice.kubeconfig}: there is no such file", exit_code=2)
    with asyncio.Runner() as runner:
        try:
            client = runner.run(connect(kubeconfig=choice.kubeconfig, context=choice.context))
        except NoCluster as missing:
            raise Unreachable(str(missing)) from None
        try:
            yield Cluster(runner, client, choice)
        finally:
            runner.run(client.close())


class Unreachable(Failure):
    """There is no kubeconfig and no service account: another way may be tried."""


def has_cluster() -> bool:
    """Whether a kubeconfig or a service account is there, without loading it."""
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return any(Path(one).exists() for one in files.split(os.pathsep) if one) or bool(
        os.environ.get("KUBERNETES_SERVICE_HOST")
    )


def told(fault: ApiFault, url: str) -> Failure:
    """What an operator makes of a refusal."""
    words = " ".join(str(fault).split())
    match fault.status:
        case 0:
            return Failure(f"no answer from the API server at {url}: {words}", "is it the right --context?")
        case 401:
            return Failure(f"the API server at {url} does not know you", "log in again, or choose another --context")
        case 403:
            return _denied(words)
        case 404 if not about_an_object(fault):
            hint = f"kubectl apply -f {CRD_FILE}"
            return Failure("headgate's CRD is not installed in this cluster", hint)
        case 400 | 422 if "unknown field" in words:
            hint = f"its CRD is older than this command: kubectl apply -f {CRD_FILE}"
            return Failure(f"the API server refuses the change: {words}", hint)
        case 400 | 404 | 422:
            return Failure(f"the API server refuses: {words}")
        case 409:
            return Failure(f"the object changes all the time: {words}", "try again")
    return Failure(f"the API server at {url} is in trouble: {words}", "try again")


def about_an_object(fault: ApiFault) -> bool:
    """Whether a 404 is about one object, rather than about its whole kind ("404 page not found")."""
    return '" not found' in str(fault)


def _denied(words: str) -> Failure:
    found = _DENIED.search(words)
    if found is None:
        return Failure(words, "ask the cluster's administrator")
    where = re.search(r'in the namespace "([^"]*)"', words)
    place = f"in the namespace {where[1]}" if where else "in all namespaces (choose one with -n)"
    role = READER if found["verb"] in _READS else OPERATOR
    return Failure(
        f"{found['who']} may not {found['verb']} {found['what']} {place}",
        f"the role {role} of deploy/ gives that right",
    )
