"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told at the start of each stage what it is, and within it how far it got."""

    def stage(self, name: str) -> None:
        """A new stage starts: ``"registering the right lung"``."""

    def fraction(self, done: float) -> None:
        """The share of the current stage that is done, 0 to 1."""

    def note(self, text: str) -> None:
        """Something the user should read before going on."""


class Silent:
    """Listens to nothing."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def fraction(self, done: float) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


SILENT = Silent()


class Clock:
    """Tells the listener which stage starts and remembers how long each took."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        self._progress.stage(name)
        start = time.monotonic()
        yield
        self.seconds.append((name, time.monotonic() - start))
