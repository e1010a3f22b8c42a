"""``spendstream demo``: the whole stack on this machine, with realistic traffic and a live view."""

import asyncio
import io
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from ruamel.yaml import YAML

import spendstream.demo
from spendstream.cli.console import err, out, silence_libraries
from spendstream.cli.environment import embedded_stack
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.demo.publisher import PublisherStatus, read_status
from spendstream.demo.scenario import HISTORY_S, Incident, Kind
from spendstream.demo.snapshot import (
    Equation,
    Snapshot,
    Totals,
    account,
    read_counters,
    read_snapshot,
    read_totals,
    total,
)
from spendstream.demo.view import incident_lines, incident_table, line, picture, spend_table, transition_lines
from spendstream.drain import drain
from spendstream.embedded.process import ManagedProcess
from spendstream.errors import SpendstreamError
from spendstream.settings import Settings

if TYPE_CHECKING:
    from spendstream.embedded.stack import EmbeddedStack

RATE_CARD: Final = Path(spendstream.demo.__file__).with_name("rates.yaml")
WATCHES: Final = RATE_CARD.with_name("watches.yaml")
RATE_PER_S: Final = 300.0
"""A rate whose history of 17 minutes, 306,000 records, is metered within half a minute on two cores."""

_VIEW_INTERVAL_S: Final = 1.0
_LINE_INTERVAL_S: Final = 3.0
_DRAIN_TIMEOUT_S: Final = 120.0
_ARRIVED: Final = 0.999
"""Of the history's events in ClickHouse: then the detector, which reads the same topic, has all but the last."""


class DemoNotDrained(SpendstreamError):
    """Not every published record arrived in time."""


class PublisherLost(SpendstreamError):
    """The publishing process ended although nothing had asked it to."""


