"""Processes with limited memory and time in which untrusted files are taken apart.

A hostile or damaged file can ask a parser for gigabytes, keep it busy for ever or crash it. So parsing and
decoding happen in `lungvq.io.child`, one process for each core; here they are started, fed, watched and
ended. They are plain subprocesses talking through pipes: nothing is forked, pickled or imported from
``__main__``, so it does not matter what the caller runs or which threads it has.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lungvq.errors import ResourceError

__all__ = ["LIMITS", "Limits", "each"]


@dataclass
class Limits:
    """What taking one file apart may cost; on Windows only `silent_seconds` is kept.

    Parameters
    ----------
    memory : int
        Bytes of address space of a process, all of it: libraries too.
    seconds : int
        Of processor time, for one file or one picture.
    silent_seconds : float
        Without an answer, for a file on a disk that hangs.
    """

    memory: int = 2 << 30
    seconds: int = 20
    silent_seconds: float = 120.0


LIMITS = Limits()

_MAX_PROCESSES = 4
_MAX_LINE = 256 << 20  # an answer about a file of 5000 frames
_AT_A_TIME = 16
_KEPT_SECONDS = 10.0
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


# Modules of the package are imported by name, but not what its __init__ files would bring with them: the
# child needs few libraries and shall start at once.
_START = """
import json, sys, types
for name, path in json.loads(sys.argv[1]).items():
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [path]
from lungvq.io.child import main
main(json.loads(sys.argv[2]))
"""
_HERE = Path(__file__).parent
_PACKAGES = json.dumps({"lungvq": str(_HERE.parent), "lungvq.io": str(_HERE)})


class Process:
    """One child, which answers one request after another."""

    def __init__(self, settings: dict[str, Any]) -> None:
        one_thread = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
        )
        try:
            # -P: the working directory is no place to import from.
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, _PACKAGES, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **one_thread},
            )
        except OSError as error:
            raise ResourceError(
                f"no process to read DICOM files in can be started ({error.strerror})"
            ) from None
        assert self._popen.stdin
        assert self._popen.stdout
        self._to, self._from = self._popen.stdin, self._popen.stdout
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):  # as much is not allowed everywhere
                fcntl.fcntl(self._from, _F_SETPIPE_SZ, _PIPE_BYTES)
        self.settings = settings
        self.heard = time.monotonic()
        self._greeted = self._silenced = False

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def ask(self, op: str, items: Sequence[Any]) -> None:
        """Send a request; `answer` and `fill` take what comes back."""
        self.heard = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died; `answer` will tell
            self._to.write(json.dumps({"op": op, "items": items}).encode() + b"\n")
            self._to.flush()
        if not self._greeted:
            if self.answer() is None:
                code = self._popen.wait()
                raise ResourceError(
                    f"the process to read DICOM files in does not start (exit code {code}); lungvq doctor checks"
                    " the installation"
                )
            self._greeted = True

    def answer(self) -> dict[str, Any] | None:
        """The next answer, None where the process died instead."""
        line = self._from.readline(_MAX_LINE)
        self.heard = time.monotonic()
        return json.loads(line) if line.endswith(b"\n") else None

    def fill(self, target: memoryview) -> bool:
        """Raw bytes that follow an answer; False where they do not come."""
        done = 0
        while done < len(target):
            count = self._from.readinto(target[done:])  # type: ignore[attr-defined]
            if not count:
                return False
            done += count
        self.heard = time.monotonic()
        return True

    def silence(self) -> None:
        """End it because it does not answer; called by another thread."""
        self._silenced = True
        self._popen.kill()

    def obituary(self) -> tuple[str, bool]:
        """Why it died, and whether of a limit."""
        self.close()
        code = self._popen.returncode
        if self._silenced or code == -getattr(signal, "SIGXCPU", 0):
            return "takes longer than a file may take", True
        if code == -getattr(signal, "SIGKILL", 0):
            return "needs more memory than there is", True
        return "crashes its decoder", False

    def close(self) -> None:
        """End it and forget it."""
        self._popen.kill()
        with contextlib.suppress(OSError):
            self._to.close()
        self._from.close()
        self._popen.wait()


class _Idle:
    """Processes kept a while for the next request, because starting one takes a third of a second."""

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def take(self) -> Process:
        """One with the present limits, a new one if need be."""
        settings = asdict(LIMITS)
        with self._lock:
            for process in self._processes:
                if process.settings == settings and process.alive:
                    self._processes.remove(process)
                    return process
        return Process(settings)

    def give_back(self, process: Process) -> None:
        """Keep one for the next request."""
        with self._lock:
            self._processes.append(process)
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(_KEPT_SECONDS, self.close)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """End all that wait."""
        with self._lock:
            while self._processes:
                self._processes.pop().close()


_idle = _Idle()


def _forget_the_parents() -> None:
    """A forked process must not talk to the children of its parent."""
    global _idle
    _idle = _Idle()


def _end_the_idle() -> None:
    _idle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents)
atexit.register(_end_the_idle)


def each(
    op: str,
    items: Sequence[Any],
    *,
    into: Callable[[int], memoryview] | None = None,
) -> list[dict[str, Any]]:
    """Ask for many things, a few processes side by side.

    Parameters
    ----------
    op : {"headers", "pixels"}
    items : sequence
        As `lungvq.io.child` wants them; plain data.
    into : function of the item's number, optional
        Where raw bytes go; their number must be right.

    Returns
    -------
    answers : list of dict
        One for each item, in order. Where an item ended its process: ``refused``, why, and ``limit``,
        whether it was of too much time or memory.

    Raises
    ------
    ResourceError
        If no process starts.
    """
    answers: list[dict[str, Any]] = [{} for _ in items]
    todo = deque(range(0, len(items), _AT_A_TIME))
    busy: dict[int, Process] = {}

    def work(slot: int) -> None:
        try:
            while todo:
                start = todo.popleft()
                left = deque(range(start, min(start + _AT_A_TIME, len(items))))
                while left:
                    if slot not in busy:
                        busy[slot] = _idle.take()
                    if not _exchange(busy[slot], op, items, left, answers, into):
                        reason, limit = busy.pop(slot).obituary()
                        answers[left.popleft()] = {"refused": reason, "limit": limit}
        except IndexError:  # another thread took the last ones
            pass
        except BaseException:
            if slot in busy:
                busy.pop(slot).close()
            raise
        if slot in busy:
            _idle.give_back(busy.pop(slot))

    count = min(_MAX_PROCESSES, os.cpu_count() or 1, len(todo))
    if not count:
        return answers
    with ThreadPoolExecutor(count) as pool:
        try:
            waiting = {pool.submit(work, slot) for slot in range(count)}
            while waiting:
                done, waiting = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                for process in list(busy.values()):
                    if time.monotonic() - process.heard > LIMITS.silent_seconds:
                        process.silence()
        except BaseException:
            todo.clear()
            for process in list(busy.values()):
                process.silence()
            raise
    return answers


def _exchange(
    process: Process,
    op: str,
    items: Sequence[Any],
    left: deque[int],
    answers: list[dict[str, Any]],
    into: Callable[[int], memoryview] | None,
) -> bool:
    """Ask for what is left and take the answers; False where the process died over the first one left."""
    process.ask(op, [items[n] for n in left])
    while left:
        answer = process.answer()
        if answer is None:
            return False
        if "bytes" in answer and into is not None:
            target = into(left[0])
            if answer["bytes"] != len(target) or not process.fill(target):
                return False
        answers[left.popleft()] = answer
    return True
