"""Which software made a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import lungvq

__all__ = ["versions"]

_PACKAGES = ("numpy", "scipy", "numba", "SimpleITK", "pydicom", "scikit-image", "pandas", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of lungvq, Python, the platform and the libraries that numbers depend on."""
    found = {
        "lungvq": lungvq.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
