"""``spendstream demo``: the whole stack on this machine, with realistic traffic and a live view."""

import asyncio
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import spendstream.demo
from spendstream.cli.console import err, out, silence_libraries
from spendstream.cli.environment import embedded_stack
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.demo.alert_view import incident_lines, incident_table, transition_lines
from spendstream.demo.incidents import Incident, Kind
from spendstream.demo.live_view import line, picture, spend_table
from spendstream.demo.programme import HISTORY_S
from spendstream.demo.publisher import PublisherStatus, read_status
from spendstream.demo.snapshot import Snapshot, read_snapshot, total
from spendstream.demo.summary import Equation, Totals, account, read_counters, read_totals
from spendstream.demo.watches import DemoWatches
from spendstream.drain import drain
from spendstream.embedded.process import ManagedProcess
from spendstream.errors import SpendstreamError
from spendstream.settings import Settings

if TYPE_CHECKING:
    from spendstream.embedded.stack import EmbeddedStack

RATE_CARD: Final = Path(spendstream.demo.__file__).with_name("rates.yaml")
_VIEW_INTERVAL_S: Final = 1.0
_LINE_INTERVAL_S: Final = 3.0
_DRAIN_TIMEOUT_S: Final = 120.0
_ARRIVED: Final = 0.999
"""Of the history's events in ClickHouse: then the detector, which reads the same topic, has all but the last."""


class DemoNotDrained(SpendstreamError):
    """What was published did not arrive in time."""


class PublisherLost(SpendstreamError):
    """The publishing process ended in another way than it was asked to."""


def demo(
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this; else at Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Records published a second.")] = 1_000,
    plain: Annotated[bool, typer.Option("--plain", help="A line every few seconds instead of the live view.")] = False,
    state_dir: Annotated[Path | None, typer.Option(help="Keep the data here; else it is removed at the end.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same traffic.")] = 1,
    incidents: Annotated[bool, typer.Option(help="Let things go wrong, one after the other.")] = True,
    incident: Annotated[Kind | None, typer.Option(help="Let this go wrong alone, once.")] = None,
    history: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds of the past to publish first; by default 1,020 with incidents, else none."),
    ] = None,
) -> None:
    """Start everything, let a small company's services publish their usage, and watch the spend as it happens.

    Things go wrong by themselves, from a runaway loop to a cache that is off, and the alerts tell of them. Without
    WATCHES the demo's own hold, which need little history.

    At the end all is drained, and the account is made up: published = metered + duplicates + dead letters, and the
    ledger's total = the rollups' total. Exit status 1 where that does not hold.
    """
    silence_libraries()
    stop = _stop_on_signal()
    with ExitStack() as at_end:
        folder = state_dir or Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="spendstream-demo-")))
        err.print("starting broker, ClickHouse and worker …")
        given = Settings()
        extra: dict[str, Any] = {"rate_cards": (*given.rate_cards, str(RATE_CARD))}
        watches = None
        if given.watches is None:
            folder.mkdir(parents=True, exist_ok=True)
            watches = DemoWatches(folder / "watches.yaml")
            extra["watches"] = str(watches.path)
        stack = at_end.enter_context(embedded_stack(folder, workers=1, tell=err.print, extra=extra))
        client = at_end.enter_context(
            open_client(clickhouse_settings(stack.settings), database=stack.settings.clickhouse_database)
        )
        before = read_totals(client)
        status_path = folder / "publisher.json"
        status_path.unlink(missing_ok=True)
        what = incident or ("all" if incidents else "none")
        past_s = history if history is not None else (0.0 if what == "none" else HISTORY_S)
        publisher = _publisher(
            stack,
            status_path,
            ("--rate", f"{rate:g}", "--seed", str(seed), "--history", f"{past_s:g}", "--incidents", what),
        )
        run = _Run(stack, client, publisher, status_path, watches, before)
        at_end.enter_context(run.publisher)
        run.began = time.monotonic()
        with _view(plain or not out.is_terminal) as (show, interval_s):
            run.watch(stop, seconds, show, interval_s)
        run.publisher.stop()
        err.print("draining …")
        equations = run.make_up()
        _print_summary(run.look(), read_status(status_path).incidents, equations)
    if not all(equation.holds for equation in equations):
        raise typer.Exit(1)


