"""The folder a run leaves behind: complete or not a result at all.

Everything is first written into ``.lungvq-partial`` inside the output folder. Only when all of it is there
are the pieces moved up, and ``run.json``, which alone makes the folder a result, comes last by atomic rename.
A run that is killed at any moment leaves either the previous result untouched or a folder without
``run.json`` that the next run recognises by ``.lungvq-partial`` and clears. While a run goes on, the system keeps
a lock on the folder, so that no other takes it for killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from lungvq.errors import InputError, OutputError, UsageError
from lungvq.io import open_atomic, sha256_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["MANIFEST", "SCHEMA", "RunFolder", "open_run", "verify"]

MANIFEST = "run.json"
SCHEMA = "lungvq.run/1"
_PARTIAL = ".lungvq-partial"
_OWN = (
    "report.html",
    "report.pdf",
    "metrics.csv",
    "maps",
    "labels",
    "registration",
    "dicom",
    "figures",
)


@dataclass(frozen=True)
class RunFolder:
    """An output folder that a run is writing to.

    Parameters
    ----------
    path : Path
        The output folder.
    ours : bool
        Whether this run made it.
    """

    path: Path
    ours: bool = False
    _lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False, compare=False)

    @classmethod
    def claim(cls, path: Path) -> RunFolder:
        """Make the folder if need be, and keep others from writing to it until this run finished or discards it.

        The operating system lets go of it when a run is killed.

        Raises
        ------
        UsageError
            If another run is writing to it.
        OutputError
            If it cannot be made.
        """
        folder = cls(path, ours=not path.exists())
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY) if fcntl is not None else None
        except OSError as error:
            raise OutputError(f"cannot write to {path}: {error.strerror or error}") from error
        if handle is not None:
            folder._lock.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                folder._lock.close()
                raise UsageError(
                    f"another run is writing to {path}; wait for it, or choose another folder"
                ) from None
            except OSError:  # some network drives know no locks
                pass
            else:  # said, as processes forked meanwhile have the handle too
                folder._lock.callback(fcntl.flock, handle, fcntl.LOCK_UN)
        return folder

    @property
    def stage(self) -> Path:
        """Where the files of the run are written until all of them are there."""
        return self.path / _PARTIAL

    def finish(self, record: dict[str, Any]) -> None:
        """Move the files into place and write the manifest, which lists them with their SHA-256.

        Parameters
        ----------
        record : dict
            Plain values for ``run.json``; ``schema``, ``files`` and ``seal`` are added.
        """
        files = {
            path.relative_to(self.stage).as_posix(): {
                "sha256": sha256_of([path]),
                "bytes": path.stat().st_size,
            }
            for path in sorted(self.stage.rglob("*"))
            if path.is_file()
        }
        whole = json.loads(json.dumps({"schema": SCHEMA, **record, "files": files}, allow_nan=False))
        text = json.dumps({**whole, "seal": _seal(whole)}, indent=2) + "\n"
        with open_atomic(self.stage / MANIFEST) as stream:
            stream.write(text.encode())
        (self.path / MANIFEST).unlink(missing_ok=True)  # from here on the old result is none
        try:
            for name in _OWN:
                _remove(self.path / name)
                if (self.stage / name).exists():
                    (self.stage / name).replace(self.path / name)
            (self.stage / MANIFEST).replace(self.path / MANIFEST)
        except BaseException:
            for name in _OWN:  # half a result is none
                _remove(self.path / name)
            raise
        _remove(self.stage)
        self._lock.close()

    def discard(self) -> None:
        """Take away what this run wrote; a result that was there before stays as it was."""
        _remove(self.stage)
        self.leave()

    def leave(self) -> None:
        """Let go of the folder as it is; one that this run made goes too if it is empty."""
        if self.ours:
            with contextlib.suppress(OSError):  # something came to lie in it
                self.path.rmdir()
        self._lock.close()


def open_run(path: Path, key: str, *, force: bool = False) -> RunFolder | None:
    """Make an output folder ready, or find that its result is already there.

    Parameters
    ----------
    path : Path
        The output folder; made if it does not exist.
    key : str
        Identifies inputs, parameters and version.
    force : bool
        Replace a result that is there.

    Returns
    -------
    RunFolder or None
        None: the folder already holds the finished result for this key, and nothing is to be done.

    Raises
    ------
    UsageError
        If the folder holds another result or files that are not ours.
    OutputError
        If it cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; give a folder for the output")
    folder = RunFolder.claim(path)
    try:
        ready = _made_ready(folder, key, force=force)
    except BaseException:
        folder.leave()
        raise
    if not ready:
        folder.leave()
    return folder if ready else None


