"""From the configuration's list of plugins to a pipeline, or to everything that is wrong with it, at once.

A plugin is named by "package.module:Class" or by a file, "folder/plugin.py" or "folder/plugin.py:Class". Names come
from the configuration only, never from a request.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sidecar.anew import fresh
from sidecar.chain import told
from sidecar.checking import check, wrong_memory
from sidecar.kept import measured, mebibytes
from sidecar.memory import walk_of
from sidecar.pipeline import Bound, Pipeline, metric_word, remade
from sidecar.places import Place, misplaced, rather
from sidecar.plugin import Plugin
from sidecar.quantity import LEAST_MEMORY, Bytes, quantity_text
from sidecar.shared import SharedData
from sidecar.watch import WATCH

_SECONDS = 10.0  # for loading and for configuring, each
_Returned = TypeVar("_Returned")


class PluginSpec(BaseModel):
    """One entry of the list."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    plugin: str = Field(min_length=1, description='"module:Class", or the path of a file.')
    name: str = Field("", description="In metrics and messages. By default the plugin's own.")
    config: dict[str, Any] = Field(default_factory=dict, description="What the plugin is given.")
    on_failure: Literal["open", "closed"] | None = Field(None, alias="onFailure", description="By default its own.")
    budget: float | None = Field(None, gt=0, description="Seconds a hook may take. By default the plugin's own.")
    memory: Bytes | None = Field(None, description="What it may keep, such as 64Mi. By default the plugin's own.")

    @field_validator("memory")
    @classmethod
    def _enough(cls, memory: int | None) -> int | None:
        if memory is not None and memory < LEAST_MEMORY:
            raise ValueError(f"must be at least {quantity_text(LEAST_MEMORY)}, not {memory}: write for example 64Mi")
        return memory


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong: `field` is a path such as plugins[1].config.limit."""

    field: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.what}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline if nothing is wrong. `files` are those that were read, to be watched."""

    pipeline: Pipeline | None
    faults: tuple[Fault, ...] = ()
    files: tuple[Path, ...] = ()


def load(
    entries: Sequence[PluginSpec | Mapping[str, Any]],
    folder: Path | None = None,
    shared: SharedData | None = None,
    field: str = "plugins",
    place: Place | None = None,
) -> Loaded:
    """Load and configure all plugins. Relative files are below `folder`; `place` is where they run, if known."""
    faults: list[Fault] = []
    bounds: list[Bound] = []
    files: list[Path] = []
    shared = shared or SharedData()
    for at, entry in enumerate(entries):
        here = f"{field}[{at}]"
        try:
            spec = entry if isinstance(entry, PluginSpec) else PluginSpec.model_validate(entry)
        except ValidationError as error:
            faults += _from_pydantic(here, error)
            continue
        found = find(spec.plugin, folder, files)
        if isinstance(found, str):
            faults.append(Fault(f"{here}.plugin", found))
            continue
        wrong = check(found)
        if wrong:
            faults += (Fault(f"{here}.plugin", one) for one in wrong)
            continue
        if told_why := misplaced(found, place):
            faults.append(Fault(f"{here}.plugin", told_why, rather(found)))
            continue
        bound, problems = configured(found, spec, shared, here)
        faults += problems
        if bound is not None:
            bounds.append(bound)
    for word in (words := [metric_word(one.name) for one in bounds]):
        if words.count(word) > 1 and not any(word in one.what for one in faults):
            faults.append(Fault(field, f"two plugins are called {word!r}", "give one of them another name"))
    if faults:
        return Loaded(None, tuple(faults), tuple(files))
    return Loaded(Pipeline(bounds), (), tuple(files))


