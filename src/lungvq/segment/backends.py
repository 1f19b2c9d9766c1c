"""Other programs that find lungs and lobes by deep learning, for those who can have their weights.

They come with ``pip install 'lungvq[ai]'`` and are imported when they are used. Nothing is downloaded on the way:
weights are fetched by ``lungvq models fetch NAME``, or copied from a machine that has them, and compared with what
was fetched each time they are used. Airways, vessels and all checks stay lungvq's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io as text_io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from lungvq import io
from lungvq.anatomy import LEFT, LOBES, LUNG_OF_LOBE_LABEL, RIGHT
from lungvq.errors import InputError, LungvqError, NetworkError, UsageError
from lungvq.volume import Volume

__all__ = ["BACKENDS", "BUILT_IN", "Backend", "Weights", "backend_named", "fetch", "models_folder", "state"]

BUILT_IN = "lungvq"
"""The name of our own segmentation, which needs no weights."""

_RECORD = "models.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Weights:
    """One file, or one folder unpacked from a zip, of trained parameters.

    Parameters
    ----------
    place : str
        Below the folder of models.
    url : str
        Where its publisher has it.
    sha256 : str
        First digits of its SHA-256 as its publisher gives them; empty where it gives none: what was fetched
        first is then what is expected later.
    """

    place: str
    url: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """Name of the file to download, or to copy from elsewhere."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Backend:
    """One program behind the common interface.

    Parameters
    ----------
    name, module : str
        As a user and as Python calls it.
    licence : str
    weights : tuple of Weights
    lungs, lobes : callable
        A scan (canonical order, HU) and the folder of models to labels on its grid: 1 left and 2 right, or
        those of :mod:`lungvq.anatomy`. `checked` has seen to program and weights before.
    """

    name: str
    module: str
    licence: str
    weights: tuple[Weights, ...]
    lungs: Callable[[Volume, Path], Volume]
    lobes: Callable[[Volume, Path], Volume]

    def checked(self, models: Path) -> Backend:
        """Itself, once the program is found and the weights are what was fetched.

        Raises
        ------
        LungvqError
            If the program is not installed.
        InputError
            If weights are missing or have changed.
        """
        if importlib.util.find_spec(self.module) is None:
            raise LungvqError(
                f"{self.name} is not installed: pip install 'lungvq[ai]' brings it, or use --segmentation {BUILT_IN}"
            )
        record = _record(models)
        for weights in self.weights:
            path = models / weights.place
            if not path.exists():
                raise InputError(
                    f"{self.name} has no weights in {models}: fetch them by 'lungvq models fetch {self.name}', or"
                    f" copy {weights.file} from a machine that has it with --from"
                )
            if record.get(weights.place) != (found := _digest(path)):
                raise InputError(
                    f"{path} is not what was fetched: expected SHA-256 {record.get(weights.place, 'on record')}, got"
                    f" {found}; fetch it again by 'lungvq models fetch {self.name}'"
                )
        return self