def demo(
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this; by default at Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Records published a second.")] = RATE_PER_S,
    plain: Annotated[bool, typer.Option("--plain", help="A line every few seconds instead of the live view.")] = False,
    state_dir: Annotated[Path | None, typer.Option(help="Keep the data here, instead of removing it.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same traffic.")] = 1,
    incidents: Annotated[bool, typer.Option(help="Let things go wrong, one after the other.")] = True,
    incident: Annotated[Kind | None, typer.Option(help="Let only this go wrong, once.")] = None,
    history: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds of the past to load first; by default 1,020 with incidents, else none."),
    ] = None,
) -> None:
    """Start the whole stack, publish the usage of a small company's services, and show the spend as it happens.

    Seventeen minutes of the past are loaded first, so that alerts know what is usual. Then things go wrong by
    themselves, from a runaway loop to a cache that is off, and alerts fire. Unless WATCHES is set, the demo has
    watches of its own, which need little history.

    At the end, all that was published is drained and accounted for: published = metered + duplicates + dead letters,
    and the ledger's total = the rollups' total. The exit status is 1 if that does not hold.
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
            watches = DemoWatches(folder / "watches.yaml", rate)
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
        publisher = ManagedProcess(
            [
                *(sys.executable, "-m", "spendstream.demo.publisher", "--status", str(status_path)),
                *("--rate", f"{rate:g}", "--seed", str(seed), "--history", f"{past_s:g}", "--incidents", what),
            ],
            log_path=stack.logs / "publisher.log",
            ready=status_path.exists,
            env=stack.environment,
        )
        run = _Run(stack, client, publisher, status_path, watches, before)
        at_end.enter_context(run.publisher)
        run.began = time.monotonic()
        with _view(plain or not out.is_terminal) as (show, interval_s):
            run.watch(stop, seconds, show, interval_s)
        run.publisher.stop()
        err.print("draining …")
        equations = run.balance()
        _print_summary(run.look(), read_status(status_path).incidents, equations)
    if not all(equation.holds for equation in equations):
        raise typer.Exit(1)


@dataclass
class DemoWatches:
    """A copy of the demo's watches, in two steps: those that need history are added once the history is there.

    A watch that is new reads all minutes that the detector knows. One that is there from the start would close the
    minutes of the past as they come, half read, and learn nothing from them.
    """

    path: Path
    rate_per_s: float
    is_complete: bool = False

    def __post_init__(self) -> None:
        self._write(with_history=False)

    def complete(self) -> None:
        """Add the rest. The worker looks at its file every 2 s."""
        self._write(with_history=True)
        self.is_complete = True

    def _write(self, with_history: bool) -> None:
        yaml = YAML(typ="safe")
        whole: dict[str, Any] = yaml.load(WATCHES.read_text())
        whole["watches"] = [each for each in whole["watches"] if with_history or each["rule"]["kind"] != "anomaly"]
        for rule in (each["rule"] for each in whole["watches"]):
            if rule["kind"] == "budget":
                amount_usd = Decimal(rule["amount_usd"]) * Decimal(self.rate_per_s / RATE_PER_S)
                rule["amount_usd"] = f"{amount_usd:.2f}"
        text = io.StringIO()
        yaml.dump(whole, text)
        draft = self.path.with_name(f"{self.path.name}.new")
        draft.write_text(text.getvalue())
        draft.replace(self.path)


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
        """Show a snapshot at each interval, until stopped or out of time. Raises: BrokerLost; PublisherLost."""
        while True:
            left_s = interval_s if seconds is None else self.began + seconds - time.monotonic()
            if left_s <= 0 or stop.wait(min(interval_s, left_s)):
                return
            self.stack.watch()
            if not self.publisher.is_running():
                raise PublisherLost(f"the publisher ended by itself; its log ends with: {self.publisher.log_tail()}")
            status, snapshot = read_status(self.status_path), self.look()
            show(snapshot, status.incidents)
            self._complete_watches(status, snapshot)
            # Never more than half of the time spent asking, however large the ledger grows.
            interval_s = max(interval_s, 2 * snapshot.read_s)

    def look(self) -> Snapshot:
        return read_snapshot(self.client, time.monotonic() - self.began, read_status(self.status_path), self.began_at)

    def _complete_watches(self, status: PublisherStatus, snapshot: Snapshot) -> None:
        """Add the watches that need history, once it is there."""
        if self.watches is None or self.watches.is_complete or status.history_s is not None:
            return
        arrived = total(snapshot.since_start).calls - self.before.rollup_calls
        if arrived >= _ARRIVED * status.history_events:
            self.watches.complete()

    def balance(self) -> list[Equation]:
        """Wait until every record has arrived, and return the account. Raises: DemoNotDrained; PublisherLost."""
        settings = self.stack.settings
        report = asyncio.run(drain(settings, _DRAIN_TIMEOUT_S))
        if not report.is_drained:
            behind = ", ".join(f"{s.group} {s.topic}[{s.partition}] by {s.behind}" for s in report.behind)
            raise DemoNotDrained(f"not everything arrived within {_DRAIN_TIMEOUT_S:g} s: {behind or 'no answer'}")
        status = read_status(self.status_path)
        if not status.is_done:
            raise PublisherLost(f"the publisher did not stop cleanly; its log ends with: {self.publisher.log_tail()}")
        return account(status, asyncio.run(read_counters(settings)), self.before, read_totals(self.client))


def _stop_on_signal() -> threading.Event:
    """Return an event that the first signal sets; a second Ctrl-C interrupts."""
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
    """The plain view: a line per snapshot, preceded by what began or ended since the last one."""

    def __init__(self) -> None:
        self._former = Snapshot()
        self._incidents: Sequence[Incident] = ()

    def show(self, snapshot: Snapshot, incidents: Sequence[Incident]) -> None:
        now = snapshot.at or datetime.now(UTC)
        events = incident_lines(self._incidents, incidents, self._former.at or now, now)
        for text in (*events, *transition_lines(self._former, snapshot), line(snapshot)):
            out.print(text, soft_wrap=True, markup=False)
        self._former, self._incidents = snapshot, incidents


@contextmanager
def _view(plain: bool) -> Iterator[tuple[_Show, float]]:
    """Yield a function that shows a snapshot, and the seconds between two calls."""
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
        out.print("[green]✓[/green]" if equation.holds else "[bold red]✗[/bold red]", equation.text, soft_wrap=True)
