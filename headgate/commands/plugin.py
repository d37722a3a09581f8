"""`headgate plugin`: begin a plugin, check it, try it on a recorded request. None of these needs an Envoy."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.output import BAD_INPUT, Failure, coloured, emit, error_line, examples, output_option
from headgate.commands.plugin_build import build

if TYPE_CHECKING:
    from sidecar.loading import Loaded
    from sidecar.recorded import Recorded, Seen, Tried

_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")

_Command = TypeVar("_Command", bound=Callable[..., Any])
config_option = click.option(
    "--config", "config", type=click.Path(path_type=Path), help="YAML file with what the plugin is configured with."
)


def figures_option(told: str) -> Callable[[_Command], _Command]:
    """--plugin-figures of those who write metrics of plugins there, and of who reads them."""
    return click.option(
        "--plugin-figures",
        "figures",
        type=click.Path(path_type=Path),
        envvar="HEADGATE_PLUGIN_FIGURES",
        metavar="FOLDER",
        help=told,
    )


@click.group(
    "plugin",
    short_help="Begin, check and try a plugin.",
    epilog=examples("headgate plugin new greet", "headgate plugin check greet/greet.py"),
)
def plugin() -> None:
    """Python on the path of requests: begin a plugin, check it, try it on a recorded request.

    A PLUGIN is named as in the configuration: by "module:Class", by a file "greet.py" or "greet.py:Class"; or it is a
    YAML file with a list `plugins`, or the control plane's configuration with a gateway that has plugins.
    """


plugin.add_command(build)


@plugin.command("new", epilog=examples("headgate plugin new greet", "headgate plugin new greet --in plugins"))
@click.argument("name")
@click.option("--in", "folder", type=click.Path(path_type=Path), default=".", help="Where to make its folder.")
def new(name: str, folder: Path) -> None:
    """Write a folder NAME with a plugin that works, a test of it and a recorded request."""
    if not _NAME.match(name):
        raise click.UsageError(f"{name!r} cannot be a plugin's name: small letters, digits, - and _, a letter first")
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "class": "".join(part.capitalize() for part in module.split("_"))}
    where = folder / name
    files = {where / f"{module}.py": _PLUGIN, where / f"test_{module}.py": _TEST, where / "request.yaml": _REQUEST}
    for path in files:
        if path.exists():
            raise Failure(f"{path} exists already", "choose another name, or remove it", BAD_INPUT)
    where.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        for word, value in words.items():
            text = text.replace(f"<{word}>", value)
        path.write_text(text)
        click.echo(path)
    click.echo(f"try it: headgate plugin run {where / module}.py {where}/request.yaml", err=True)


@plugin.command(
    "check",
    epilog=examples("headgate plugin check greet.py", "headgate plugin check plugins.yaml"),
)
@click.argument("names", metavar="PLUGIN...", nargs=-1, required=True)
@config_option
def check(names: tuple[str, ...], config: Path | None) -> int:
    """Load plugins and say everything that is wrong: imports, hooks, what they need, their configuration.

    A plugin that would end the process it runs in, as by os._exit(), is not loaded but refused. A single plugin is
    configured with --config, or with nothing.
    """
    from sidecar.places import only
    from sidecar.quantity import quantity_text

    entries, folder = listed(names, config)
    lethal = _lethal(entries, folder)
    for told in lethal:
        error_line(told)
    if lethal:
        return BAD_INPUT
    loaded = _loaded(names, config)
    for fault in loaded.faults:
        error_line(str(fault))
    if loaded.pipeline is None:
        return BAD_INPUT
    for one in loaded.pipeline.plugins:
        policy = "closed" if one.closed else "open"
        hooks = [*_hooks(one.request), *_hooks(one.response), *(["on_log"] if one.logs or one.edits_log else [])]
        bounds = f"{one.budget * 1000:g} ms for a hook, {quantity_text(one.memory)} to keep"
        where = only(type(one.plugin))
        click.echo(
            f"{one.name}: {', '.join(hooks) or 'no hooks'}; policy {policy}, {bounds}"
            + (f"; runs only {where}" if where else "")
        )
    return 0


@plugin.command(
    "run",
    epilog=examples(
        "headgate plugin run greet.py request.yaml", "headgate plugin run a.py b.py:B request.yaml -o json"
    ),
)
@click.argument("names", metavar="PLUGIN...", nargs=-1, required=True)
@click.argument("recording", metavar="RECORDING", type=click.Path(path_type=Path))
@config_option
@output_option("text", "json", "yaml")
def run(names: tuple[str, ...], recording: Path, config: Path | None, form: str) -> int:
    """Send a recorded request and its response through plugins, and show what they changed.

    RECORDING is YAML or JSON: request, response, properties, and answers to calls that plugins make. Nothing is sent
    over the network. Exit code 1 if a plugin failed.
    """
    from sidecar.recorded import try_on

    recorded = _recorded(recording)
    loaded = _loaded(names, config)
    if loaded.pipeline is None:
        for fault in loaded.faults:
            error_line(str(fault))
        return BAD_INPUT
    tried = try_on(loaded.pipeline, recorded)
    if form == "text":
        _show(tried)
    else:
        emit(_document(tried), form)
    for told in tried.faults:
        error_line(told)
    return 1 if tried.faults else 0


def _lethal(entries: list[Any], folder: Path | None) -> list[str]:
    """What in the sources of plugins would end the process."""
    from sidecar.lethal import lethal, source_of

    found = []
    for at, one in enumerate(entries):
        name = one.get("plugin") if isinstance(one, dict) else None
        if isinstance(name, str):
            found += [f"plugins[{at}].plugin: {told}" for told in lethal(*source_of(name, folder))]
    return found


def _loaded(names: tuple[str, ...], config: Path | None) -> Loaded:
    from sidecar.loading import load

    return load(*listed(names, config))


def listed(names: tuple[str, ...], config: Path | None) -> tuple[list[Any], Path | None]:
    """The configuration's list of plugins that the arguments stand for, and where its relative files are."""
    settings = _yaml(config) if config is not None else {}
    if not isinstance(settings, dict):
        raise Failure(f"{config} is not a mapping", "write the plugin's settings as KEY: VALUE", BAD_INPUT)
    entries: list[Any] = []
    folder: Path | None = None
    for name in names:
        if name.endswith((".yaml", ".yml", ".json")):
            path = Path(name)
            document = _yaml(path)
            if isinstance(document, dict) and "gateways" in document:
                document = _of_a_gateway(path)
            found = document.get("plugins") if isinstance(document, dict) else document
            if not isinstance(found, list):
                raise Failure(f"{path} has no list of plugins", "it has to hold 'plugins: [...]'", BAD_INPUT)
            if len(names) > 1:
                raise click.UsageError("give either one list of plugins or plugins, not both")
            entries, folder = found, path.parent
            if isinstance(document, dict) and isinstance(document.get("folder"), str):
                folder = path.parent / document["folder"]
        else:
            entries.append({"plugin": name, "config": settings})
    return entries, folder


