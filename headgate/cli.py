"""The `headgate` command: one small file per subcommand in headgate/commands, and what they share in failing.

Exit codes: 0 done; 1 it could not be done (a port taken, no answer); 2 what was given is wrong (usage, manifests,
configuration); 130 interrupted. Mistakes are lines `error: where: field: what (hint)` on stderr, never a traceback.
Modules that take long to import are imported by the commands that need them: `headgate --help` has to be instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from headgate.commands.abort import abort
from headgate.commands.bootstrap import bootstrap
from headgate.commands.demo import demo
from headgate.commands.describe import describe
from headgate.commands.envoy import envoy
from headgate.commands.experiment import experiment
from headgate.commands.finalizers import finalizers
from headgate.commands.history import history
from headgate.commands.load import load
from headgate.commands.output import error_line
from headgate.commands.pause import pause
from headgate.commands.plan import plan
from headgate.commands.plugin import plugin
from headgate.commands.plugin_serve import serve as plugin_serve
from headgate.commands.promote import promote
from headgate.commands.resume import resume
from headgate.commands.serve import serve
from headgate.commands.sidecar import sidecar
from headgate.commands.status import status
from headgate.commands.tail import tail
from headgate.commands.template import template
from headgate.commands.translate import translate
from headgate.commands.validate import validate
from headgate.commands.version import version
from headgate.commands.weights import weights
from headgate.commands.who import who

INTERRUPTED = 130


class _Cli(click.Group):
    """A group whose mistakes look like all our others, under `main` and under click's test runner."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        extra["standalone_mode"] = False
        try:
            result = super().main(args, **extra)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            hint = f"see '{error.ctx.command_path} --help'" if error.ctx is not None else ""
            error_line(error.format_message().rstrip("."), hint)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except OSError as error:  # such as a disk that is full
            error_line(" ".join(filter(None, (error.filename and f"{error.filename}:", _reason(error)))))
            sys.exit(1)
        sys.exit(result if isinstance(result, int) else 0)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            near = get_close_matches(args[0], names, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise _UnknownCommand(f"no command {args[0]!r} ({meant})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By what one wants to do."""
        width = formatter.width - 6 - max(len(name) for name in self.commands)
        for title, group in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(str(one.name), one.get_short_help_str(width)) for one in group])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


class _UnknownCommand(click.UsageError):
    pass


@click.group(
    "headgate",
    cls=_Cli,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command has its own --help, with an example.",
)
@click.version_option(package_name="headgate", message="headgate %(version)s")
def cli() -> None:
    """Ship new versions of ML models behind Envoy without hurting a request."""


_GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Run": (serve, envoy, sidecar, bootstrap, demo),
    "Look": (status, describe, history, who, tail),
    "Change a rollout in a cluster": (weights, promote, abort, pause, resume, finalizers),
    "Manifests": (validate, plan, translate, template),
    "Load and experiments": (load, experiment),
    "Plugins": (plugin,),
    "About": (version,),
}
plugin.add_command(plugin_serve)
for _group in _GROUPS.values():
    for _command in _group:
        cli.add_command(_command)


def main() -> None:
    """Run the command that was typed; headgate/__main__.py begins here."""
    cli()
