"""The demo's watches, in two steps: what needs history is switched on once the history is there.

A watch that is new takes up all minutes that the detector knows. One that was there from the start would have closed
them as they came, in one batch, half read: it would know nothing of them.
"""

import io
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

DEMO: Final = Path(__file__).with_name("watches.yaml")


class DemoWatches:
    """A copy of the demo's watches at ``path``: at first without those that need history."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_complete = False
        yaml = YAML(typ="safe")
        whole: dict[str, Any] = yaml.load(DEMO.read_text())
        early = [watch for watch in whole["watches"] if watch["rule"]["kind"] != "anomaly"]
        text = io.StringIO()
        yaml.dump({**whole, "watches": early}, text)
        self._write(text.getvalue())

    def complete(self) -> None:
        """Switch on the rest. The worker looks at its file every 2 s."""
        self._write(DEMO.read_text())
        self.is_complete = True

    def _write(self, text: str) -> None:
        draft = self.path.with_name(f"{self.path.name}.new")
        draft.write_text(text)
        draft.replace(self.path)