@dataclass
class _Run:
    stack: "EmbeddedStack"
    client: Any
    publisher: ManagedProcess
    status_path: Path
    watches: DemoWatches | None
    before: Totals
    began: float = field(default_factory=time.monotonic)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def watch(self, stop: threading.Event, seconds: float | None, show: "_Show", interval_s: float) -> None:
        """Show a snapshot at each interval, until stopped or the time is over. Raises what the stack can't mend."""
        while True:
            left_s = interval_s if seconds is None else self.began + seconds - time.monotonic()
            if left_s <= 0 or stop.wait(min(interval_s, left_s)):
                return
            self.stack.watch()
            if not self.publisher.is_running():
                raise PublisherLost(f"the publisher ended by itself: {self.publisher.log_tail()}")
            status, snapshot = read_status(self.status_path), self.look()
            show(snapshot, status.incidents)
            self._complete_watches(status, snapshot)
            # Never more than half of the time spent asking, however large the ledger grows.
            interval_s = max(interval_s, 2 * snapshot.read_s)

    def look(self) -> Snapshot:
        status = read_status(self.status_path)
        return read_snapshot(
            self.client,
            time.monotonic() - self.began,
            status.published,
            began_at=self.began_at,
            history_s=status.history_s or 0.0,
        )

    def _complete_watches(self, status: PublisherStatus, snapshot: Snapshot) -> None:
        """Switch on the watches that need history, once it is there."""
        if self.watches is None or self.watches.is_complete or status.history_s is not None:
            return
        arrived = total(snapshot.since_start).calls - self.before.rollup_calls
        if arrived >= _ARRIVED * status.history_events:
            self.watches.complete()

    def make_up(self) -> list[Equation]:
        """Wait until all has arrived, and return the account. Raises: DemoNotDrained."""
        settings = self.stack.settings
        report = asyncio.run(drain(settings, _DRAIN_TIMEOUT_S))
        if not report.is_drained:
            behind = ", ".join(f"{s.group} {s.topic}[{s.partition}] by {s.behind}" for s in report.behind)
            raise DemoNotDrained(f"not everything arrived within {_DRAIN_TIMEOUT_S:g} s: {behind or 'no answer'}")
        status = read_status(self.status_path)
        if not status.is_done:
            raise PublisherLost(f"the publisher did not end in order: {self.publisher.log_tail()}")
        return account(status, asyncio.run(read_counters(settings)), self.before, read_totals(self.client))


def _publisher(stack: "EmbeddedStack", status_path: Path, options: Sequence[str]) -> ManagedProcess:
    return ManagedProcess(
        [sys.executable, "-m", "spendstream.demo.publisher", "--status", str(status_path), *options],
        log_path=stack.logs / "publisher.log",
        ready=status_path.exists,
        env=stack.environment,
    )


def _stop_on_signal() -> threading.Event:
    """Return what the first signal sets; a second Ctrl-C interrupts."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


_Show = Callable[[Snapshot, Sequence[Incident]], None]


class _Lines:
    """The plain view: a line a look, and before it what has begun or ended since the last one."""

    def __init__(self) -> None:
        self._former = Snapshot()
        self._incidents: Sequence[Incident] = ()

    def show(self, snapshot: Snapshot, incidents: Sequence[Incident]) -> None:
        now = snapshot.at or datetime.now(UTC)
        events = incident_lines(self._incidents, incidents, self._former.at or now, now)
        for words in (*events, *transition_lines(self._former, snapshot), line(snapshot)):
            out.print(words, soft_wrap=True, markup=False)
        self._former, self._incidents = snapshot, incidents


@contextmanager
def _view(plain: bool) -> Iterator[tuple[_Show, float]]:
    """Yield what shows a snapshot, and how many seconds lie between two."""
    if plain:
        yield _Lines().show, _LINE_INTERVAL_S
        return
    from rich.live import Live

    with Live(picture(Snapshot()), console=out, screen=True, auto_refresh=False) as live:
        yield lambda snapshot, _: live.update(picture(snapshot), refresh=True), _VIEW_INTERVAL_S


def _print_summary(snapshot: Snapshot, incidents: Sequence[Incident], equations: list[Equation]) -> None:
    for dimension in ("team", "feature", "model"):
        out.print(spend_table(dimension, snapshot))
        out.print()
    if incidents or snapshot.alerts:
        out.print(incident_table(incidents, snapshot.alerts))
        out.print()
    for equation in equations:
        out.print("[green]✓[/green]" if equation.holds else "[bold red]✗[/bold red]", equation.words, soft_wrap=True)
