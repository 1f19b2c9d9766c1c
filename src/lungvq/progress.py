"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

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
