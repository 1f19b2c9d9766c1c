"""pydicom without its downloader of example files: to import that, where `requests` is installed, opens a socket."""

from __future__ import annotations

import sys

_IMPORTED_BEFORE = "requests" in sys.modules
if not _IMPORTED_BEFORE:
    sys.modules["requests"] = None  # type: ignore[assignment]
try:
    import pydicom  # noqa: F401
finally:
    if not _IMPORTED_BEFORE:
        del sys.modules["requests"]  # whoever wants it may still import it
