"""Take a picture of the live view of a demo that runs: ``docs/demo.svg``.

    spendstream demo --plain --state-dir D        until an alert fires
    python -m spendstream.demo.picture --of D

Every number in the picture is that demo's own.
"""

import argparse
import io
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from spendstream.cli.environment import read_env_file
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.demo.live_view import picture
from spendstream.demo.publisher import read_status
from spendstream.demo.snapshot import Snapshot, read_snapshot
from spendstream.settings import Settings

TARGET: Final = Path(__file__).parents[3] / "docs" / "demo.svg"
_COLUMNS: Final = 130
_LINES: Final = 44


def look_at(state_dir: Path) -> Snapshot:
    """Return what a running demo shows now. Raises: OSError where none runs there; the client's errors."""
    env = read_env_file(state_dir / "env")
    settings = Settings.model_validate({name.lower(): value for name, value in env.items()})
    began_at = datetime.fromtimestamp((state_dir / "env").stat().st_mtime, UTC)
    status = read_status(state_dir / "publisher.json")
    with open_client(clickhouse_settings(settings), database=settings.clickhouse_database) as client:
        elapsed_s = time.time() - began_at.timestamp()
        return read_snapshot(client, elapsed_s, status.published, began_at=began_at, history_s=status.history_s or 0.0)


def save(snapshot: Snapshot, path: Path) -> None:
    """Write the live view of a snapshot as SVG."""
    console = Console(record=True, width=_COLUMNS, height=_LINES, file=io.StringIO(), color_system="truecolor")
    console.print(picture(snapshot))
    path.parent.mkdir(exist_ok=True)
    drawn = console.export_svg(title="make demo", unique_id="spendstream-demo")
    # some viewers drop the spaces that align the numbers
    path.write_text(drawn.replace("<svg ", '<svg xml:space="preserve" ', 1))


def main() -> None:
    """Parse the arguments, save the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m spendstream.demo.picture", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--of", type=Path, required=True, help="the running demo's state folder")
    parser.add_argument("--to", type=Path, default=TARGET, help="the picture")
    options = parser.parse_args()
    try:
        snapshot = look_at(options.of)
    except OSError as error:
        sys.exit(f"no demo runs in {options.of}: {error}")
    save(snapshot, options.to)


if __name__ == "__main__":
    main()
