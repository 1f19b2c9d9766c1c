"""Maps, labels and the table, as files of the output contract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from lungvq import io
from lungvq.hu import OUTSIDE_HU
from lungvq.result import MAPS, CaseResult
from lungvq.volume import Grid, Volume

__all__ = ["write_maps_and_labels", "write_metrics"]

_WRITERS = 2  # compression runs outside the interpreter's lock; more would only cost memory


def write_maps_and_labels(result: CaseResult, folder: Path) -> None:
    """Write ``maps/``, ``labels/`` and ``registration/``.

    Maps and expiratory labels get the whole grid and the axis order of the expiration file, inspiratory
    labels those of the inspiration file; the displacement field keeps its own grid.
    """
    for name in ("maps", "labels", "registration"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    def on_expiration(name: str, volume: Volume, fill: float) -> None:
        _write_on(volume, result.exp_grid, result.exp_codes, fill, folder / name)

    def on_inspiration(name: str, volume: Volume) -> None:
        _write_on(volume, result.insp_grid, result.insp_codes, 0, folder / name)

    with ThreadPoolExecutor(_WRITERS) as pool:
        jobs = [
            pool.submit(
                on_expiration,
                f"maps/{name}.nii.gz",
                volume,
                0 if name in MAPS and MAPS[name].scale == "classes" else np.nan,
            )
            for name, volume in result.maps.items()
        ]
        jobs += [
            pool.submit(on_expiration, "labels/lungs_exp.nii.gz", result.lungs_exp, 0),
            pool.submit(on_expiration, "labels/lobes_exp.nii.gz", result.lobes_exp, 0),
            pool.submit(on_inspiration, "labels/lungs_insp.nii.gz", result.lungs_insp),
            pool.submit(on_inspiration, "labels/lobes_insp.nii.gz", result.lobes_insp),
            pool.submit(on_inspiration, "labels/airways_insp.nii.gz", result.airways_insp),
            pool.submit(on_inspiration, "labels/vessels_insp.nii.gz", result.vessels_insp),
            pool.submit(on_expiration, "registration/insp_on_exp.nii.gz", result.insp_on_exp, OUTSIDE_HU),
            pool.submit(io.write, result.displacement, folder / "registration/displacement.nii.gz"),
        ]
        for job in jobs:
            job.result()


def write_metrics(metrics: pd.DataFrame, path: Path) -> None:
    """Write ``metrics.csv``: values with seven significant digits, empty where undefined."""
    with io.open_atomic(path) as stream:
        stream.write(metrics.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode())


def _write_on(volume: Volume, grid: Grid, codes: str, fill: float, path: Path) -> None:
    io.write(volume.paste_into(grid, fill).reorient(codes), path)
