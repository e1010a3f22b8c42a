"""``spendstream worker``: the meter and the sinks in one process, until a signal."""

import asyncio
import os

# polars reads this once, when it is imported: beside the worker's threads its own pool costs more than it gives
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import structlog
import typer

from spendstream.cli.environment import load_settings
from spendstream.cli.failures import explain
from spendstream.cli.logs import configure_logs
from spendstream.worker import run_worker

log = structlog.get_logger(__name__)


def worker() -> None:
    """Run the worker, set by the environment, until SIGTERM or Ctrl-C.

    More workers of one KAFKA_GROUP share the load. Exit status: 0 after a signal, 1 after a failure; then start it
    again, and it goes on where everything was last durable.
    """
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(run_worker(settings))
    except Exception as error:
        words = explain(error)
        if words is None:
            log.exception("worker.failed", error=repr(error))
        else:
            log.error("worker.failed", error=words)
        raise typer.Exit(1) from None
