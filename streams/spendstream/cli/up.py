"""``spendstream up``: runs the embedded stack until stopped."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from spendstream.cli.console import out
from spendstream.cli.environment import DEFAULT_STATE_DIR, embedded_stack

_WATCH_INTERVAL_S: Final = 0.5


def up(
    state_dir: Annotated[
        Path, typer.Option(help="Where ClickHouse keeps its data; created if missing.")
    ] = DEFAULT_STATE_DIR,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Whether to start workers.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers to start.")] = 1,
) -> None:
    """Run a broker, ClickHouse and workers on this machine until Ctrl-C or SIGTERM.

    Prints the addresses and writes them to STATE_DIR/env, where the other commands find them. The broker keeps its
    records in memory and loses them when it stops; ClickHouse keeps its data.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    count = workers if worker else 0
    with embedded_stack(state_dir, workers=count, tell=lambda line: out.print(line, soft_wrap=True)) as stack:
        settings = stack.settings
        out.print(f"Kafka       {settings.kafka_bootstrap_servers}")
        out.print(f"ClickHouse  {settings.clickhouse_url}, database {settings.clickhouse_database}")
        if count:
            out.print(f"Metrics     http://{settings.metrics_host}:{settings.metrics_port}/metrics")
        out.print(f"Settings    {stack.env_path}", soft_wrap=True)
        out.print(f"Logs        {stack.logs}", soft_wrap=True)
        out.print("ready; press Ctrl-C to stop")
        while not stop.wait(_WATCH_INTERVAL_S):
            stack.watch()
        out.print("stopping")
