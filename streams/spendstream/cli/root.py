"""The root of the command line: every command by name, its module imported only when it is run."""

import importlib
import sys
from importlib import metadata
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from spendstream.cli.environment import adopt_running_stack
from spendstream.cli.failures import explain
from spendstream.cli.logs import keep_stdout_for_answers


class CommandEntry(NamedTuple):
    """Where a command is: a function, or a ``typer.Typer`` of sub-commands, called ``attribute`` in ``module``.

    ``on_stack``: it works on a running stack, and finds the embedded one.
    """

    module: str
    attribute: str
    summary: str
    on_stack: bool = True


COMMANDS: Final = {
    "demo": CommandEntry("demo", "demo", "The whole stack on this machine, realistic traffic, a live view.", False),
    "up": CommandEntry("up", "up", "The whole stack on this machine, until stopped.", False),
    "worker": CommandEntry("worker", "worker", "The worker alone: meter and sinks, set by the environment."),
    "publish": CommandEntry("publish", "publish", "Publish usage events from JSON lines or CSV."),
    "drain": CommandEntry("drain", "drain", "Wait until everything published is visible in ClickHouse."),
    "query": CommandEntry("query", "query", "Ask ClickHouse: a table, or a JSON object a row."),
    "price": CommandEntry("price", "price", "Price usage events and show the breakdown. Needs no broker.", False),
    "rates": CommandEntry("rates", "rates_app", "Which price holds for a model on a date; checks your cards.", False),
    "watches": CommandEntry("watches", "watches_app", "What is worth an alert: checks and lists your watches.", False),
    "backtest": CommandEntry("backtest", "backtest", "What your watches would have told, over a CSV or over history."),
    "silence": CommandEntry("silence", "silence_app", "Keep alerts quiet for a while."),
    "deadletters": CommandEntry("deadletters", "deadletters", "Records that could not be metered; publish them again."),
    "reconcile": CommandEntry("reconcile", "reconcile", "Kafka, ledger and rollups against each other, per hour."),
    "migrate": CommandEntry("migrate", "migrate", "Bring ClickHouse's tables up to date, or undo."),
    "topics": CommandEntry("topics", "topics", "Create the Kafka topics that are missing; compare the others."),
    "doctor": CommandEntry("doctor", "doctor", "Check every connection and setting; say how to mend it."),
}


class LazyGroup(TyperGroup):
    """Lists commands by their summaries, and imports the one that is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            entry = COMMANDS[name]
            if entry.on_stack:
                adopt_running_stack()
            command = _load(name, entry)
        return name, command, rest


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. ``arguments``: without the program's name. Returns the exit status.

    What the operator can mend is one line on stderr and status 1; anything else is raised.
    """
    keep_stdout_for_answers()
    root = _root()
    try:
        root.main(args=arguments, prog_name="spendstream")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except Exception as error:
        words = explain(error)
        if words is None:
            raise
        sys.stderr.write(f"spendstream: {words}\n")
        return 1
    return 0


def _root() -> Any:
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_start)
    root: Any = typer.main.get_command(app)
    root.commands.update({name: TyperCommand(name, help=entry.summary) for name, entry in COMMANDS.items()})
    return root


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("spendstream"))
        raise typer.Exit


def _start(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Real-time meter for AI token spend: usage events in, exact per-minute cost out, alerts within seconds."""


def _load(name: str, entry: CommandEntry) -> Any:
    found = getattr(importlib.import_module(f"spendstream.cli.{entry.module}"), entry.attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        app.command(name)(found)
        found = app
    command: Any = typer.main.get_command(found)
    command.name = name
    return command
