"""`spendstream watches`: check a watches file, list its watches, and print the built-in ones."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from spendstream.cli.console import echo_json, err, out, table
from spendstream.cli.environment import load_settings
from spendstream.core.documents import Issue
from spendstream.schemas.watch import Watch, Watches
from spendstream.watches import (
    WatchesError,
    check_environment,
    check_prudence,
    configured_watches,
    default_watches,
    explain_duration,
    explain_rule,
    explain_scope,
    read_document,
)

INVALID_EXIT: Final = 1
_DURATIONS: Final = (
    *("min_history", "no_data_after", "adopt_after", "long", "short", "window", "lasting", "renotify"),
    *("timeout", "give_up_after"),
)

watches_app = typer.Typer(no_args_is_help=True, add_completion=False, help="What raises an alert, and who is notified.")

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]", help="A watches file. Default: the file that WATCHES names, or the built-in watches."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]


@watches_app.command("check")
def check(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Check a watches file. Exit status 1: it has mistakes, printed as file:line:column."""
    settings = load_settings()
    path = file or settings.watches_path
    if path is None:
        _accept(default_watches(settings.meter_dimensions), [], "the built-in watches", as_json)
        return
    try:
        document = read_document(path, settings.meter_dimensions)
    except WatchesError as error:
        for issue in error.issues:
            _print_issue(issue, "error", as_json)
        if as_json:
            echo_json({"ok": False, "issues": len(error.issues)})
        raise typer.Exit(INVALID_EXIT) from None
    faults = [*check_environment(document.watches, os.environ), *check_prudence(document.watches)]
    _accept(document.watches, sorted(map(document.issue, faults)), str(path), as_json)


@watches_app.command("list")
def list_watches(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """List the watches and explain their rules."""
    settings = load_settings()
    watches = configured_watches(file or settings.watches_path, settings.meter_dimensions)
    if as_json:
        for watch in watches.watches:
            echo_json(
                {
                    "name": watch.name,
                    "description": watch.description,
                    "kind": watch.rule.kind,
                    "rule": explain_rule(watch.rule),
                    "scope": watch.scope,
                    "group_by": watch.group_by,
                    "severity": watch.severity,
                    "notifiers": _notified(watch, watches),
                    "runbook": watch.runbook,
                }
            )
        return
    columns = ("watch", "rule", "scope", "group by", "severity", "notifies")
    rows = [
        (
            watch.name,
            explain_rule(watch.rule),
            explain_scope({str(name): values for name, values in watch.scope.items()}),
            ", ".join(watch.group_by) or "(one group)",
            watch.severity,
            ", ".join(_notified(watch, watches)) or "nobody",
        )
        for watch in watches.watches
    ]
    out.print(table(columns, rows))
    err.print(f"{len(rows)} watches")


@watches_app.command("show-defaults")
def show_defaults() -> None:
    """Print the built-in watches as YAML, as a file to start from."""
    out.out(to_yaml(default_watches(load_settings().meter_dimensions)), end="", highlight=False)


def to_yaml(watches: Watches) -> str:
    """Return watches as a file that reads back the same, without fields that have their default."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump({"version": watches.version, **_with_units(watches.model_dump(mode="json", exclude_unset=True))}, text)
    return text.getvalue()


def _with_units(value: Any, name: str = "") -> Any:
    """Return a value with its durations as people write them: ``6h``."""
    if isinstance(value, dict):
        return {key: _with_units(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_units(item) for item in value]
    return explain_duration(value) if name in _DURATIONS and value is not None else value


def _accept(watches: Watches, warnings: list[Issue], origin: str, as_json: bool) -> None:
    for warning in warnings:
        _print_issue(warning, "warning", as_json)
    if as_json:
        counts = {"watches": len(watches.watches), "notifiers": len(watches.notifiers)}
        echo_json({"ok": True, "issues": 0, "warnings": len(warnings), **counts})
        return
    out.print(f"OK: {origin}, {len(watches.watches)} watches, {len(watches.notifiers)} notifiers", markup=False)
    if not watches.notifiers:
        err.print("no notifiers: alerts go only to their topic and to ClickHouse")


def _print_issue(issue: Issue, level: str, as_json: bool) -> None:
    if not as_json:
        place = f"{issue.file}:{issue.line}:{issue.column}: "
        typer.echo(place + ("warning: " if level == "warning" else "") + issue.message, err=True)
        return
    where = {"file": str(issue.file), "line": issue.line, "column": issue.column}
    echo_json({"level": level, **where, "message": issue.message})


def _notified(watch: Watch, watches: Watches) -> tuple[str, ...]:
    """Return the names of a watch's notifiers."""
    return watch.notify if watch.notify is not None else tuple(notifier.name for notifier in watches.notifiers)