def _of_a_gateway(path: Path) -> dict[str, Any]:
    """The list of plugins in a control plane's configuration: that of its only gateway with plugins."""
    import json

    from headgate.commands.serve import configuration

    found = [one.plugins for one in configuration(path).gateways if one.plugins is not None]
    if len(found) != 1:
        what = "has no gateway with plugins" if not found else f"has {len(found)} gateways with plugins"
        raise Failure(f"{path} {what}", "write the list into a file of its own: 'plugins: [...]'", BAD_INPUT)
    entries = []
    for one in found[0].chain:
        if one.plugin is None:
            raise Failure(
                f"{path}: plugin {one.name!r} has no source", "write plugin: module:Class, or host: auto", BAD_INPUT
            )
        entry = {"name": one.name, "plugin": one.plugin, "config": json.loads(one.config)}
        more = {"onFailure": one.on_failure, "budget": one.budget, "memory": one.memory}
        entries.append(entry | {key: value for key, value in more.items() if value is not None})
    return {"plugins": entries, "folder": found[0].folder}


def _recorded(path: Path) -> Recorded:
    from pydantic import ValidationError

    from sidecar.recorded import Recorded

    try:
        return Recorded.model_validate(_yaml(path) or {})
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            field = ".".join(str(part) for part in one["loc"])
            error_line(f"{path}: {field}: {one['msg'][:1].lower()}{one['msg'][1:]}")
        raise Failure(f"{path} is no recorded request", "see docs/plugins.md", BAD_INPUT) from None


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or str(error)).lower()}", exit_code=BAD_INPUT) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure(f"{path} is no YAML: {' '.join(str(error).split())}", exit_code=BAD_INPUT) from None


def _hooks(direction: Any) -> list[str]:
    return [one for one in (direction.headers, direction.body, direction.trailers) if one]


