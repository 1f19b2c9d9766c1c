"""The decision table of a study on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lungvq.findings import Finding
    from lungvq.study import Entry

_STYLES = {"inspiration": "bold green", "expiration": "bold cyan", "set aside": "dim"}
_WIDTH_ELSEWHERE = 160


def show_table(entries: Iterable[Entry], findings: Iterable[Finding], *, on_stderr: bool = False) -> None:
    """Print every series with its role, score and reasons, then warnings; plain text where no terminal listens."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    stream = sys.stderr if on_stderr else sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_ELSEWHERE, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, options in (
        ("Series", {"max_width": 24, "overflow": "fold"}),
        ("Name", {"max_width": 34}),
        ("Role", {"no_wrap": True}),
        ("Score", {"justify": "right"}),
        ("Lungs, L", {"justify": "right"}),
        ("Images", {"max_width": 24}),
        ("Why", {"ratio": 1}),
    ):
        table.add_column(title, **options)
    for entry in entries:
        cells = (
            entry.key,
            "" if entry.name == entry.key else entry.name,
            entry.role,
            "" if entry.score is None else f"{entry.score:g}",
            "" if entry.lung_ml is None else f"{entry.lung_ml / 1000:.2f}",
            f"{entry.slices} slices, {entry.geometry}" if entry.series.grid else f"{entry.slices} slices",
            "; ".join(entry.reasons),
        )
        table.add_row(*map(escape, cells), style=_STYLES.get(entry.role))
    console.print(table)
    for finding in findings:
        if finding.severity != "PASS":
            console.print(f"{finding.severity}: {finding.message} {finding.advice}".strip(), markup=False)
