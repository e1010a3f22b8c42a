"""Rows read ahead in a thread: a pipe that pauses must not hold back the rows that came before the pause."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from spendstream.intake import Line, RowError

MAX_AHEAD: Final = 20_000
_PAUSE_S: Final = 0.005


class Feed:
    """Reads rows ahead, at most ``MAX_AHEAD`` of them. For one reader; what reading raises, ``take`` raises."""

    def __init__(self, rows: Iterable[Line | RowError]) -> None:
        self._rows = rows
        self._ahead: deque[Line | RowError] = deque()
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._closed = threading.Event()
        # a daemon: an interrupted command does not wait for the next line of a terminal
        self._thread = threading.Thread(target=self._read, name="read-rows", daemon=True)
        self._thread.start()

    def take(self, at_most: int) -> list[Line | RowError] | None:
        """Return rows that are there, an empty list where none are yet, None behind the last one."""
        ended = self._ended.is_set()  # asked first: what was read before the end is there afterwards
        taken = [self._ahead.popleft() for _ in range(min(at_most, len(self._ahead)))]
        if taken or not ended:
            return taken
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Stop reading ahead."""
        self._closed.set()

    def _read(self) -> None:
        try:
            for row in self._rows:
                self._ahead.append(row)
                while len(self._ahead) >= MAX_AHEAD and not self._closed.is_set():
                    time.sleep(_PAUSE_S)
                if self._closed.is_set():
                    return
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