def _show(tried: Tried) -> None:
    _message("request", tried.request_before, tried.request, reached=not tried.reply)
    _message("response", tried.response_before, tried.response, reached=True)
    if tried.aborted:
        click.echo("the stream was reset")
    for title, lines in (
        ("calls", tried.calls),
        ("metadata", [f"{key}: {value!r}" for key, value in tried.metadata.items()]),
        ("log", [f"{key}: {value}" for key, value in tried.entry.items()]),
        ("metrics", _metrics(tried)),
    ):
        if lines:
            click.echo(f"{title}:")
            for line in lines:
                click.echo(f"  {line}")


def _message(title: str, before: Seen, after: Seen, reached: bool) -> None:
    if not reached:
        click.echo(f"{title}: answered by a plugin, the model server was not asked")
        return
    old, new = _text(before), _text(after)
    click.echo(f"{title}: {'unchanged' if old == new else 'changed'}")
    colours = {"+": "green", "-": "red"} if coloured(sys.stdout) else {}
    for line in difflib.ndiff(old, new):
        if line[0] != "?":
            click.echo(click.style("  " + line.rstrip(), fg=colours.get(line[0])) if colours else "  " + line.rstrip())


def _text(seen: Seen) -> list[str]:
    body = seen.body.decode("utf-8", "backslashreplace").splitlines()
    return [*seen.headers, *(["", *body] if body else []), *(["", *seen.trailers] if seen.trailers else [])]


def _metrics(tried: Tried) -> list[str]:
    lines = []
    for family in tried.metrics:
        for sample in family.samples:
            labels = ", ".join(f'{name}="{value}"' for name, value in sample.labels)
            if sample.suffix != "_bucket" and sample.value:
                lines.append(f"{family.name}{sample.suffix}{{{labels}}} {sample.value:g}")
    return lines


def _document(tried: Tried) -> dict[str, Any]:
    def seen(one: Seen) -> dict[str, Any]:
        body = one.body.decode("utf-8", "backslashreplace")
        return {"headers": one.headers, "body": body, "trailers": one.trailers, "complete": one.end}

    return {
        "request": {"before": seen(tried.request_before), "after": seen(tried.request)},
        "response": {"before": seen(tried.response_before), "after": seen(tried.response)},
        "repliedByPlugin": tried.reply,
        "reset": tried.aborted,
        "calls": tried.calls,
        "metadata": {key: str(value) for key, value in tried.metadata.items()},
        "log": {
            key: value if isinstance(value, str | int | float) else str(value) for key, value in tried.entry.items()
        },
        "metrics": _metrics(tried),
        "faults": tried.faults,
    }


_PLUGIN = '''"""What <name> does, in a sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sidecar.plugin import CONTINUE, Headers, HttpContext, Plugin, Reply, Result


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    word: str = "hello"


class Context(HttpContext["<class>"]):
    """One for each request."""

    def on_request_headers(self, headers: Headers) -> Result:
        if "x-user" not in headers:
            return Reply(400, b"x-user is required\\n")
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-greeting", f"{self.root.word}, {self.request_headers.get('x-user')}")
        self.root.greeted.add(version=str(self.get_property("version") or ""))
        return CONTINUE


class <class>(Plugin):
    """One for each entry in the configuration. What requests share is kept here."""

    name = "<name>"
    context = Context
    config_model = Config
    on_failure = "open"

    def on_configure(self, config: Config) -> None:
        self.word = config.word
        self.greeted = self.metrics.counter("greeted", "Requests that were greeted.", ["version"])
'''

_TEST = '''"""<class> on recorded requests."""

from __future__ import annotations

from sidecar.pipeline import bind
from sidecar.recorded import Recorded, Request, try_on

from <module> import <class>


def test_a_user_is_greeted() -> None:
    tried = try_on(bind((<class>(), {"word": "hi"})), Recorded(request=Request(headers={"x-user": "ann"})))
    assert "x-greeting: hi, ann" in tried.response.headers
    assert tried.faults == []


def test_nobody_is_refused() -> None:
    tried = try_on(bind(<class>()), Recorded())
    assert tried.reply
    assert tried.response.headers[0] == ":status 400"
'''

_REQUEST = """# For `headgate plugin run`: an exchange as it was before the plugins. Everything is optional.
request:
  method: POST
  path: /v2/models/iris/infer
  host: iris.example
  headers:
    content-type: application/json
    x-user: ann
  json: {inputs: [{name: x, datatype: FP32, shape: [1, 4], data: [5.1, 3.5, 1.4, 0.2]}]}
response:
  status: 200
  headers: {content-type: application/json}
  json: {outputs: [{name: class, datatype: INT64, shape: [1], data: [0]}]}
properties: {namespace: default, model: iris, version: v1}
"""
