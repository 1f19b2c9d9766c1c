"""Other programs that register a lung, for comparison and for users who trust them.

Each takes one lung of both scans and says where the fixed one's voxels went; what comes before (masks, the
working grid, the start from the lungs' extents) and after (continuation beyond the lung, mending of folds, the
Jacobian, quality) is the same for all, so that they can be compared. They come with ``pip install
'lungvq[bench]'``.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numba
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lungvq.errors import LungvqError, UsageError
from lungvq.register.field import Array, affine_field
from lungvq.register.initialise import moments_map
from lungvq.volume import Grid

__all__ = ["BACKENDS", "Backend", "OneLung", "affine", "backend_named", "elastix", "greedy"]


class OneLung(Protocol):
    """One lung of one scan on an isotropic grid along the body axes.

    `hu` is constant outside the lung; `share` (same shape) is how much of each voxel is lung.
    """

    @property
    def hu(self) -> Array: ...
    @property
    def share(self) -> Array: ...
    @property
    def grid(self) -> Grid: ...


Backend = Callable[[OneLung, OneLung], Array]
"""Fixed and moving lung, on grids of the same spacing, to motion (3, K, J, I) in mm along (k, j, i) on the grid
of the fixed one; only what lies in the lung counts."""


def affine(fixed: OneLung, moving: OneLung) -> Array:
    """The extents alone, without looking inside: what any registration has to beat."""
    return _start(fixed, moving).motion(np.zeros((3, *fixed.share.shape), np.float32))


def greedy(fixed: OneLung, moving: OneLung, *, smoothing: str = "3vox 1vox") -> Array:
    """picsl-greedy: local correlation in windows of 5 voxels, on three levels.

    Parameters
    ----------
    fixed, moving : OneLung
    smoothing : str, optional
        What greedy calls ``-s``: sigma of the update and of the whole field, with units ``vox`` or ``mm``.

    Raises
    ------
    LungvqError
        If it is not installed.

    Notes
    -----
    It starts from the lungs' extents: on phantoms that left it nearer to the truth than its own affine
    registration of the masks did (1.0 and 1.1 mm), and both masks did as well as or better than one or none.
    Steps get shorter from level to level: at greedy's own step of one voxel the field swings to and fro by some
    tenths of a mm until the iterations are over (0.69 and 0.63 mm). The seed makes its noise the same every time.
    """
    try:
        from picsl_greedy import Greedy3D
    except ImportError:
        raise _missing("greedy", "picsl-greedy") from None
    start = _start(fixed, moving)
    tool, log = Greedy3D(), io.StringIO()
    try:
        tool.execute(
            f"-threads {numba.get_num_threads()} -V 0 -i fixed moving -gm fixed_mask -mm moving_mask"
            f" -m NCC 2x2x2 -n 100x100x40 -e 1.0x0.5x0.25 -s {smoothing} -wp 0 -seed 1 -o warp",
            out=log,
            err=log,
            warp=None,
            **start.images(fixed, moving),
        )
    except RuntimeError as error:
        raise LungvqError(f"greedy could not register the lung: {error}") from None
    return start.motion(_components(tool["warp"]))


def elastix(fixed: OneLung, moving: OneLung, *, iterations: tuple[int, ...] = (1000, 1000, 2000)) -> Array:
    """itk-elastix with parameters made for lungs: affine, then B-splines of 10 and 5 mm.

    Correlation with 0.05 of bending energy, after Par0011 of the elastix model zoo (Staring et al., EMPIRE10,
    2010).

    Parameters
    ----------
    fixed, moving : OneLung
    iterations : tuple of up to 3 ints, optional
        Of each stage, at each of its five resolutions; those of Par0011 take the better part of an hour.

    Raises
    ------
    LungvqError
        If it is not installed, or has failed.

    Notes
    -----
    It runs in a process of its own, as it has been seen to end with a segmentation fault.
    """
    start = _start(fixed, moving)
    environment = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(numba.get_num_threads())}
    with tempfile.TemporaryDirectory() as folder:
        for name, image in start.images(fixed, moving).items():
            sitk.WriteImage(image, str(Path(folder) / f"{name}.mha"))
        numbers = [fixed.grid.spacing[0], *iterations]
        done = subprocess.run(
            [sys.executable, "-m", "lungvq.register._elastix", folder, *(str(n) for n in numbers)],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if "No module named 'itk'" in done.stderr:
            raise _missing("elastix", "itk-elastix")
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise LungvqError(
                f"elastix could not register the lung: exit code {done.returncode}, it said {said}"
            )
        return start.motion(_components(sitk.ReadImage(str(Path(folder) / "warp.mha"))))


BACKENDS: dict[str, Backend] = {"affine": affine, "greedy": greedy, "elastix": elastix}


def backend_named(name: str) -> Backend:
    """The function of `BACKENDS` with this name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in BACKENDS:
        raise UsageError(f"there is no registration {name!r}: choose lungvq, {', '.join(BACKENDS)}")
    return BACKENDS[name]


class _Start:
    """The extents of two lungs brought together, told to another program by where the moving image lies.

    Parameters
    ----------
    scale, shift : ndarray, shape (3,)
        Index x of the fixed lung starts at ``scale * x + shift`` in the moving one.
    fixed, moving : Grid
    """

    def __init__(self, scale: NDArray, shift: NDArray, fixed: Grid, moving: Grid) -> None:
        self.scale, self.shift, self.fixed, self.moving = scale, shift, fixed, moving

    def images(self, fixed: OneLung, moving: OneLung) -> dict[str, sitk.Image]:
        """Both lungs and their masks in voxels of the fixed one, zero outside the lung."""
        one = np.ones(3)
        found = {}
        for name, lung, spacing, origin in (
            ("fixed", fixed, one, 0 * one),
            ("moving", moving, 1 / self.scale, -self.shift / self.scale),
        ):
            outside = lung.hu.ravel()[0]
            for key, array in ((name, lung.hu - outside), (f"{name}_mask", lung.share > 0.5)):
                image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
                image.SetSpacing(spacing[::-1].tolist())
                image.SetOrigin(origin[::-1].tolist())
                found[key] = image
        return found

    def motion(self, field: Array) -> Array:
        """Motion in mm from a field (3, K, J, I) in voxels of the fixed lung, found on those images."""
        h = self.fixed.spacing[0]
        offset = (self.moving.world((0, 0, 0)) - self.fixed.world((0, 0, 0)))[::-1]
        start = affine_field(h * self.shift + offset, h * np.diag(self.scale - 1), field.shape[1:])
        return start + (h * self.scale).astype(np.float32)[:, None, None, None] * field


def _start(fixed: OneLung, moving: OneLung) -> _Start:
    return _Start(*moments_map(fixed.share, moving.share), fixed.grid, moving.grid)


def _components(warp: sitk.Image) -> Array:
    """Vectors (x, y, z) of an image as an array (3, K, J, I) along (k, j, i)."""
    return np.moveaxis(sitk.GetArrayViewFromImage(warp), -1, 0)[::-1].astype(np.float32)


def _missing(name: str, package: str) -> LungvqError:
    return LungvqError(
        f"the registration {name!r} needs {package}, which is not installed: pip install {package}, or"
        " pip install 'lungvq[bench]'"
    )
