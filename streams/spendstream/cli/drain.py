"""``spendstream drain``: waits until everything published is visible in ClickHouse."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from spendstream.cli.console import echo_json, err, out, silence_libraries, table
from spendstream.cli.environment import load_settings
from spendstream.drain import DrainReport
from spendstream.drain import drain as drain_everything


def drain(
    timeout: Annotated[float, typer.Option(min=0, help="Give up after this many seconds.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Wait until the meter and the sinks have made everything that was published durable.

    Exit status: 0 when all of it is visible in ClickHouse; 1 on timeout, with a list of what is still behind.
    """
    silence_libraries()
    settings = load_settings()
    with _progress() as on_progress:
        report = asyncio.run(drain_everything(settings, timeout, on_progress))
    if as_json:
        behind = [
            {
                "group": state.group,
                "topic": state.topic,
                "partition": state.partition,
                "committed": state.committed,
                "end": state.end,
                "records": state.behind,
            }
            for state in report.behind
        ]
        echo_json({"ok": report.is_drained, "seconds": round(report.seconds, 3), "behind": behind})
    elif report.is_drained:
        out.print(f"drained after {report.seconds:.1f} s")
    elif not report.partitions:
        err.print(f"not drained after {report.seconds:.1f} s: the broker returned no consumer group offsets")
    else:
        rows = [(s.group, s.topic, s.partition, s.committed, s.end, s.behind) for s in report.behind]
        out.print(table(("group", "topic", "partition", "committed", "end", "behind"), rows))
        remark = "Is a worker running?" if rows else "Records are still being published."
        err.print(f"not drained after {report.seconds:.1f} s. {remark}")
    if not report.is_drained:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[DrainReport], None] | None]:
    if not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("draining"), BarColumn(), MofNCompleteColumn(), TextColumn("records"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("draining", total=None)
        yield lambda report: bar.update(task, total=report.records, completed=report.records - report.records_behind)
