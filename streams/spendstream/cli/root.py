"""The root of the command line: every command by name. A command's module is imported only when it runs."""

import importlib
import sys
from importlib import metadata
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from spendstream.cli.console import explain, keep_stdout_for_answers
from spendstream.cli.environment import adopt_running_stack


class CommandEntry(NamedTuple):
    """Where a command is defined: ``attribute`` in ``module``, a function or a ``typer.Typer`` of subcommands.

    ``on_stack``: it works on a running stack, and so looks for an embedded one nearby.
    """

    module: str
    attribute: str
    summary: str
    on_stack: bool = True


COMMANDS: Final = {
    "demo": CommandEntry("demo", "demo", "Run the whole stack here, with realistic traffic and a live view.", False),
    "up": CommandEntry("up", "up", "Run the whole stack here until stopped.", False),
    "worker": CommandEntry("worker", "worker", "Run a worker, configured by the environment."),
    "publish": CommandEntry("publish", "publish", "Publish usage events from JSON lines or CSV."),
    "drain": CommandEntry("drain", "drain", "Wait until everything published is visible in ClickHouse."),
    "query": CommandEntry("clickhouse", "query", "Run SQL on ClickHouse; print a table or JSON lines."),
    "why": CommandEntry("why", "why", "Explain what a call cost: every bucket, rate and source."),
    "price": CommandEntry("price", "price", "Price a file of usage. Needs no broker.", False),
    "rates": CommandEntry(
        "rates", "rates_app", "Show which price applies to a model, and which have none; check cards; update prices."
    ),
    "watches": CommandEntry("watches", "watches_app", "Check and list watches: the rules that raise alerts.", False),
    "backtest": CommandEntry("backtest", "backtest", "Show the alerts your watches would have sent."),
    "silence": CommandEntry("silence", "silence_app", "Mute alerts for a while."),
    "deadletters": CommandEntry("deadletters", "deadletters", "List records that could not be metered; replay them."),
    "reconcile": CommandEntry("reconcile", "reconcile", "Compare Kafka, ledger and rollups by hour; repair rollups."),
    "migrate": CommandEntry("clickhouse", "migrate", "Bring ClickHouse's tables up to date, or roll them back."),
    "topics": CommandEntry("topics", "topics", "Create missing Kafka topics; compare the others."),
    "doctor": CommandEntry("doctor", "doctor", "Check every connection and setting, and say how to fix what is wrong."),
}


class LazyGroup(TyperGroup):
    """Lists commands by their summaries, and imports only the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            entry = COMMANDS[name]
            if entry.on_stack:
                adopt_running_stack()
            command = _load(name, entry)
        return name, command, rest


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status. ``arguments`` exclude the program's name.

    An error that the operator can fix becomes one line on stderr and status 1; any other is raised.
    """
    keep_stdout_for_answers()
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
    try:
        root.main(args=arguments, prog_name="spendstream")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.stderr.write(f"spendstream: {message}\n")
        return 1
    return 0


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("spendstream"))
        raise typer.Exit


def _start(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A real-time meter for AI token spend: usage events in, exact cost per minute out, alerts within seconds."""


def _load(name: str, entry: CommandEntry) -> Any:
    found = getattr(importlib.import_module(f"spendstream.cli.{entry.module}"), entry.attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        app.command(name)(found)
        found = app
    command: Any = typer.main.get_command(found)
    command.name = name
    return command
