"""A small case whose every voxel is known, on any grid, with or without the DICOM it came from."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from lungvq.anatomy import LOBES, LUNG_OF_LOBE, LUNGS, REGIONS, ZONES
from lungvq.export.dicom import made_up, read_source, write_dicom
from lungvq.findings import passed
from lungvq.result import CaseResult, ScanSummary
from lungvq.volume import CANONICAL, Grid, Volume

CREATED = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "ID-7",
    "PatientBirthDate": "19600102",
    "PatientSex": "F",
    "PatientAge": "066Y",
    "StudyInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.4.5",
    "FrameOfReferenceUID": "1.2.3.4.6",
    "StudyDate": "20260101",
    "StudyTime": "101112.5",
    "StudyID": "S1",
    "AccessionNumber": "ACC1",
    "ReferringPhysicianName": "Ref^Erring",
    "PatientPosition": "HFS",
    "SliceThickness": "1.5",
    "AcquisitionDate": "20260101",
    "AcquisitionTime": "101500",
    "SpecificCharacterSet": "ISO_IR 192",
}


def turned(degrees):
    """A rotation about an axis that is none of the body's."""
    axis = np.array([0.36, 0.48, 0.8])
    angle = np.radians(degrees)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) * np.cos(angle) + (1 - np.cos(angle)) * np.outer(axis, axis) - np.sin(angle) * cross


def make_grid(shape=(16, 18, 20), spacing=(2.5, 0.7, 0.8), degrees=0.0):
    """Canonical, unequal steps, no round numbers."""
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ np.diag(spacing)
    affine[:3, 3] = (-101.25, -87.5, 31.125)
    return Grid(shape, affine)


def table(regions=REGIONS):
    """A number for every region and metric that is found nowhere else, and some that are undefined."""
    rows, n = [], 0
    for region in regions:
        zone_def = "equal_height_per_lung" if region in ZONES else ""
        for metric, unit, method, default in (
            ("volume_insp_ml", "mL", "mask@1", 1),
            ("volume_exp_ml", "mL", "mask@1", 1),
            ("mass_exp_g", "g", "mask@1", 1),
            ("ventilation_ml", "mL", "hybrid@2", 1),
            ("ventilation_ml", "mL", "jacobian@1", 0),
            ("perfusion_fraction_pct", "%", "blood_mass@1", 1),
            ("ventilation_cv", "1", "hybrid@2", 1),
            ("vq_matched_defect_pct", "%", "mean60@1", 1),
        ):
            n += 1
            value = np.nan if n % 17 == 0 else (-1) ** n * np.pi**3 * n / 7
            low, high = (value - 1, value + 1) if n % 5 == 0 else (np.nan, np.nan)
            qc = "WARN LUNG_COLLAPSED" if region == "left" else "PASS"
            rows.append(("c", region, zone_def, metric, method, default, value, low, high, unit, qc))
    columns = ["case", "region", "zone_def", "metric", "method", "is_default", "value", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "unit", "qc"])


def make_case(grid=None, codes=CANONICAL, findings=(), seed=0):
    """Random maps with a known pattern of NaN in a box within `grid`; every lobe and class occurs."""
    grid = grid or make_grid()
    rng = np.random.default_rng(seed)
    box = tuple(slice(n // 6, n - n // 7) for n in grid.shape)
    part = grid.crop(box)

    def volume(array):
        return Volume(array, part.affine)

    lobes = rng.integers(0, len(LOBES) + 1, part.shape).astype(np.uint8)
    lobes[0] = lobes[-1] = 0
    side = np.array([0, *(LUNGS[LUNG_OF_LOBE[lobe]] for lobe in LOBES)], np.uint8)
    lungs = side[lobes]
    ventilation = rng.normal(0.8, 0.6, part.shape).astype(np.float32)
    perfusion = rng.gamma(2.0, 0.5, part.shape).astype(np.float32)
    classes = rng.integers(1, 5, part.shape).astype(np.uint8)
    undefined = (lungs == 0) | (rng.random(part.shape) < 0.1)
    ventilation[undefined], perfusion[undefined], classes[undefined] = np.nan, np.nan, 0
    maps = {
        "ventilation": volume(ventilation),
        "perfusion": volume(perfusion),
        "vq_log2": volume(np.log2(np.maximum(ventilation, 0.05) / np.maximum(perfusion, 0.05))),
        "vq_class": volume(classes),
    }
    hu = volume(rng.integers(-1000, 100, part.shape).astype(np.int16))
    scan = ScanSummary("expiration", "exp", "e" * 64)
    return CaseResult(
        case="c", scans=(ScanSummary("inspiration", "insp", "a" * 64), scan), exp=hu, insp_on_exp=hu,
        lungs_exp=volume(lungs), lobes_exp=volume(lobes), maps=maps, insp=hu, lungs_insp=volume(lungs),
        lobes_insp=volume(lobes), airways_insp=volume(lungs), vessels_insp=volume(lungs), displacement=hu,
        exp_grid=grid, insp_grid=grid, exp_codes=codes, insp_codes=codes, metrics=table(),
        findings=tuple(findings) or (passed("X", "x"),), registration={}, timings=[], versions={},
        settings={"registration": {"spacing_mm": 2.0, "names": ["a", "b"]}, "allow_no_breathing": False},
    )  # fmt: skip


def write_ct(grid, folder, *, names=None, **changes):
    """The CT that a grid (in its stored order) came from, as DICOM files without pixels to speak of."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    step = grid.affine[:3, :3] / np.array(grid.spacing)
    for k in range(grid.shape[0]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        for keyword, value in {**PATIENT, **changes}.items():
            if value is not None:
                setattr(image, keyword, value)
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.4.5.{k + 1}"
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.Modality, image.InstanceNumber = "CT", 100 - k
        image.Rows, image.Columns = grid.shape[1:]
        image.ImagePositionPatient = [f"{v:.8g}" for v in grid.world((k, 0, 0))]
        image.ImageOrientationPatient = [f"{v:.10f}" for v in (*step[:, 2], *step[:, 1])]
        image.PixelSpacing = [grid.spacing[1], grid.spacing[2]]
        path = folder / (names[k] if names else f"{k:03d}")
        image.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


class Written:
    """What `write_dicom` left, and what it was made from."""

    def __init__(self, case, source, folder, **options):
        self.case, self.source, self.folder = case, source, folder
        self.report = write_dicom(case, source, folder, created=CREATED, **options)

    def files(self, kind=""):
        return sorted(p for p in self.folder.rglob("*.dcm") if kind in (p.parent.name, p.stem, ""))

    def read(self, kind):
        return [pydicom.dcmread(p) for p in self.files(kind)]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Every object of a turned head-first scan that was DICOM."""
    folder = tmp_path_factory.mktemp("written")
    case = make_case(make_grid(degrees=14), "SPL")
    files = write_ct(case.exp_grid, folder / "ct")
    return Written(
        case, read_source(files, "s"), folder / "dicom", pdf=b"%PDF-1.7 odd", also=("labelmap", "pmap")
    )


@pytest.fixture(scope="session")
def without_dicom(tmp_path_factory):
    """Every object of a scan that was NIfTI."""
    folder: Path = tmp_path_factory.mktemp("without")
    return Written(
        make_case(), made_up("case 12", "s"), folder / "dicom", pdf=b"%PDF-1.7", also=("labelmap",)
    )


@pytest.fixture(scope="session")
def make():
    """The makers above, for tests that want a case of their own."""
    return SimpleNamespace(case=make_case, grid=make_grid, ct=write_ct, written=Written, turned=turned)
