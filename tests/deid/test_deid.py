"""De-identified files: nobody is named in them, and they are still the same images."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)
from typer.testing import CliRunner

from lungvq import io
from lungvq.cli import app
from lungvq.deid import Profile, Secret, deidentify
from lungvq.deid.clean import Deidentifier
from lungvq.deid.images import Refused, read_image
from lungvq.errors import InputError, OutputError, UsageError

SECRET = Secret(b"a salt for tests")

# What is planted in a study, in every kind of place; none may be found in what is written.
PLANTED = """
    Mustermann Erika 4711-0815 19640812 ACC998877 STUDY5544 SN556677 CTROOM2 Klinikum Musterstadt Mädchenname
    Zweitname PRIVATESECRET NESTEDPRIVATE Tante Berta Referrer Operatorin Readerin Hausarztweg 0301234567 OTHERID77
    Insurance4455 COMMENTWORDS Requesterin PLACER123 FILLER456 Verfahrenswort Localcodewort OVERLAYNAME CURVENAME
    TRAILERNAME AETITLE9 Serienwort Studienwort Protokollwort Nationalwort Religionswort Berufswort 20260314 101112
    Seitenwort Kommentarwort 1.2.276.0.7230010.3.1.4.8323329 Kontaktwort ISSUERX Alarmwort 山田太郎
