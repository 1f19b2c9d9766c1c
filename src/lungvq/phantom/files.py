"""A phantom on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lungvq.phantom.make import Phantom

MAPS = (
    "displacement",
    "jacobian",
    "lobes_exp",
    "lobes_insp",
    "ventilation",
    "perfusion",
    "mass_change",
    "vq_class",
    "disease",
)


def write_phantom(phantom: Phantom, folder: Path | str, *, dicom: bool = False) -> None:
    """Write ``insp.nii.gz``, ``exp.nii.gz`` and ``truth/``: the maps, ``landmarks.csv``, ``truth.json``.

    Landmarks are in LPS mm, one row each: the point at expiration, then at inspiration. With `dicom` the scans
    are a study below ``dicom/`` instead, as `phantom.dicom.write_study` has it.
    """
    from lungvq.io import write

    folder = Path(folder)
    truth = folder / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    if dicom:
        from lungvq.phantom.dicom import write_study

        write_study(phantom, folder / "dicom")
    else:
        write(phantom.insp, folder / "insp.nii.gz")
        write(phantom.exp, folder / "exp.nii.gz")
    for name in MAPS:
        write(getattr(phantom.truth, name), truth / f"{name}.nii.gz")
    np.savetxt(
        truth / "landmarks.csv",
        phantom.truth.landmarks.reshape(-1, 6),
        delimiter=",",
        fmt="%.4f",
        header="exp_x,exp_y,exp_z,insp_x,insp_y,insp_z",
        comments="",
    )
    facts = {"case": phantom.case, "seed": phantom.seed, **phantom.truth.scalars}
    (truth / "truth.json").write_text(json.dumps(facts, indent=2) + "\n")