def find(name: str, folder: Path | None = None, files: list[Path] | None = None) -> type[Plugin] | str:
    """The class, or why there is none."""
    place, colon, wanted = name.rpartition(":")
    if not colon:
        place, wanted = name, ""
    is_file = place.endswith(".py")
    if not is_file and not wanted:
        return f"{name!r} names no plugin: it has to be 'module:Class' or a file 'folder/plugin.py'"
    if is_file:
        path = Path(place) if folder is None else folder / place
        if files is not None:
            files.append(path)
        module: ModuleType | str = _from_file(path)
    else:
        module = _imported(place)
    if isinstance(module, str):
        return module
    if wanted:
        kind = getattr(module, wanted, None)
        if kind is None:
            return f"there is no {wanted!r} in {place}" + _there_are(module)
        if not (isinstance(kind, type) and issubclass(kind, Plugin)):
            return f"{name} is not a class made from sidecar.plugin.Plugin"
        return kind
    kinds = _plugins(module)
    if len(kinds) != 1:
        return f"{place} has {len(kinds)} plugins: name one, as {place}:Class" + _there_are(module)
    return kinds[0]


def configured(
    kind: type[Plugin], spec: PluginSpec, shared: SharedData, field: str = "plugin"
) -> tuple[Bound | None, list[Fault]]:
    """Make the root and give it its configuration."""
    config: Any = spec.config
    if kind.config_model is not None:
        try:
            config = kind.config_model.model_validate(spec.config)
        except ValidationError as error:
            return None, _from_pydantic(f"{field}.config", error)

    def make() -> Bound:
        plugin = kind()
        bound = Bound(
            plugin, spec.name, on_failure=spec.on_failure, budget=spec.budget, memory=spec.memory, shared=shared
        )
        plugin.on_configure(config)
        return bound

    try:
        bound = _in_time(make)
    except ValueError as error:  # the plugin's way to say that the configuration cannot be
        return None, [Fault(f"{field}.config", str(error) or told(error)[1])]
    except BaseException as error:
        return None, [Fault(f"{field}.plugin", f"{kind.__name__}.on_configure {told(error)[1]}")]
    if spec.memory is None and (wrong := wrong_memory(bound.plugin, kind.__name__)):
        return None, [Fault(f"{field}.plugin", one) for one in wrong]
    kept = measured(walk_of(bound))
    if kept.over:
        what = f"once configured, {bound.name} keeps more than its {mebibytes(bound.memory)}: {kept}"
        return None, [Fault(f"{field}.memory", what, "if it needs more, say so here or in its on_configure")]
    bound.health.kept = kept.bytes
    bound.remake = lambda: _in_time(lambda: remade(bound, fresh(type(bound.plugin)), spec.config))
    return bound, []


def _from_file(path: Path) -> ModuleType | str:
    try:
        source = path.read_bytes()
    except OSError as error:
        return f"cannot read {path}: {(error.strerror or str(error)).lower()}"
    # A name of its own for every content, so that a reload does not touch what runs.
    digest = hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:12]
    name = f"headgate_plugin_{metric_word(path.stem)}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        return f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look for it there
    try:
        spec.loader_state = code = compile(source, str(path), "exec")  # for sidecar/anew.py
        _in_time(lambda: exec(code, module.__dict__))
    except BaseException as error:
        del sys.modules[name]
        return f"cannot be loaded: {_why(error)}"
    return module


def _imported(name: str) -> ModuleType | str:
    try:
        return _in_time(lambda: importlib.import_module(name))
    except BaseException as error:
        return f"cannot import {name}: {_why(error)}"


def _in_time(call: Callable[[], _Returned]) -> _Returned:
    """Nothing of a plugin may run for ever, its import neither."""
    thread = WATCH.enter(_SECONDS, "load")
    try:
        return call()
    finally:
        WATCH.leave(thread)


def _why(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} at {Path(error.filename or '?').name}:{error.lineno}"
    return told(error)[1]


def _plugins(module: ModuleType) -> list[type[Plugin]]:
    return [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Plugin) and one.__module__ == module.__name__
    ]


def _there_are(module: ModuleType) -> str:
    names = ", ".join(one.__name__ for one in _plugins(module))
    return f"; there are: {names}" if names else ""


def _from_pydantic(field: str, error: ValidationError) -> list[Fault]:
    faults = []
    for one in error.errors(include_url=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"])
        what = one["msg"].removeprefix("Value error, ")
        faults.append(Fault(f"{field}{path}", what[:1].lower() + what[1:]))
    return faults
