"""``spendstream worker``: runs meter, sinks, detector and notifiers in one process until a signal."""

import asyncio
import os

# polars reads this once, on import. Beside the worker's own threads, its pool costs more than it gains.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import structlog
import typer

from spendstream.cli.console import configure_logs, explain
from spendstream.cli.environment import load_settings
from spendstream.worker import run_worker

log = structlog.get_logger(__name__)


def worker() -> None:
    """Run a worker, configured by the environment, until SIGTERM or Ctrl-C.

    Workers of one KAFKA_GROUP share the load. Exit status: 0 after a signal, 1 after a failure. Restart it after a
    failure: it resumes from the last durable point.
    """
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(run_worker(settings))
    except Exception as error:
        message = explain(error)
        if message is None:
            log.exception("worker.failed", error=repr(error))
        else:
            log.error("worker.failed", error=message)
        raise typer.Exit(1) from None