""".split()  # noqa: SIM905


def plant(image):
    """Put identity into every kind of place."""
    image.OtherPatientIDs = "OTHERID77"
    image.IssuerOfPatientID = "ISSUERX"
    image.PatientBirthName, image.PatientMotherBirthName = "Mädchenname", "Zweitname"
    image.OtherPatientNames = ["山田太郎", "Tante^Berta"]
    image.PatientAddress, image.PatientTelephoneNumbers = "Hausarztweg 7", "0301234567"
    image.InsurancePlanIdentification = "Insurance4455"
    image.PatientComments, image.ImageComments = "COMMENTWORDS", "Kommentarwort of Erika"
    image.MedicalAlerts, image.Occupation = "Alarmwort", "Berufswort"
    image.CountryOfResidence, image.PatientReligiousPreference = "Nationalwort", "Religionswort"
    image.ReferringPhysicianName, image.OperatorsName = "Referrer^Rita", "Operatorin^Olga"
    image.NameOfPhysiciansReadingStudy = "Readerin^Rosa"
    image.RequestingPhysician = "Requesterin^Ruth"
    image.PlacerOrderNumberImagingServiceRequest = "PLACER123"
    image.FillerOrderNumberImagingServiceRequest = "FILLER456"
    image.SeriesDescription = "Serienwort Thorax Inspiration Mustermann"
    image.StudyDescription, image.ProtocolName = "Studienwort 61F", "Protokollwort Lung"
    image.RequestedProcedureDescription = "Verfahrenswort"
    # Where words are kept: equipment that carries a name, and codes of one site.
    image.ManufacturerModelName = "Tube of Erika Mustermann"
    image.PositionReferenceIndicator = "Seitenwort"
    image.WindowCenterWidthExplanation = ["LUNG", "for 4711-0815"]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "X1", "99SITE", "Localcodewort"
    known = Dataset()
    known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "51185008", "SCT", "Chest of 山田太郎"
    image.AnatomicRegionSequence = [known, code]
    image.AnatomicRegionSequence[0].private_block(0x0011, "Nested", create=True).add_new(
        1, "LO", "NESTEDPRIVATE"
    )
    # Nested: in sequences the table does not name, and in those that it removes.
    inner = Dataset()
    inner.PatientName, inner.PatientID = "Mustermann^Erika", "4711-0815"
    inner.TextValue = "seen by Kontaktwort"
    inner.PersonName = "Tante^Berta"
    inner.ReferencedSOPInstanceUID = image.SOPInstanceUID
    inner.ContentSequence = [Dataset()]
    inner.ContentSequence[0].UnformattedTextValue = "Kontaktwort"
    outer = Dataset()
    outer.ReferencedStudySequence = [inner]
    outer.StudyDate = "20260314"
    image.SharedFunctionalGroupsSequence = [outer]
    image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"PRIVATESECRET!")
    image.add_new(0x60000010, "US", 8)
    image.add_new(0x60003000, "OW", b"OVERLAYNAME!")
    image.add_new(0x60000022, "LO", "OVERLAYNAME")
    image.add_new(0x50003000, "OW", b"CURVENAME!")
    image.add_new(0xFFFCFFFC, "OB", b"TRAILERNAME!")
    image.RetrieveAETitle = "AETITLE9"
    image.file_meta.SendingApplicationEntityTitle = "AETITLE9"
    return image


def written(folder):
    return sorted((folder / "dicom").rglob("*.dcm"))


def all_bytes(folder):
    """Every byte and every name below a folder."""
    return b"\n".join(
        str(p.relative_to(folder)).encode() + b"\n" + (p.read_bytes() if p.is_file() else b"")
        for p in folder.rglob("*")
    )


class TestNobodyIsNamed:
    @pytest.mark.parametrize("options", [(), ("descriptors",), ("modified-dates", "patient", "descriptors")])
    def test_no_planted_identifier_survives_anywhere(self, study, make_image, tmp_path, capfd, options):
        plant(make_image(13)).save_as(study / "Mustermann_Erika.dcm", enforce_file_format=True)
        before = all_bytes(study)
        for word in PLANTED:  # the test would prove nothing else
            assert word.encode() in before, word
        deidentify(study, tmp_path / "out", profile=Profile.of(options), secret=SECRET)
        after, said = all_bytes(tmp_path / "out"), capfd.readouterr()
        times = {"101112"} if "modified-dates" in options else set()  # of the day: those are kept
        for word in set(PLANTED) - times:
            for text in (word, word.upper(), word.lower()):
                for encoding in ("utf-8", "latin-1", "utf-16-le", "iso2022_jp"):
                    raw = text.encode(encoding, "ignore")
                    assert len(raw) < 3 or raw not in after, (text, encoding)
            assert word not in said.out + said.err

    @pytest.mark.parametrize(
        "charset", ["ISO_IR 100", "ISO 2022 IR 87", "GB18030", "ISO_IR 192", "ISO_IR 166"]
    )
    def test_names_are_found_in_any_character_set(self, make_image, tmp_path, charset):
        name = {"ISO 2022 IR 87": "山田太郎", "GB18030": "王小東", "ISO_IR 166": "สมชาย"}.get(
            charset, "Grünwald"
        )
        image = make_image()
        image.SpecificCharacterSet = ["", charset] if "2022" in charset else charset
        image.PatientName, image.ManufacturerModelName = name, f"Tube {name}"
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        deidentify(tmp_path / "in.dcm", tmp_path / "out")
        image = pydicom.dcmread(written(tmp_path / "out")[0])
        assert not image.ManufacturerModelName
        assert image.Manufacturer == "ACME"

    @pytest.mark.parametrize("number", ["", None])
    def test_names_are_found_without_a_number(self, make_image, tmp_path, number):
        # Then the name tells patients apart, and is read before it is looked for.
        image = make_image()
        if number is None:
            del image.PatientID
        else:
            image.PatientID = number
        image.ManufacturerModelName, image.ConvolutionKernel = "Tube of Mustermann", "Br59f Erika"
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        deidentify(tmp_path / "in.dcm", tmp_path / "out")
        image = pydicom.dcmread(written(tmp_path / "out")[0])
        assert not image.ManufacturerModelName
        assert not image.ConvolutionKernel
        assert image.Manufacturer == "ACME"

    def test_names_are_found_in_a_dataset_that_was_read_before(self, make_image):
        image = make_image()
        image.ConvolutionKernel = "Br59f Erika"
        assert str(image.PatientName)
        Deidentifier(Profile(), SECRET).clean(image)
        assert not image.ConvolutionKernel

    def test_the_log_counts_and_names_nobody(self, study, tmp_path):
        (study / "report_of_Mustermann.txt").write_text("Mustermann")
        deidentify(study, tmp_path / "out", secret=SECRET)
        log = json.loads((tmp_path / "out" / "deid.json").read_text())
        assert log["files"] == 24
        assert log["series"] == 2
        assert log["patients"] == 1
        assert log["refused"] == {"not a DICOM image": 1}
        assert log["profile"] == "DICOM PS3.15 2026c, Table E.1-1"
        assert log["actions"]["U new UID"] == 24 * 4
        assert "ustermann" not in json.dumps(log)
        assert SECRET.salt.decode() not in json.dumps(log)

    def test_the_command_names_files_only_when_asked(self, study, tmp_path):
        (study / "Mustermann.txt").write_text("no image")
        runner = CliRunner()
        done = runner.invoke(app, ["deid", str(study), "-o", str(tmp_path / "out")])
        assert done.exit_code == 0
        assert "24 of 25 files de-identified, 2 series of 1 patient" in done.output
        assert "refused     1: not a DICOM image" in done.output
        assert "Mustermann" not in done.output
        done = runner.invoke(app, ["deid", str(study), "-o", str(tmp_path / "again"), "-v"])
        assert "Mustermann.txt: not a DICOM image" in done.output

    def test_the_file_says_what_was_done_to_it(self, study, tmp_path):
        deidentify(study, tmp_path / "out", profile=Profile.of(["modified-dates", "patient"]))
        image = pydicom.dcmread(written(tmp_path / "out")[0])
        assert image.PatientIdentityRemoved == "YES"
        assert image.LongitudinalTemporalInformationModified == "MODIFIED"
        codes = [(c.CodeValue, c.CodingSchemeDesignator) for c in image.DeidentificationMethodCodeSequence]
        assert codes == [("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")]
        assert image.preamble == b"\0" * 128
        assert set(image.file_meta.keys()) == {0x20000 + n for n in (0, 1, 2, 3, 0x10, 0x12, 0x13)}


class TestSameImages:
    def test_it_still_reads_as_the_same_volume(self, study, tmp_path):
        deidentify(study, tmp_path / "out")
        before = io.read(study / "series1").volume
        folders = [p for p in (tmp_path / "out" / "dicom").glob("*/*") if p.is_dir()]
        assert len(folders) == 2
        volumes = [io.read(folder).volume for folder in folders]
        same = [v for v in volumes if np.array_equal(v.array, before.array)]
        assert len(same) == 1
        np.testing.assert_array_equal(same[0].affine, before.affine)

    @pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
                                        DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])  # fmt: skip
    def test_pixels_are_copied_bit_for_bit(self, make_image, tmp_path, syntax):
        image = make_image(size=64)
        if syntax == RLELossless:
            image.compress(RLELossless)
        elif syntax == JPEG2000Lossless:  # the bytes are copied, whatever they are
            image.PixelData = encapsulate([os.urandom(1001)])
            image["PixelData"].is_undefined_length = True
            image.file_meta.TransferSyntaxUID = syntax
        elif syntax is not None:
            image.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / "in.dcm", image, enforce_file_format=True)
        deidentify(tmp_path / "in.dcm", tmp_path / "out")
        before, after = pydicom.dcmread(tmp_path / "in.dcm"), pydicom.dcmread(written(tmp_path / "out")[0])
        assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
        assert after.get_item("PixelData").value == before.get_item("PixelData").value
        assert after.get_item("PixelData").value
        if syntax != JPEG2000Lossless:
            np.testing.assert_array_equal(after.pixel_array, before.pixel_array)

    def test_what_the_method_needs_is_kept(self, study, tmp_path):
        deidentify(study, tmp_path / "out")
        image = pydicom.dcmread(written(tmp_path / "out")[0])
        assert image.Manufacturer == "ACME"
        assert image.ConvolutionKernel == "Br59f"
        assert image.RescaleType == "HU"
        assert float(image.RescaleIntercept) == -1024
        assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
        assert image.BodyPartExamined == "CHEST"
        assert image.KVP == 120

    def test_descriptions_keep_known_words_when_asked(self, study, tmp_path):
        deidentify(study, tmp_path / "out", profile=Profile.of(["descriptors"]))
        image = pydicom.dcmread(written(tmp_path / "out")[0])
        assert image.SeriesDescription == "Thorax Inspiration 1.0 mm Br59f"
        assert image.StudyDescription == "CT Chest"
        assert image.ProtocolName == "Lung low dose"
        deidentify(study, tmp_path / "plain")
        image = pydicom.dcmread(written(tmp_path / "plain")[0])
        assert "SeriesDescription" not in image
        assert "StudyDescription" not in image


class TestConsistency:
    def test_the_same_salt_gives_the_same_names(self, study, tmp_path):
        for name, secret in (
            ("a", SECRET),
            ("b", SECRET),
            ("c", Secret(b"another salt")),
            ("d", None),
            ("e", None),
        ):
            deidentify(study, tmp_path / name, secret=secret)
        names = {n: [p.relative_to(tmp_path / n) for p in written(tmp_path / n)] for n in "abcde"}
        assert names["a"] == names["b"]
        assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
        assert not set(names["a"]) & set(names["c"])
        assert not set(names["d"]) & set(names["e"])

    def test_a_later_batch_fits_the_first(self, study, tmp_path):
        deidentify(study / "series1", tmp_path / "one", secret=SECRET)
        deidentify(study / "series2", tmp_path / "two", secret=SECRET)
        one, two = (pydicom.dcmread(written(tmp_path / n)[0]) for n in ("one", "two"))
        assert one.StudyInstanceUID == two.StudyInstanceUID
        assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
        assert one.PatientID == two.PatientID
        assert one.SeriesInstanceUID != two.SeriesInstanceUID

    def test_references_still_lead_somewhere(self, study, make_image, tmp_path):
        segmentation = make_image(50, series=3)
        segmentation.SOPClassUID = segmentation.file_meta.MediaStorageSOPClassUID = SegmentationStorage
        source, series, derivation = Dataset(), Dataset(), Dataset()
        first = pydicom.dcmread(next((study / "series1").iterdir()))
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = CTImageStorage, first.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = first.SeriesInstanceUID, [source]
        segmentation.ReferencedSeriesSequence = [series]
        derivation.SourceImageSequence = [source]
        frame = Dataset()
        frame.DerivationImageSequence = [derivation]
        segmentation.PerFrameFunctionalGroupsSequence = [frame]
        segmentation.save_as(study / "seg.dcm", enforce_file_format=True)
        deidentify(study, tmp_path / "out")
        images = {i.SOPInstanceUID: i for i in map(pydicom.dcmread, written(tmp_path / "out"))}
        seg = next(i for i in images.values() if i.SOPClassUID == SegmentationStorage)
        pointed = seg.ReferencedSeriesSequence[0]
        target = images[pointed.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID]
        assert target.SeriesInstanceUID == pointed.SeriesInstanceUID
        assert target.InstanceNumber == first.InstanceNumber
        derived = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert derived.ReferencedSOPInstanceUID == target.SOPInstanceUID
        assert derived.ReferencedSOPClassUID == CTImageStorage

    def test_dates_move_together(self, make_image, tmp_path):
        days = {}
        for number, patient in enumerate(("A1", "A1", "B2"), 1):
            image = make_image(number)
            image.PatientID = patient
            image.StudyDate = f"2024030{number}"
            image.AcquisitionDateTime = f"2024030{number}101530.25+0100"
            Deidentifier(Profile.of(["modified-dates"]), SECRET).clean(image)
            days.setdefault(patient, []).append(image.StudyDate)
            assert image.AcquisitionDateTime == f"{image.StudyDate}101530.25+0100"
            assert image.StudyTime == "101112.5"
            assert not image.PatientBirthDate
        (first, second), (other,) = (np.array(d, "datetime64[D]") for d in map(iso, days.values()))
        assert second - first == np.timedelta64(1, "D")
        assert 1 <= (np.datetime64("2024-03-01") - first).astype(int) <= 3650
        assert (np.datetime64("2024-03-03") - other) != (np.datetime64("2024-03-01") - first)

    @pytest.mark.parametrize("date", ["2024", "202413", "20241345", "yesterday", "2024-03-01x"])
    def test_a_date_that_is_none_goes(self, make_image, date):
        image = make_image()
        image.add_new("StudyDate", "DA", "")
        image["StudyDate"]._value = date
        Deidentifier(Profile.of(["modified-dates"]), SECRET).clean(image)
        assert not image.StudyDate

    def test_a_uid_is_valid_and_hides_its_source(self):
        uids = {SECRET.uid(f"1.2.3.{n}") for n in range(500)}
        assert len(uids) == 500
        assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 44 for uid in uids)
        assert "a salt" not in repr(SECRET)

    def test_a_salt_file_is_made_and_used_again(self, tmp_path):
        file = tmp_path / "salt"
        first = Secret.from_user(file=file)
        assert Secret.from_user(file=file) == first
        assert len(first.salt) == 64
        if os.name == "posix":
            assert file.stat().st_mode & 0o077 == 0
        with pytest.raises(UsageError, match="at least 8"):
            Secret.from_user("short")
        with pytest.raises(UsageError, match="not both"):
            Secret.from_user("long enough", file)


def iso(dates):
    return [f"{d[:4]}-{d[4:6]}-{d[6:]}" for d in dates]


def change(**values):
    def edit(image):
        for keyword, value in values.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        return image

    return edit


def embedded_overlay(image):
    image.add_new(0x60000010, "US", 16)
    image.add_new(0x60000102, "US", 12)
    return image


REFUSED = {
    "secondary capture": change(SOPClassUID=SecondaryCaptureImageStorage),
    "encapsulated document": change(SOPClassUID=EncapsulatedPDFStorage),
    "dose report": change(SOPClassUID=XRayRadiationDoseSRStorage),
    "not a CT": change(SOPClassUID="1.2.840.10008.5.1.4.1.1.1"),
    "DICOMDIR": change(SOPClassUID="1.2.840.10008.1.3.10"),
    "burned into it (Burned": change(BurnedInAnnotation="YES"),
    "Conversion Type": change(ConversionType="WSD"),
    "screen shot or dose page": change(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    "screen shot": change(SeriesDescription="Dose Report"),
    "dose page": change(ImageType=["ORIGINAL", "SECONDARY", "OTHER", "DOSE_INFO"]),
    "colour picture": change(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
    "without a position": change(ImagePositionPatient=None),
    "overlay is stored within": embedded_overlay,
    "without pixels": change(PixelData=None),
    "cut short": change(Rows=64),
}


class TestRefused:
    @pytest.mark.parametrize("reason", REFUSED)
    def test_pictures_that_may_name_someone(self, make_image, tmp_path, reason):
        image = REFUSED[reason](make_image())
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        with pytest.raises(Refused, match=reason.replace("(", r"\(")):
            read_image(tmp_path / "in.dcm")

    def test_comments_within_compressed_pixels(self, make_image, tmp_path):
        image = make_image()
        image.PixelData = encapsulate([b"\xff\xd8\xff\xfe\x00\x12ERIKA MUSTERMANN\xff\xd9"])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        with pytest.raises(InputError, match="a name stands within its compressed pixels"):
            deidentify(tmp_path / "in.dcm", tmp_path / "out")

    def test_files_that_are_no_images(self, tmp_path, make_image):
        make_image().save_as(tmp_path / "good.dcm", enforce_file_format=True)
        good = (tmp_path / "good.dcm").read_bytes()
        broken = {
            "empty": b"",
            "text": b"Erika Mustermann",
            "zip": b"PK\3\4" + os.urandom(500),
            "pdf preamble": b"%PDF-1.7".ljust(128) + b"DICM",
            "header only": good[:132],
            **{f"cut at {n}": good[: n * len(good) // 40] for n in range(1, 40)},
            "huge length": good[:200] + b"\xff\xff\xff\x7f" + good[204:],
            "noise": bytes(b ^ (n % 251 == 7) for n, b in enumerate(good)),
        }
        folder = tmp_path / "in"
        folder.mkdir()
        for name, data in broken.items():
            (folder / name).write_bytes(data)
        (folder / "good").write_bytes(good)
        outcome = deidentify(folder, tmp_path / "out")
        assert outcome.written + len(outcome.refused) == len(broken) + 1
        assert folder / "good" not in outcome.refused
        cut = {p for p in outcome.refused if p.name.startswith("cut")}
        assert len(cut) == 39
        assert b"Mustermann" not in all_bytes(tmp_path / "out")

    def test_sequences_nested_2000_deep(self, tmp_path, make_image):
        image = make_image()
        item = b""
        for _ in range(2000):  # undefined lengths: nothing but openings
            item += b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        (tmp_path / "in.dcm").write_bytes((tmp_path / "in.dcm").read_bytes() + item)
        with pytest.raises(Refused, match=r"damaged|pixels"):
            read_image(tmp_path / "in.dcm")

    def test_a_deflate_bomb(self, tmp_path, make_image, monkeypatch):
        monkeypatch.setattr("lungvq.deid.images._MOST_BYTES", 1 << 20)
        image = make_image()
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        image.save_as(tmp_path / "in.dcm", enforce_file_format=True)
        read_image(tmp_path / "in.dcm")
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = packer.compress(bytes(64 << 20)) + packer.flush()
        data = (tmp_path / "in.dcm").read_bytes()
        start = 132 + 12 + int.from_bytes(data[140:144], "little")
        (tmp_path / "in.dcm").write_bytes(data[:start] + bomb)
        with pytest.raises(Refused, match="inflates"):
            read_image(tmp_path / "in.dcm")

    def test_copies_and_impostors(self, tmp_path, make_image):
        folder = tmp_path / "in"
        folder.mkdir()
        make_image(1).save_as(folder / "a", enforce_file_format=True)
        make_image(1).save_as(folder / "b", enforce_file_format=True)
        other = make_image(1)
        other.KVP = "80"
        other.save_as(folder / "c", enforce_file_format=True)
        outcome = deidentify(folder, tmp_path / "out")
        assert outcome.written == 1
        assert outcome.refused[folder / "b"] == "a copy of another file"
        assert "other content" in outcome.refused[folder / "c"]


class TestAllOrNothing:
    def test_nothing_is_left_when_nothing_can_be_written(self, study, tmp_path, monkeypatch):
        count = 0
        real = Path.write_bytes

        def full_disk(self, data):
            nonlocal count
            count += self.suffix == ".dcm"
            if count > 5:
                raise OSError(28, "No space left on device")
            return real(self, data)

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OutputError, match="No space"):
            deidentify(study, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_nothing_is_written_where_nothing_was_found(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").write_text("x")
        with pytest.raises(InputError, match="1 not a DICOM image"):
            deidentify(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_nothing_outside_of_the_output_folder(self, study, tmp_path):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        deidentify(study, tmp_path / "out")
        after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "out" not in p.parts}
        assert after == before
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"dicom", "deid.json"}

    def test_what_is_there_is_not_overwritten_unless_asked(self, study, tmp_path):
        deidentify(study, tmp_path / "out", secret=SECRET)
        with pytest.raises(UsageError, match="already holds"):
            deidentify(study, tmp_path / "out")
        deidentify(study / "series1", tmp_path / "out", secret=SECRET, force=True)
        assert len(written(tmp_path / "out")) == 12

    def test_not_into_its_own_source(self, study):
        with pytest.raises(UsageError, match="lies within"):
            deidentify(study, study / "out")
        with pytest.raises(InputError, match="does not exist"):
            deidentify(study / "nowhere", study.parent / "out")


@pytest.mark.integration
def test_objects_are_still_valid(study, tmp_path):
    """dciodvfy finds no error that was not there before."""
    tool = Path(sys.executable).with_name("dciodvfy")
    if not tool.exists():
        pytest.skip("no dciodvfy beside this Python")

    def errors(file):
        done = subprocess.run([tool, file], capture_output=True, text=True, timeout=60)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    deidentify(study, tmp_path / "out", profile=Profile.of(["modified-dates", "patient", "descriptors"]))
    before = errors(next((study / "series1").iterdir()))
    for file in written(tmp_path / "out"):
        assert errors(file) <= before
