"""What lies in a zip file, unpacked where nobody else can read it, and never more than can be afforded.

Members are written under numbers, not under the names they bring: no name can lead out of the folder, and
none can carry a patient's. Only what looks like DICOM is written at all.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lungvq.errors import InputError, ResourceError
from lungvq.io.header import looks_like_dicom, printable

__all__ = ["Unpacked", "is_archive", "unpack"]

MAX_MEMBERS = 200_000
MAX_BYTES = 32 << 30
MAX_RATIO, RATIO_FREE_BYTES = 100, 256 << 20  # CT packs to a third, seldom to a tenth
MAX_DEPTH = 3
_BLOCK = 1 << 20
_HEAD = 1024


@dataclass
class Unpacked:
    """DICOM files out of archives; they are there as long as this object is.

    Parameters
    ----------
    files : dict of Path to Path
        From each file to what to call it: the archive and the name within it.
    count : int
        Files written so far, archives within archives too.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    count: int = 0
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="lungvq-")
    )

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(self._folder.name)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, whatever its name; also one that is cut short."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\3\4", b"PK\5\6")


def unpack(path: Path, into: Unpacked) -> None:
    """Add the DICOM files of an archive, and of archives within it.

    Raises
    ------
    InputError
        If it is damaged or locked, or would unpack beyond measure.
    ResourceError
        If the disk is too small.
    """
    _unpack(path, path, into, _Budget(path), depth=1)


class _Budget:
    """What one archive, with all in it, may still unpack to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = 0
        self.spent = 0
        self.most = min(MAX_BYTES, MAX_RATIO * path.stat().st_size + RATIO_FREE_BYTES)

    def count(self) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise InputError(
                f"{self.path}: more than {MAX_MEMBERS} files are packed in it; unpack what is needed"
            )

    def spend(self, size: int) -> None:
        self.spent += size
        if self.spent > self.most:
            raise InputError(
                f"{self.path}: it unpacks to more than {self.most >> 20} MB, which no CT does; if it is meant so,"
                " unpack it and give the folder"
            )


def _unpack(source: Path | BinaryIO, shown: Path, into: Unpacked, budget: _Budget, depth: int) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                budget.count()
                if member.is_dir():
                    continue
                if member.flag_bits & 1:
                    raise InputError(
                        f"{budget.path}: it is locked with a password; unpack it and give the folder"
                    )
                _member(archive, member, shown / _safe(member.filename), into, budget, depth)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        told = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{budget.path}: it cannot be unpacked ({told}); pack it again") from None
    except OSError as error:
        raise ResourceError(
            f"{budget.path}: it cannot be unpacked to {into.folder} ({error.strerror})"
        ) from None


def _member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    shown: Path,
    into: Unpacked,
    budget: _Budget,
    depth: int,
) -> None:
    with archive.open(member) as stream:
        head = stream.read(_HEAD)
        budget.spend(len(head))
        nested = head[:4] == b"PK\3\4"
        if not nested and not looks_like_dicom(head):
            return
        if nested and depth == MAX_DEPTH:
            raise InputError(
                f"{budget.path}: archives are nested more than {MAX_DEPTH} deep in it; unpack it"
            )
        if shutil.disk_usage(into.folder).free < member.file_size + _BLOCK:
            raise ResourceError(f"{budget.path}: the disk of {into.folder} is too small to unpack it")
        into.count += 1
        file = into.folder / f"{into.count:06d}"
        with file.open("wb") as target:
            while head:
                target.write(head)
                head = stream.read(_BLOCK)
                budget.spend(len(head))
    if nested:
        _unpack(file, shown, into, budget, depth + 1)
        file.unlink()
    else:
        into.files[file] = shown


def _safe(name: str) -> PurePosixPath:
    """A member's name for messages: what could climb, and what does not print, left out."""
    parts = PurePosixPath(printable(name, "?")).parts
    return PurePosixPath(*(part for part in parts if part not in ("/", "..")))