def backend_named(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in BACKENDS:
        raise UsageError(f"no segmentation {name!r}; expected of {', '.join((BUILT_IN, *BACKENDS))}")
    return BACKENDS[name]


def models_folder(given: Path | None = None) -> Path:
    """Where weights are kept: as given, else ``$LUNGVQ_MODELS``, else ``~/.cache/lungvq/models``."""
    if given is not None:
        return given
    named = os.environ.get("LUNGVQ_MODELS")
    return Path(named) if named else Path.home() / ".cache" / "lungvq" / "models"


# -------------------------------------------------------------------------------------------------- weights


def fetch(
    backend: Backend,
    models: Path,
    *,
    source: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Bring the weights of a backend into the folder of models and write down what they are.

    Parameters
    ----------
    backend : Backend
    models : Path
    source : Path, optional
        A folder that holds the files as their publisher names them; without it they are downloaded.
    tell : callable, optional
        Given a line for each file.

    Raises
    ------
    InputError
        If a file is missing in `source`, or is not what its publisher or the record says.
    NetworkError
        If it cannot be downloaded.
    """
    models.mkdir(parents=True, exist_ok=True)
    for weights in backend.weights:
        tell(f"{weights.file}: {'from ' + str(source) if source else weights.url}")
        with tempfile.TemporaryDirectory(dir=models) as folder:
            file = Path(folder) / weights.file
            if source is None:
                _download(weights.url, file)
            elif (source / weights.file).is_file():
                shutil.copyfile(source / weights.file, file)
            else:
                raise InputError(f"{source} holds no {weights.file}; its publisher has it at {weights.url}")
            found = _digest(file)
            if not found.startswith(weights.sha256):
                raise InputError(
                    f"{weights.file} is damaged or another: expected a SHA-256 that begins with {weights.sha256},"
                    f" got {found}"
                )
            ready = _unpacked(file, Path(folder)) if file.suffix == ".zip" else file
            place = models / weights.place
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                shutil.rmtree(place)
            ready.replace(place)
        record = _record(models) | {weights.place: _digest(place)}
        (models / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        tell(f"{place}: SHA-256 {record[weights.place]}")


def state(backend: Backend, models: Path) -> str:
    """In words: whether the program and its weights are here."""
    program = "installed" if importlib.util.find_spec(backend.module) else "not installed (lungvq[ai])"
    there = sum((models / weights.place).exists() for weights in backend.weights)
    return f"{program}, {there} of {len(backend.weights)} files of weights in {models}"


def _download(url: str, file: Path) -> None:
    try:
        with urlopen(url, timeout=60) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out, _BLOCK)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise NetworkError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}") from None


def _unpacked(file: Path, folder: Path) -> Path:
    """The one folder in a zip, which may not reach out of it."""
    inside = folder / "unpacked"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(inside)  # members are kept within by zipfile itself
    found = list(inside.iterdir())
    if len(found) != 1 or not found[0].is_dir():
        raise InputError(f"{file.name} holds {len(found)} entries; expected one folder of weights")
    return found[0]


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files below a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = [f"{p.relative_to(path).as_posix()} {_digest(p)}" for p in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(models: Path) -> dict[str, str]:
    path = models / _RECORD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


# ------------------------------------------------------------------------------------------------- lungmask


_R231 = Weights(
    "lungmask/unet_r231-d5d2fc3d.pth",
    "https://github.com/JoHof/lungmask/releases/download/v0.0/unet_r231-d5d2fc3d.pth",
    "d5d2fc3d",
)
_LTRC = Weights(
    "lungmask/unet_ltrclobes-3a07043d.pth",
    "https://github.com/JoHof/lungmask/releases/download/v0.0/unet_ltrclobes-3a07043d.pth",
    "3a07043d",
)


def _lungmask_lungs(ct: Volume, models: Path) -> Volume:
    """R231, which takes in effusion and consolidation; it calls right 1 and left 2."""
    found = _lungmask(ct, modelname="R231", modelpath=str(models / _R231.place))
    return ct.like(np.select([found == 2, found == 1], [LEFT, RIGHT], 0).astype(np.uint8))


def _lungmask_lobes(ct: Volume, models: Path) -> Volume:
    """LTRCLobes with the gaps filled from R231; its numbers are ours."""
    found = _lungmask(
        ct,
        modelname="LTRCLobes",
        modelpath=str(models / _LTRC.place),
        fillmodel="R231",
        fillmodel_path=str(models / _R231.place),
    )
    return ct.like(np.where(found <= len(LOBES), found, 0).astype(np.uint8))


def _lungmask(ct: Volume, **settings: Any) -> np.ndarray:
    """An array in canonical order lies as lungmask wants it: rows to the back, columns to the left."""
    from lungmask import LMInferer

    with _quiet():
        return np.asarray(LMInferer(tqdm_disable=True, **settings).apply(np.ascontiguousarray(ct.array)))


# ----------------------------------------------------------------------------------------- TotalSegmentator


_RELEASE = "https://github.com/wasserth/TotalSegmentator/releases/download/v2.0.0-weights"
_RESULTS = "totalsegmentator/nnunet/results"
_PARTS = (
    "Dataset291_TotalSegmentator_part1_organs_1559subj",  # the lobes, 1.5 mm
    "Dataset298_TotalSegmentator_total_6mm_1559subj",  # to know where to look
)
_LOBE_CLASSES = {
    "lung_upper_lobe_left": "LUL",
    "lung_lower_lobe_left": "LLL",
    "lung_upper_lobe_right": "RUL",
    "lung_middle_lobe_right": "RML",
    "lung_lower_lobe_right": "RLL",
}


def _total_lobes(ct: Volume, models: Path) -> Volume:
    """The five lobes of the task ``total``."""
    home = models / "totalsegmentator"
    # It would report each use to its makers, and fetch the weights of all its parts, needed or not.
    settings = {"totalseg_id": "lungvq", "send_usage_stats": False, "prediction_counter": 0}
    settings["statistics_disclaimer_shown"] = True
    (home / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    paths = {"TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(models / _RESULTS)}
    with tempfile.TemporaryDirectory() as folder, _environment(paths), _quiet():
        from totalsegmentator import python_api
        from totalsegmentator.map_to_binary import class_map

        python_api.download_pretrained_weights = _never_download
        scan, labels = Path(folder) / "scan.nii.gz", Path(folder) / "labels.nii.gz"
        io.write(ct, scan)
        python_api.totalsegmentator(
            scan, labels, ml=True, task="total", roi_subset=list(_LOBE_CLASSES), quiet=True
        )
        found = io.read_labels(labels).reorient(ct.grid.codes)
    number = {name: label for label, name in class_map["total"].items()}
    lobes = np.zeros(found.shape, np.uint8)
    for theirs, ours in _LOBE_CLASSES.items():
        lobes[found.array == number[theirs]] = LOBES[ours]
    return ct.like(lobes)


def _never_download(task_id: object) -> None:
    """In place of TotalSegmentator's own: `Backend.checked` has seen that what is used is there."""


def _total_lungs(ct: Volume, models: Path) -> Volume:
    lobes = _total_lobes(ct, models)
    return lobes.like(np.array(LUNG_OF_LOBE_LABEL, np.uint8)[lobes.array])


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What they print would come between a command's own lines."""
    said = text_io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            yield
        except LungvqError:
            raise
        except Exception as error:
            last = (said.getvalue().strip().splitlines() or [""])[-1]
            raise LungvqError(
                f"the program chosen by --segmentation has failed: {error or type(error).__name__}"
                + (f" (it said: {last})" if last else "")
            ) from error


BACKENDS: dict[str, Backend] = {
    "lungmask": Backend(
        "lungmask", "lungmask", "Apache-2.0", (_R231, _LTRC), _lungmask_lungs, _lungmask_lobes
    ),
    "totalsegmentator": Backend(
        "totalsegmentator",
        "totalsegmentator",
        "Apache-2.0",
        tuple(Weights(f"{_RESULTS}/{part}", f"{_RELEASE}/{part}.zip") for part in _PARTS),
        _total_lungs,
        _total_lobes,
    ),
}
"""The programs by name."""
