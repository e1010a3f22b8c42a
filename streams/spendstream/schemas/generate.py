"""Generate ``schemas/json``: ``python -m spendstream.schemas.generate [--check]``.

The files are checked in, and CI compares them with the models.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.buckets import COST_BUCKETS
from spendstream.schemas.dead_letter import DeadLetter
from spendstream.schemas.priced import PRICED_SCHEMA, REQUIRED
from spendstream.schemas.rate_card import RateCards
from spendstream.schemas.rate_card_record import RateCardRecord
from spendstream.schemas.rollup import CostRollup
from spendstream.schemas.topics import ALERT, DEAD_LETTER, PRICED, RATE_CARD, ROLLUP, SILENCE, USAGE
from spendstream.schemas.usage import UsageEvent
from spendstream.schemas.watch import Watches

FOLDER: Final = Path(__file__).parents[3] / "schemas" / "json"
MODELS: Final[dict[str, type[BaseModel]]] = {
    USAGE: UsageEvent,
    ROLLUP: CostRollup,
    DEAD_LETTER: DeadLetter,
    RATE_CARD: RateCardRecord,
    ALERT: Alert,
    SILENCE: Silence,
    "rate-card": RateCards,
    "watches": Watches,
}


def documents() -> dict[Path, str]:
    """Return every generated file's path and text."""
    schemas: dict[str, dict[str, Any]] = {name: model.model_json_schema() for name, model in MODELS.items()}
    schemas[PRICED] = {
        "title": f"Priced calls, {PRICED}: the columns of the Arrow IPC stream",
        "cost_buckets": list(COST_BUCKETS),
        "columns": [
            {"name": f.name, "type": str(f.type), "nullable": f.nullable, "required": f.name in REQUIRED}
            for f in PRICED_SCHEMA
        ],
    }
    return {FOLDER / f"{name}.json": json.dumps(text, indent=2) + "\n" for name, text in schemas.items()}


def main() -> int:
    """Write the files, or with ``--check`` return 1 where one differs."""
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path}: differs from its model; run `make schemas`\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
