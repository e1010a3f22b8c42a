"""Take a picture of the demo's live view, as it is after some seconds of real traffic: ``docs/demo.svg``.

    python -m infra.demo.picture

Broker, ClickHouse, worker and publisher are the demo's own, and so is every number in the picture.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from infra.demo.live_view import picture
from infra.demo.publisher import read_status
from infra.demo.snapshot import Snapshot, read_snapshot
from infra.embedded.process import ManagedProcess
from infra.embedded.stack import EmbeddedStack
from streams.settings import Settings
from streams.sinks.clickhouse import open_client
from streams.worker import clickhouse_settings

TARGET: Final = Path(__file__).parents[2] / "docs" / "demo.svg"
_RATE_CARD: Final = Path(__file__).with_name("rates.yaml")
_COLUMNS: Final = 130
_LINES: Final = 40


def run_demo(seconds: float, rate: float) -> Snapshot:
    """Return what the demo shows after so many seconds, at so many records a second."""
    cards = {"rate_cards": (*Settings().rate_cards, str(_RATE_CARD))}
    with tempfile.TemporaryDirectory(prefix="spendstream-picture-") as folder:
        status = Path(folder) / "publisher.json"
        with (
            EmbeddedStack(Path(folder), 1, cards, _ignore) as stack,
            open_client(clickhouse_settings(stack.settings), database=stack.settings.clickhouse_database) as client,
            _publisher(stack, rate, status),
        ):
            began = time.monotonic()
            time.sleep(seconds)
            return read_snapshot(client, time.monotonic() - began, read_status(status).published)


def save(snapshot: Snapshot, path: Path) -> None:
    """Write the live view of a snapshot as SVG."""
    console = Console(record=True, width=_COLUMNS, height=_LINES, file=io.StringIO(), color_system="truecolor")
    console.print(picture(snapshot))
    path.parent.mkdir(exist_ok=True)
    drawn = console.export_svg(title="make demo", unique_id="spendstream-demo")
    # some viewers drop the spaces that align the numbers
    path.write_text(drawn.replace("<svg ", '<svg xml:space="preserve" ', 1))


def _publisher(stack: EmbeddedStack, rate: float, status: Path) -> ManagedProcess:
    return ManagedProcess(
        [*(sys.executable, "-m", "infra.demo.publisher"), *("--rate", f"{rate:g}", "--status", str(status))],
        log_path=stack.logs / "publisher.log",
        ready=status.exists,
        env=stack.environment,
    )


def _ignore(_: str) -> None:
    pass


def main() -> None:
    """Parse the arguments, run the demo, save the picture."""
    parser = argparse.ArgumentParser(prog="python -m infra.demo.picture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="of traffic before the picture is taken")
    parser.add_argument("--rate", type=float, default=2000.0, help="records a second")
    options = parser.parse_args()
    save(run_demo(options.seconds, options.rate), TARGET)


if __name__ == "__main__":
    main()
