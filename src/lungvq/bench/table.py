"""Tables for the terminal and the docs: on which phantoms, and with what they were made."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import lungvq
from lungvq.errors import UsageError
from lungvq.phantom import CASES

__all__ = ["cases_named", "made_with", "table", "voxel_size"]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, columns padded so that it reads in a terminal too."""
    cells = [[str(c) for c in row] for row in (head, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def cases_named(cases: str) -> list[str]:
    """Names of phantoms, from a list separated by commas or ``"all"``.

    Raises
    ------
    UsageError
        If there is no such case.
    """
    names = list(CASES) if cases == "all" else cases.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise UsageError(f"no phantom case {', '.join(unknown)}; expected of {', '.join(CASES)}")
    return names


def voxel_size(text: str) -> float:
    """A voxel size in mm.

    Raises
    ------
    UsageError
        If it is not one of 0.7 to 4 mm.
    """
    try:
        mm = float(text)
    except ValueError:
        mm = 0.0
    if not 0.7 <= mm <= 4.0:
        raise UsageError(f"expected a voxel size of 0.7 to 4 mm, got {text!r}")
    return mm


def made_with(command: str) -> str:
    """One line that says which command, version and commit made a table."""
    return f"`{command}`, lungvq {lungvq.__version__}{_commit()}, Python {platform.python_version()}"


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f", commit {found.stdout.strip()}"
