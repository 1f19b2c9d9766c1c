"""The order of the files: what compiles everything begins, on one process, beside what needs no phantom on the other.

Both processes share the compiled code on disk. If both began with phantoms, each would compile the same loops.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FIRST = Path(__file__).parent / "cli" / "test_run_command.py"


@cache
def _turn(file: Path) -> int:
    if file == FIRST:
        return 0
    sources = (file, file.parent / "conftest.py") if file.name.startswith("test_") else (file,)
    return 1 + any("phantom" in source.read_text(encoding="utf-8") for source in sources if source.exists())


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _turn(item.path))
