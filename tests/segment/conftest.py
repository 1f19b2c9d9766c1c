"""Shared by the tests of the segmentation: the chest of ellipsoids, segmented once a setting."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Tests are imported by path (importlib mode): make the analytic chest importable by its name.
_spec = importlib.util.spec_from_file_location(
    "analytic_chest", Path(__file__).with_name("analytic_chest.py")
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["analytic_chest"] = _module
_spec.loader.exec_module(_module)
