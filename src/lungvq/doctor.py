"""Is the installation whole? Checks that a user can send along with a question."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungvq.findings import Finding, fail, passed, warn
from lungvq.run import peak_memory_mb
from lungvq.versions import versions

__all__ = ["examine"]

_LEAST_GB = 6.0
_MOST_ERROR_MM = 3.0


def examine() -> Iterator[Finding]:
    """Look at versions, threads, memory, decoders and the disk, then take a phantom through the method.

    Yields each check as it ends; the last takes about a minute the first time, while code is compiled.
    """
    for check in (_versions, _threads, _memory, _decoders, _disk, _compiled_cache, _method):
        yield check()


def _versions() -> Finding:
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    missing = [name for name, number in versions().items() if number == "not installed"]
    if missing:
        return fail("VERSIONS", listed, advice=f"Install {', '.join(missing)}.")
    return passed("VERSIONS", listed)


def _threads() -> Finding:
    import numba

    threads = numba.get_num_threads()
    return passed("THREADS", f"{threads} of {os.cpu_count()} threads are used.", value=float(threads))


def _memory() -> Finding:
    try:
        gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows
        return passed("MEMORY", "The size of memory is not known here.")
    text = f"{gb:.1f} GB of memory; the largest usual pair needs up to {_LEAST_GB:g} GB."
    make = passed if gb >= _LEAST_GB else warn
    return make("MEMORY", text, value=gb, limit=_LEAST_GB, unit="GB")


def _decoders() -> Finding:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

    syntaxes = {"JPEG 2000": JPEG2000Lossless, "JPEG-LS": JPEGLSLossless, "RLE": RLELossless}
    missing = [name for name, uid in syntaxes.items() if not get_decoder(uid).is_available]
    if missing:
        return fail("DECODERS", f"No decoder for {', '.join(missing)} DICOM.", advice="Install lungvq again.")
    return passed("DECODERS", f"DICOM decoders: {', '.join(syntaxes)}; {JPEGLosslessSV1.name} by SimpleITK.")


def _disk() -> Finding:
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "probe").write_bytes(b"lungvq")
    except OSError as error:
        return fail(
            "DISK", f"No temporary file can be written: {error.strerror}.", advice="Free some disk space."
        )
    return passed("DISK", "Temporary files can be written.")


def _compiled_cache() -> Finding:
    from lungvq import _sampling

    path = _sampling.resample_linear.stats.cache_path
    if path and os.access(Path(path).parent if not Path(path).exists() else path, os.W_OK):
        return passed("COMPILED_CODE", "Compiled code is kept between runs.")
    return warn(
        "COMPILED_CODE",
        "Compiled code cannot be kept between runs, so each run compiles for about a minute.",
        advice="Set NUMBA_CACHE_DIR to a folder that can be written.",
    )


def _method() -> Finding:
    """Take a coarse phantom all the way to its numbers, and compare the motion found with the truth."""
    from lungvq import io
    from lungvq.phantom import make_phantom
    from lungvq.pipeline import analyse

    start = time.monotonic()
    phantom = make_phantom("healthy", seed=0, spacing=3.0)
    insp, exp = (
        io.Scan(volume, Path("phantom"), "phantom", (), {}) for volume in (phantom.insp, phantom.exp)
    )
    found = analyse(insp, exp, case="doctor")
    lungs = phantom.truth.lobes_exp
    points = lungs.grid.world(np.argwhere(lungs.array > 0)[::50])
    error = np.linalg.norm(found.displacement.sample(points) - (phantom.phi(points) - points), axis=1).mean()
    text = f"A coarse phantom went through the method in {time.monotonic() - start:.0f} s"
    memory = peak_memory_mb()
    text += f" and {memory:.0f} MB at most" if memory else ""
    text += f"; its motion was found to {error:.1f} mm."
    details = {"value": float(error), "limit": 3.0, "unit": "mm"}
    return (
        passed("METHOD", text, **details)
        if error < 3.0
        else fail("METHOD", text, advice="Please report.", **details)
    )
