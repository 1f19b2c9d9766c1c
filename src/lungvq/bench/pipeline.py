"""Time and memory of a whole run, from files to report, stage by stage."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk

from lungvq.bench.table import made_with, table
from lungvq.errors import UsageError
from lungvq.phantom import make_phantom
from lungvq.volume import Grid, Volume

__all__ = ["bench_pipeline"]

_FIELD_MM = (300.0, 358.0, 358.0)  # slices, rows, columns of a usual chest CT


def bench_pipeline(size: str) -> str:
    """Make a phantom pair of a given size and run the whole method on it twice: cold and warm.

    Parameters
    ----------
    size : str
        Columns x rows x slices, ``"512x512x300"``.

    Returns
    -------
    str
        Markdown. The peer is SimpleITK smoothing both scans with a 2 mm recursive Gaussian in the same run:
        compare ratios, not seconds, between machines.
    """
    columns, rows, slices = _parse(size)
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "phantom"
        spacing = [mm / n for mm, n in zip(_FIELD_MM, (slices, rows, columns), strict=True)]
        phantom = make_phantom("healthy", seed=0, spacing=spacing)
        shape = (slices, rows, columns)
        write_pair(_framed(phantom.insp, shape), _framed(phantom.exp, shape), scans)
        del phantom
        peer = _peer(scans)
        runs = [_run(scans, Path(folder) / name) for name in ("first", "second")]
    rows_ = [
        [stage, *(f"{run['timings_s'].get(stage, 0):.1f}" for run in runs)] for stage in runs[0]["timings_s"]
    ]
    rows_ += [
        ["whole command", *(f"{run['wall']:.1f}" for run in runs)],
        ["whole command, times the peer", *(f"{run['wall'] / peer:.1f}" for run in runs)],
        ["peak memory, GB", *(f"{run['peak_memory_mb'] / 1000:.2f}" for run in runs)],
    ]
    return "\n".join(
        [
            made_with(f"lungvq bench pipeline --size {size}"),
            "",
            table([f"stage (s), {size}", "first run", "second run"], rows_),
            "",
            f"Peer: SimpleITK recursive Gaussian, 2 mm, of both scans: {peer:.1f} s.",
        ]
    )


def write_pair(insp: Volume, exp: Volume, folder: Path) -> None:
    """Leave the two scans of a pair in a folder."""
    from lungvq import io

    folder.mkdir(parents=True)
    io.write(insp, folder / "insp.nii.gz")
    io.write(exp, folder / "exp.nii.gz")


def _parse(size: str) -> tuple[int, int, int]:
    try:
        columns, rows, slices = (int(n) for n in size.split("x"))
    except ValueError:
        raise UsageError(f"expected a size such as 512x512x300, got {size!r}") from None
    return columns, rows, slices


def _framed(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """Cut or pad a scan with air, about its middle, to exactly the size asked for."""
    affine = volume.affine.copy()
    start = [(have - want) // 2 for have, want in zip(volume.shape, shape, strict=True)]
    affine[:3, 3] = volume.grid.world(start)
    return volume.resample_labels(Grid(shape, affine), fill=-1000)


def _peer(scans: Path) -> float:
    start = time.monotonic()
    for name in ("insp", "exp"):
        image = sitk.Cast(sitk.ReadImage(str(scans / f"{name}.nii.gz")), sitk.sitkFloat32)
        sitk.SmoothingRecursiveGaussian(image, 2.0)
    return time.monotonic() - start


def _run(scans: Path, out: Path) -> dict:
    start = time.monotonic()
    command = [sys.executable, "-m", "lungvq", "run", "-q", "--insp", scans / "insp.nii.gz"]
    command += ["--exp", scans / "exp.nii.gz", "-o", out]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - start
    return {**json.loads((out / "run.json").read_text(encoding="utf-8")), "wall": wall}
