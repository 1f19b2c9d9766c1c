"""What a user's files, or another program, say of lungs and lobes, in place of lungvq's own segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lungvq import io
from lungvq.anatomy import LOBES
from lungvq.errors import InputError, UsageError
from lungvq.progress import SILENT, Progress
from lungvq.segment import Anatomy
from lungvq.segment._checks import check_lobes
from lungvq.segment.backends import BUILT_IN, backend_named, models_folder
from lungvq.segment.lobes import Lobes, find_lobes
from lungvq.segment.masks import check_grid, check_mask, lobes_from_labels, parse_lobe_labels
from lungvq.volume import CANONICAL, Grid, Volume

__all__ = ["Given", "Masks", "place_lobes"]


@dataclass(frozen=True, eq=False)
class Given:
    """What stands in for the segmentation's own, and where it comes from.

    Parameters
    ----------
    lungs_insp, lungs_exp : Volume or None
        Masks on the grids of the scans, in any axis order: see `lungs_from_mask`.
    lobes : Volume or None
        Label map on the grid of the inspiration.
    lobe_labels : dict of str to int
        Which number each lobe has in it.
    basis : dict of str to str
        For ``lungs_insp``, ``lungs_exp`` and ``lobes``, in words: ``the user's mask``, ``lungmask``; a name
        that is missing was found by lungvq itself.
    """

    lungs_insp: Volume | None = None
    lungs_exp: Volume | None = None
    lobes: Volume | None = None
    lobe_labels: Mapping[str, int] = field(default_factory=lambda: dict(LOBES))
    basis: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, str]:
        """Who found what, for ``run.json`` and the report."""
        return {name: self.basis.get(name, "lungvq") for name in ("lungs_insp", "lungs_exp", "lobes")}

    def check(self, insp: Grid, exp: Grid) -> None:
        """Refuse, before any work, a mask off the grid of its scan, without lungs, or with the right one as left.

        Raises
        ------
        GeometryError
        InputError
            See `check_mask`.
        """
        for name, what, scan, grid in (
            ("lungs_insp", "the lung mask given for the inspiration", "the inspiration", insp),
            ("lungs_exp", "the lung mask given for the expiration", "the expiration", exp),
            ("lobes", "the label map of the lobes", "the inspiration", insp),
        ):
            volume: Volume | None = getattr(self, name)
            if volume is not None:
                told = f"{what} ({self.told()[name]})"
                check_grid(told, volume.grid.reorient(CANONICAL), grid.reorient(CANONICAL), scan)
                if name != "lobes":
                    check_mask(told, volume.reorient(CANONICAL))


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What stands in for lungvq's own segmentation. A user's file goes before a program, and that before ours.

    Parameters
    ----------
    insp, exp : Path or None
        Files: lungs of the two scans, nonzero is lung, or 1 left and 2 right.
    lobes : Path or None
        File: label map of the lobes on the grid of the inspiration.
    lobe_labels : str
        Which number each lobe has in it, such as ``LUL=1,LLL=2,RUL=3,RML=4,RLL=5``; empty: these.
    segmentation : str
        Who finds what no file gives: ``lungvq``, or one of `lungvq.segment.backends.BACKENDS`.
    models : Path or None
        Where its weights are; see `lungvq.segment.backends.models_folder`.
    """

    insp: Path | None = None
    exp: Path | None = None
    lobes: Path | None = None
    lobe_labels: str = ""
    segmentation: str = BUILT_IN
    models: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """The files that were given, by what they hold."""
        named = {"lungs_insp": self.insp, "lungs_exp": self.exp, "lobes": self.lobes}
        return {name: path for name, path in named.items() if path is not None}

    def hashes(self) -> dict[str, str]:
        """What sets the result apart from one without; empty where nothing was given.

        Raises
        ------
        UsageError, InputError
            If something is named that is not there.
        """
        if missing := [str(path) for path in self.files.values() if not path.is_file()]:
            raise InputError(f"{' and '.join(missing)}: no such file; give a .nii(.gz), .mha or .nrrd file")
        found = {name: io.sha256_of(io.files_of(path)) for name, path in self.files.items()}
        if self.lobes is not None:
            found["lobe_labels"] = ",".join(f"{k}={v}" for k, v in self._numbers().items())
        elif self.lobe_labels:
            raise UsageError("--lobe-labels names the numbers of --lobes; none was given")
        if self.segmentation != BUILT_IN:
            found["segmentation"] = backend_named(self.segmentation).name
        return found

    def _numbers(self) -> dict[str, int]:
        return parse_lobe_labels(self.lobe_labels) if self.lobe_labels else dict(LOBES)

    def read(self, scans: Mapping[str, Volume], progress: Progress = SILENT) -> Given:
        """The files, and what the program finds of the rest.

        Parameters
        ----------
        scans : dict of str to Volume
            HU by breath-hold, ``insp`` and ``exp`` or one of them; lobes are those of the inspiration.
        progress : Progress, optional
        """
        known = {name: io.read_labels(path) for name, path in self.files.items()}
        basis = {name: f"the file {path.name}" for name, path in self.files.items()}
        wanted = {f"lungs_{breath}": scan for breath, scan in scans.items()}
        if "insp" in scans:
            wanted["lobes"] = scans["insp"]
        missing = [name for name in wanted if name not in known]
        if self.segmentation != BUILT_IN and missing:
            folder = models_folder(self.models)
            backend = backend_named(self.segmentation).checked(folder)
            for name in missing:
                progress.stage(f"finding {name.split('_')[0]} by {self.segmentation}")
                find = backend.lobes if name == "lobes" else backend.lungs
                known[name] = find(wanted[name].reorient(CANONICAL), folder)
                basis[name] = self.segmentation
        numbers = self._numbers() if self.lobes else dict(LOBES)
        return Given(**known, lobe_labels=numbers, basis=basis)


def place_lobes(ct: Volume, anatomy: Anatomy, given: Given) -> Lobes:
    """The lobes at inspiration: those given, else our own.

    Parameters
    ----------
    ct : Volume
        HU in canonical order; a part of the inspiration.
    anatomy : Anatomy
        On its grid.
    given : Given

    Returns
    -------
    Lobes
        Without fissures where the lobes were given.

    Raises
    ------
    InputError
        If what was given does not fit the lungs.
    """
    if given.lobes is None:
        lobes = find_lobes(ct, anatomy)
    else:
        part = given.lobes.reorient(CANONICAL).resample_labels(ct.grid)  # voxel on voxel
        found = lobes_from_labels(part, anatomy.lungs, given.lobe_labels, basis=given.told()["lobes"])
        lobes = Lobes(found[0], {}, found[1])
    return replace(lobes, findings=(*lobes.findings, check_lobes(lobes.labels)))
