"""What the commands of `headgate experiment` share: which file or name is meant, where results are kept, who does what.

Everything here is put together for one command; what experiments are is in loadgen/experiment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.output import BadInput, Failure, complain
from headgate.kube_context import Choice, kube_options

if TYPE_CHECKING:
    from loadgen.experiment.context import Engine
    from loadgen.experiment.result import Result
    from loadgen.experiment.spec import Experiment
    from loadgen.experiment.store import Store
    from router.kube.client import Client

CLUSTER = "cluster"
"""The value of --store that means ConfigMaps."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")


def store_options(function: _Function) -> _Function:
    """`--store` and the options that choose a cluster, as `place` and `choice`."""
    made: Any = kube_options()(function)
    option = click.option(
        "--store",
        "place",
        metavar="PATH",
        envvar="HEADGATE_STORE",
        show_envvar=True,
        help="SQLite file of the results, by default in the user's state directory; 'cluster': ConfigMaps.",
    )
    return option(made)  # type: ignore[no-any-return]


def needs_load(function: _Function) -> _Function:
    """Say what to install where the packages of the extra `load` are missing."""

    @functools.wraps(function)
    def checked(*args: Any, **more: Any) -> Any:
        try:
            import cronsim  # noqa: F401
            import hdrh  # noqa: F401
            import numpy  # noqa: F401
        except ImportError as missing:
            raise Failure(
                f"experiments need more packages: {missing.name} is missing", "pip install 'headgate[load]'"
            ) from None
        return function(*args, **more)

    return checked  # type: ignore[return-value]


def read(file: Path) -> Experiment:
    """The experiment of a file; what is wrong with it as BadInput, warnings are told."""
    from loadgen.experiment.read import read_file

    try:
        found = read_file(file)
    except OSError as error:
        raise Failure(f"cannot read {file}: {(error.strerror or str(error)).lower()}", exit_code=2) from None
    if found.experiment is None:
        raise BadInput(found.problems)
    complain(found.problems)
    return found.experiment


def meant(given: str, namespace: str | None) -> tuple[str, str]:
    """Namespace and name: of the experiment in a file, or as written, NAME or NAMESPACE/NAME."""
    path = Path(given)
    if path.is_file():
        experiment = read(path)
        return namespace or experiment.namespace, experiment.name
    space, slash, name = given.rpartition("/")
    if not name or "/" in space or (slash and not space) or given.endswith((".yaml", ".yml", ".json")):
        raise Failure(f"{given}: there is no such file", "give a file, NAME or NAMESPACE/NAME", exit_code=2)
    return space or namespace or "default", name


@asynccontextmanager
async def opened(place: str | None, choice: Choice) -> AsyncIterator[Store]:
    """Where results are kept."""
    from loadgen.experiment.store import SqliteStore, StoreFault, default_path

    try:
        if place == CLUSTER:
            from loadgen.experiment.cluster_store import ClusterStore

            async with await connect(choice) as client:
                yield ClusterStore(client)
        else:
            yield SqliteStore(Path(place) if place else default_path())
    except StoreFault as fault:
        raise Failure(str(fault), fault.hint) from None


async def connect(choice: Choice) -> Client:
    """A client of the chosen cluster. Raises NoCluster."""
    from router.kube.client import connect as connected

    return await connected(kubeconfig=choice.kubeconfig, context=choice.context, agent="headgate-experiment")


async def found(store: Store, given: str, namespace: str | None, revision: int | None = None) -> Result:
    """The result that is meant, or a Failure that says what there is."""
    from router.hints import nearest

    space, name = meant(given, namespace)
    result = await store.get(space, name, revision)
    if result is not None:
        return result
    rows = await store.rows()
    revisions = [str(one.revision) for one in rows if (one.namespace, one.name) == (space, name)]
    if revision is not None and revisions:
        raise Failure(f"{space}/{name} has no run {revision}", f"there are {', '.join(revisions)}", exit_code=2)
    known = sorted({f"{one.namespace}/{one.name}" for one in rows})
    near = nearest(f"{space}/{name}", known)
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known[:10])}" if known else "none was run yet"
    raise Failure(f"there are no results of an experiment {space}/{name}", hint, exit_code=2)


def run_async(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What the API server has against it becomes a Failure."""
    from headgate.kube_context import told
    from router.kube.client import ApiFault, NoCluster

    try:
        return asyncio.run(work)
    except ApiFault as fault:
        raise told(fault, "the cluster") from None
    except NoCluster as missing:
        raise Failure(str(missing)) from None


def engine(again: Callable[[], None]) -> Engine:
    """Runs loads in a process of their own. `again` is called after each: the engine takes the signals meanwhile."""
    from loadgen.experiment.context import TaskFailure
    from loadgen.outcome import Outcome, Progress
    from loadgen.plan import Plan
    from loadgen.run import EngineFailed, run

    async def carried_out(plan: Plan, tell: Callable[[Progress], None]) -> Outcome:
        try:
            return await run(plan, tell)
        except EngineFailed as failed:
            raise TaskFailure(str(failed)) from None
        except OSError as error:
            raise TaskFailure(f"the load cannot be run: {error}") from None
        finally:
            again()

    return carried_out


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """SIGINT, SIGTERM and a closed terminal call `stop` instead of ending us; gives what sets that up again."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup goes on

    def set_up() -> None:
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not in the main thread
            for number in numbers:
                loop.add_signal_handler(number, stop)
            for number in hung_up:  # whoever takes SIGTERM just then, ourselves or the engine
                loop.add_signal_handler(number, signal.raise_signal, signal.SIGTERM)

    set_up()
    try:
        yield set_up
    finally:
        for number in (*numbers, *hung_up):
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
                loop.remove_signal_handler(number)
