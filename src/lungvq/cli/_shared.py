"""What every command shares: its errors, its progress and its common options."""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from lungvq.errors import LungvqError
from lungvq.progress import Progress

__all__ = [
    "LobeLabels",
    "Models",
    "Quiet",
    "Segmentation",
    "Threads",
    "Verbose",
    "listening",
    "one_sentence",
    "set_threads",
    "visible",
]

INTERNAL_ERROR, NO_RESOURCES, INTERRUPTED = 1, 6, 130
_RESOURCE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOMEM,
    errno.EFBIG,
}

Threads = Annotated[
    int | None, typer.Option(min=1, help="Number of threads; default all cores.", show_default=False)
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Say more: times of each stage, passed checks.")
]
LobeLabels = Annotated[
    str,
    typer.Option(
        help="Its numbers, such as 'LUL=1,LLL=2,RUL=3,RML=4,RLL=5', which is the default.", show_default=False
    ),
]
Segmentation = Annotated[
    str,
    typer.Option(
        help="Who finds lungs and lobes: 'lungvq', 'lungmask' or 'totalsegmentator' (both in lungvq[ai])."
    ),
]
Models = Annotated[
    Path | None, typer.Option(help="Folder with their weights; see 'lungvq models'.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say only errors and the last line.")]


# What a terminal would obey rather than show: it may come in with a file's name or a header's text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with control characters written out.

    Examples
    --------
    >>> visible("a\\x1b[2Jb")
    'a[U+001B][2Jb'
    """
    return _CONTROL.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def _terminate_as_interrupted() -> None:
    """SIGTERM, as batch systems send it, leaves as little behind as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


P = ParamSpec("P")
R = TypeVar("R")


def one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Turn known errors of a command into one sentence on stderr and their exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _terminate_as_interrupted()
        try:
            return command(*args, **kwargs)
        except LungvqError as error:
            code, sentence = error.exit_code, str(error)
        except KeyboardInterrupt:
            code, sentence = INTERRUPTED, "interrupted; nothing was left behind"
        except MemoryError:
            code, sentence = (
                NO_RESOURCES,
                "out of memory; close other programs, or resample the scans to fewer voxels",
            )
        except OSError as error:
            if error.errno not in _RESOURCE_ERRNOS:
                raise
            code, sentence = NO_RESOURCES, f"{error.strerror}: {error.filename or 'the output folder'}"
        except typer.Exit:
            raise
        except Exception:
            traceback.print_exc()
            code, sentence = (
                INTERNAL_ERROR,
                "this is a fault in lungvq; please report it with the lines above",
            )
        typer.echo(visible(f"lungvq: {sentence}"), err=True)
        raise typer.Exit(code)

    return guarded


class _Lines:
    """Plain lines on stderr, one per stage, for logs and pipes."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._start = self._stage_start = time.monotonic()
        self._last = ""

    def stage(self, name: str) -> None:
        now = time.monotonic()
        if self._verbose and self._last:
            typer.echo(visible(f"  {self._last}: {now - self._stage_start:.1f} s"), err=True)
        self._stage_start, self._last = now, name
        typer.echo(visible(f"[{now - self._start:5.1f} s] {name}"), err=True)

    def fraction(self, done: float) -> None:
        pass

    def note(self, text: str) -> None:
        typer.echo(visible(text), err=True)


class _Bar:
    """A live line on a terminal: the stage, a bar where its length is known, and the time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._rich.add_task("starting", total=None)
        self._rich.start()

    def stage(self, name: str) -> None:
        self._rich.update(self._task, description=visible(name), total=None, completed=0)

    def fraction(self, done: float) -> None:
        self._rich.update(self._task, total=1.0, completed=done)

    def note(self, text: str) -> None:
        self._rich.console.print(visible(text), markup=False, highlight=False, emoji=False)

    def close(self) -> None:
        self._rich.stop()


@contextmanager
def listening(*, verbose: bool = False, quiet: bool = False) -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere, nothing when quiet."""
    from lungvq.progress import SILENT

    if quiet:
        yield SILENT
    elif verbose or not sys.stderr.isatty():
        yield _Lines(verbose)
    else:
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.close()


def set_threads(threads: int | None) -> None:
    """Limit the threads of all compiled loops and of SimpleITK."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import numba
    import SimpleITK as sitk

    numba.set_num_threads(min(threads, numba.get_num_threads()))
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
