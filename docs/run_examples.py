"""Run what the tutorial and the page on the phantom show, in a new folder.

That is every ``$`` line of a console block and every ``>>>`` line.

Console blocks must exit with 0, Python blocks must print what is printed below them. ``python run_examples.py``
runs both, or the pages that are named.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGES = [Path(__file__).with_name(name) for name in ("tutorial.md", "phantom.md")]
_BLOCK = re.compile(r"^```(console|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> int:
    """Run the blocks of one page in order; how many failed."""
    text = page.read_text(encoding="utf-8")
    globs: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    failed = 0
    for block in _BLOCK.finditer(text):
        kind, body = block.groups()
        line = text.count("\n", 0, block.start())
        if kind == "pycon":
            test = doctest.DocTestParser().get_doctest(body, globs, page.name, str(page), line)
            failed += runner.run(test, clear_globs=False).failed
            globs = test.globs
            continue
        for command in re.findall(r"^\$ (.*)$", body, re.MULTILINE):
            print(f"$ {command}", flush=True)
            failed += subprocess.run(command, shell=True, check=False).returncode != 0
    return failed


def main() -> int:
    """Run all pages; 1 if anything failed."""
    pages = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    # The commands of this very environment, wherever it was called from.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    failed = 0
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            failed += run_page(page.resolve())
            os.chdir(page.parent)
    print(f"{len(pages)} page(s), {failed} failed example(s)")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