def _made_ready(folder: RunFolder, key: str, *, force: bool) -> bool:
    """Whether a folder was made ready for a run; not where it holds its result."""
    path = folder.path
    manifest = _manifest_of(path)
    if manifest is not None and not force:
        if manifest.get("key") == key and not _differences(path, manifest):
            _remove(folder.stage)
            return False
        raise UsageError(
            f"{path} already holds a result of other inputs, settings or version, or one that was changed;"
            " choose another folder, or add --force to replace it"
        )
    if manifest is None and path.exists() and not folder.stage.exists() and any(path.iterdir()):
        raise UsageError(
            f"{path} is not empty and holds no result of lungvq, so nothing was written there;"
            " choose an empty or new folder"
        )
    if manifest is None and folder.stage.exists():  # a run was killed here: what it left is no result
        for name in (MANIFEST, *_OWN):
            _remove(path / name)
    _make_stage(folder)
    return True


@contextlib.contextmanager
def staged(path: Path, names: tuple[str, ...], *, force: bool = False) -> Iterator[Path]:
    """A folder to write `names` into that move to `path` together when all of it went well.

    Raises
    ------
    UsageError
        If one of them is already there, without `force`.
    OutputError
        If the folder cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; give a folder for the output")
    there = [name for name in names if (path / name).exists()]
    if there and not force:
        raise UsageError(f"{path} already holds {', '.join(there)}; choose another folder, or add --force")
    folder = RunFolder.claim(path)
    try:
        _make_stage(folder)
        yield folder.stage
        for name in names:
            _remove(path / name)
            (folder.stage / name).replace(path / name)
    finally:
        folder.discard()


def verify(path: Path) -> list[str]:
    """Compare the files of a finished run with its manifest.

    Returns
    -------
    list of str
        What differs, one sentence each; empty if all is as it was written.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    manifest = _manifest_of(path)
    if manifest is None:
        raise InputError(f"{path} holds no {MANIFEST} that can be read, so it is not a finished result")
    return _differences(path, manifest)


def _make_stage(folder: RunFolder) -> None:
    try:
        _remove(folder.stage)
        folder.stage.mkdir(parents=True)
        probe = folder.stage / "probe"
        probe.write_bytes(b"lungvq")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove(folder.stage)
        raise OutputError(f"cannot write to {folder.path}: {error.strerror or error}") from error


def _differences(path: Path, manifest: dict[str, Any]) -> list[str]:
    problems = []
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        return [f"{MANIFEST} lists no files"]
    if manifest.get("seal") not in (None, _seal(manifest)):
        problems.append(f"{MANIFEST} is not as it was written")
    for name, facts in listed.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != facts["bytes"] or sha256_of([file]) != facts["sha256"]:
            problems.append(f"{name} is not as it was written")
    present = {
        file.relative_to(path).as_posix()
        for own in _OWN
        for file in ([path / own] if (path / own).is_file() else (path / own).rglob("*"))
        if file.is_file()
    }
    problems += [f"{name} is not part of this result" for name in sorted(present - set(listed))]
    return problems


def _seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of all that a manifest says, but for its seal: tells a slip of the hand, not a forger."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _manifest_of(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("schema") == SCHEMA else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Room left on the disk that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(os.fspath(path)).free
