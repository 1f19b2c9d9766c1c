"""Everything that can go wrong on purpose, and the exit code each becomes.

::

    LungvqError                 1
    ├── UsageError              2   the command line contradicts itself
    ├── InputError              3   this input cannot be used
    │   ├── GeometryError       3   … because of where its voxels lie
    │   └── PairError           3   … because the two scans are not a breathing pair
    ├── StrictQcError           5   finished, but QC failed under ``--strict``
    ├── ResourceError           6   out of memory, time or disk
    │   └── OutputError         6   the result cannot be written
    └── NetworkError            7   the other side does not answer, or refuses

A message is one sentence that says what is wrong, where, and what to do; it names both sides
("expected ..., got ...") where there are two.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "GeometryError",
    "InputError",
    "LungvqError",
    "NetworkError",
    "OutputError",
    "PairError",
    "ResourceError",
    "StrictQcError",
    "UsageError",
]


class LungvqError(Exception):
    """Base of all errors that are reported as one sentence instead of a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(LungvqError):
    """The command line or the call contradicts itself."""

    exit_code = 2


class InputError(LungvqError):
    """This input cannot be used."""

    exit_code = 3


class GeometryError(InputError, ValueError):
    """Voxels do not lie where the operation needs them."""


class PairError(InputError):
    """The two scans do not make a breathing pair."""


class StrictQcError(LungvqError):
    """A QC check failed and the caller asked for that to be an error."""

    exit_code = 5


class ResourceError(LungvqError):
    """Not enough memory, time or disk."""

    exit_code = 6


class OutputError(ResourceError, OSError):
    """The result cannot be written where it was asked for."""


class NetworkError(LungvqError):
    """The other side of a network connection does not answer, or refuses."""

    exit_code = 7
