"""A corpus of faults: every case is read right, by a truth that cannot be fooled, or refused with a reason.

The body is a field of HU that is linear in space and steep: a few HU to a tenth of a mm. So each
voxel of a volume tells where it was, whatever was done to the files, and a volume in which any voxel
contradicts its place is silently wrong. Planes that were not interpolated must lie where a slice says, to
1e-6 mm.
"""

from __future__ import annotations

import hashlib
import io as stdio
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from lungvq import io
from lungvq.errors import InputError, LungvqError
from lungvq.io import listing, sandbox
from lungvq.volume import ALL_AXIS_CODES, Volume

SHAPE, SPACING = (16, 12, 10), (2.0, 0.7, 0.8)
STEEP = np.array([17.0, -15.0, 8.0])  # HU per mm along x, y, z
FIRST = np.array([-120.5, -80.25, 40.125])
CENTRE = FIRST + np.array([3.6, 4.2, 15])
READ, REFUSED, EITHER = "read", "refused", "either"


# --- a body and its slices --------------------------------------------------------------------------------


def field_hu(world, turn=0.0):
    """HU at points in mm; `turn` makes another body."""
    steep = STEEP * np.array([1, np.cos(turn), 1])
    return (np.asarray(world) - CENTRE) @ steep - 150


def straight(spacing=SPACING, shape=SHAPE):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3], affine[3, 3] = FIRST, 1
    return affine


def rotation(degrees, axis=(2.0, -1.0, 3.0)):
    """About the middle of the body."""
    axis = np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    turn[:3, 3] = CENTRE - turn[:3, :3] @ CENTRE
    return turn


_uids = itertools.count(1)


def uid():
    return f"1.2.826.0.1.3680043.8.498.{next(_uids)}"


def number(value):
    return f"{round(float(value), 12) + 0.0:.13g}"[:16]


def one_slice(position, down, right, shape, *, hu=None, turn=0.0, signed=False, slope=1.0, intercept=-4096.0):
    """A slice whose pixels are what the body is at their places, unless `hu` is given."""
    j, i = np.indices(shape)
    world = np.asarray(position) + j[..., None] * down + i[..., None] * right
    values = np.rint(field_hu(world, turn)) if hu is None else hu
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, uid(), "CT"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.PatientID, d.PatientName, d.StudyDate = "MRN-4711", "Doe^Jane", "20250102"
    d.SeriesDescription, d.SeriesNumber, d.ConvolutionKernel = "CHEST 1.0 Br40", 5, "Br40"
    d.PatientPosition, d.AcquisitionNumber = "HFS", 1
    d.ImagePositionPatient = [number(v) for v in position]
    rows, columns = np.linalg.norm(down), np.linalg.norm(right)
    d.ImageOrientationPatient = [number(v) for v in (*(right / columns), *(down / rows))]
    d.PixelSpacing = [number(rows), number(columns)]
    d.Rows, d.Columns = shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, int(signed)
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = number(slope), number(intercept), "HU"
    d.PixelData = np.rint((values - intercept) / slope).astype("<i2" if signed else "<u2").tobytes()
    return d


def stack(affine=None, shape=SHAPE, *, along=None, jitter=None, **options):
    """The slices of one series; `along` are their places in steps, 0, 1, 2 ... where not given."""
    affine = straight() if affine is None else affine
    line, down, right, origin = affine[:3].T
    along = np.arange(shape[0]) if along is None else along
    series = {"SeriesInstanceUID": uid(), "StudyInstanceUID": uid(), "FrameOfReferenceUID": uid()}
    made = []
    for n, place in enumerate(along):
        position = origin + place * line + (0 if jitter is None else jitter[n])
        d = one_slice(np.round(position, 10), down, right, shape[1:], **options)
        d.InstanceNumber = 1000 - 7 * n
        for name, value in series.items():
            setattr(d, name, value)
        made.append(d)
    return made


def with_tags(made, numbers=None, **tags):
    for n in range(len(made)) if numbers is None else numbers:
        for name, value in tags.items():
            if value is None:
                delattr(made[n], name)
            else:
                setattr(made[n], name, value)
    return made


def in_series_of(like, made, **tags):
    same = {n: getattr(like, n) for n in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    return with_tags(made, **{**same, **tags})


def content(d, syntax=ExplicitVRLittleEndian):
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID or "1.2"
    if syntax.is_encapsulated:
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian and int(d.BitsAllocated) == 16:
        d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()
    buffer = stdio.BytesIO()
    d.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def name_of(d):
    return hashlib.md5(str(d.SOPInstanceUID).encode()).hexdigest()[:8]


def files(made, syntax=ExplicitVRLittleEndian):
    """Their bytes under names that say nothing of their order."""
    return {name_of(d): content(d, syntax) for d in made}


def changed(packed, which, change):
    """One file, by its number, changed as bytes."""
    name = list(packed)[which]
    return {**packed, name: change(packed[name])}


# --- cases ------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """What is written, and what may come of it.

    `volumes` is the number of volumes to expect where several were put together; `place` and `value` are how
    far planes may be from the slices' positions in mm, and voxels from the body in HU.
    """

    name: str
    files: dict[str, bytes]
    outcome: str = READ
    reason: str = ""
    codes: set[str] | None = None
    place: float = 1e-6
    value: float = 0.51
    volumes: int = 1
    turns: tuple[float, ...] = (0.0,)
    itk: bool = False


def orientations():
    for degrees, some in ((0, ALL_AXIS_CODES[::8]), (25, ALL_AXIS_CODES)):
        body = Volume(np.empty(SHAPE, np.int16), rotation(degrees) @ straight())
        for codes in some:
            grid = body.grid.reorient(codes)
            if min(grid.shape) < 10:
                continue
            yield Case(
                f"{codes} turned {degrees}", files(stack(grid.affine, grid.shape)), codes=set(), itk=True
            )
    for position in ("FFS", "FFP", "HFP", "HFDR", "FFDL"):
        yield Case(position, files(with_tags(stack(), PatientPosition=position)), codes=set())


def names_and_numbers():
    rng = np.random.default_rng(1)
    for seed in range(4):
        made = stack()
        for d, n in zip(made, rng.permutation(len(made)), strict=True):
            d.InstanceNumber = int(n)
        packed = list(files(made).values())
        names = [f"{'abc'[seed % 3]}/{n}/IM{n:03d}.dcm" for n in rng.permutation(len(packed))]
        yield Case(f"shuffled {seed}", dict(zip(names, packed, strict=True)), codes=set(), itk=True)
    yield Case("one instance number", files(with_tags(stack(), InstanceNumber=1)), codes=set())
    yield Case("no instance number", files(with_tags(stack(), InstanceNumber=None)), codes=set())
    yield Case("instance number is text", files(stack()), codes=set())
    yield Case("one SOP instance UID", dict(enumerate_names(with_tags(stack(), SOPInstanceUID="1.2.3"))))
    yield Case("no SOP instance UID", dict(enumerate_names(without_uid(stack()))))
    yield Case(
        "odd names", {f"é ü\u200b{n}.日本": c for n, c in enumerate(files(stack()).values())}, codes=set()
    )
    yield Case(
        "beside other files", {**files(stack()), "DICOMDIR.txt": b"x", "a.jpg": b"\xff\xd8"}, codes=set()
    )


def enumerate_names(made):
    return ((f"{n * 7 % 16}", content(d)) for n, d in enumerate(made))


def without_uid(made):
    for d in made:
        d.SOPInstanceUID = ""
    return made


def tilts():
    for degrees, axis in itertools.product((-30, -15, -5, -1, 0.2, 2, 10, 18.5, 25), (1, 2)):
        affine = straight()
        affine[{1: 1, 2: 0}[axis], 0] = SPACING[0] * np.tan(np.radians(degrees))
        codes = {"GANTRY_TILT"}
        yield Case(
            f"{degrees} degrees along {['row', 'column'][axis - 1]}s", files(stack(affine)), codes=codes
        )
    both = straight()
    both[:2, 0] = 0.5, -0.3
    yield Case("both ways", files(stack(both)), codes={"GANTRY_TILT"})
    for degrees in (15, -15):
        affine = straight()
        affine[1, 0] = SPACING[0] * np.tan(np.radians(degrees))
        yield Case(
            f"{degrees} in an oblique scan", files(stack(rotation(20) @ affine)), codes={"GANTRY_TILT"}
        )
        gone = [n for n in range(16) if n != 6]
        found = {"GANTRY_TILT", "MISSING_SLICES"}
        yield Case(f"{degrees} and one missing", files(stack(affine, along=gone)), codes=found, value=1.01)
        tagged = with_tags(stack(affine), GantryDetectorTilt="0")
        yield Case(f"{degrees}, and the tag says 0", files(tagged), codes={"GANTRY_TILT"})
    yield Case(
        "the tag says 20, positions do not", files(with_tags(stack(), GantryDetectorTilt="20")), codes=set()
    )
    steep = straight()
    steep[1, 0] = SPACING[0] * np.tan(np.radians(55))
    yield Case("55 degrees", files(stack(steep)), REFUSED, "55 degrees")
    tiny = straight()
    tiny[1, 0] = 0.002
    yield Case("0.03 mm in all is rounding", files(stack(tiny)), codes=set(), place=0.02, value=1)


def missing():
    def without(*gone):
        return files(stack(along=[n for n in range(16) if n not in gone]))

    for n in range(1, 15):
        yield Case(f"slice {n}", without(n), codes={"MISSING_SLICES"})
    for pair in ((2, 13), (5, 9), (1, 14), (7, 10)):
        yield Case(f"slices {pair}", without(*pair), codes={"MISSING_SLICES"})
    for gone in ((1, 3), (1, 2), (7, 8), (13, 14), (3, 4, 5), (2, 5, 9), (1, 4, 8, 12), (3, 4, 9)):
        yield Case(f"slices {gone}", without(*gone), REFUSED, f"{len(gone)} slices are missing")
    for gone in ((0,), (15,), (0, 1, 15)):
        yield Case(f"slices {gone} at the end", without(*gone), codes=set())
    wide = straight((4.0, 0.7, 0.8))
    along = [n for n in range(16) if n != 5]
    yield Case("too wide to bridge", files(stack(wide, along=along)), REFUSED, "1 slice is missing")
    yield Case("every other one", without(*range(1, 16, 2)), REFUSED, "8 slices are not a chest")


def duplicates():
    for n in (0, 7, 15):
        packed = files(stack())
        yield Case(
            f"a copy of file {n}", {**packed, "copy": list(packed.values())[n]}, codes={"COPIES_SET_ASIDE"}
        )
        made = stack()
        again = in_series_of(made[0], stack(), InstanceNumber=3)
        codes = {"COPIES_SET_ASIDE"}
        yield Case(f"slice {n} sent twice", files([*made, again[n]]), codes=codes)
        other = in_series_of(made[0], stack(turn=0.4), InstanceNumber=3)
        yield Case(
            f"another slice at the place of {n}", files([*made, other[n]]), REFUSED, "lie where another one"
        )
    packed = files(stack())
    yield Case(
        "every file twice", {**packed, **{f"b{n}": c for n, c in packed.items()}}, codes={"COPIES_SET_ASIDE"}
    )
    made = stack()
    yield Case("sent twice", files([*made, *in_series_of(made[0], stack())]), codes={"COPIES_SET_ASIDE"})
    other = in_series_of(made[0], stack(turn=0.4))
    yield Case("two scans and no tag to tell", files([*made, *other]), REFUSED, "16 of its slices lie where")


def jitters():
    for amount, seed in itertools.product((0.001, 0.004, 0.01, 0.03), range(3)):
        jitter = np.random.default_rng(seed).uniform(-amount, amount, (16, 3))
        packed = files(stack(jitter=jitter))
        yield Case(f"{amount} mm, {seed}", packed, codes=set(), place=2 * amount, value=0.51 + 50 * amount)
    for amount, seed in itertools.product((0.1, 0.2, 0.4), range(3)):
        jitter = np.zeros((16, 3))
        jitter[:, 2] = np.random.default_rng(seed).uniform(-amount, amount, 16)
        packed = files(stack(jitter=jitter))
        yield Case(f"{amount} mm, {seed}", packed, codes={"UNEVEN_SLICES"}, place=0.07, value=2)
        jitter = np.random.default_rng(seed).uniform(-amount, amount, (16, 3))
        name = f"sideways {amount} mm, {seed}"
        yield Case(name, files(stack(jitter=jitter)), EITHER, place=0.2, value=0.51 + 35 * 0.12)
    for decimals, step in ((1, 1.25), (1, 0.75), (2, 0.625), (1, 0.7)):
        affine = straight((step, 0.7, 0.8))
        exact = np.outer(np.arange(16), affine[:3, 0])
        jitter = np.round(exact + FIRST, decimals) - exact - FIRST
        name = f"steps of {step} mm written with {decimals} decimals"
        yield Case(name, files(stack(affine, jitter=jitter)), codes=set(), place=0.06, value=4)


def uneven():
    for ratio in (1.2, 1.3, 1.5, 2.0):
        along = np.concatenate([np.arange(8), 7 + ratio * np.arange(1, 9)])
        yield Case(f"1 to {ratio}", files(stack(along=along)), codes={"UNEVEN_SLICES"}, place=0.06, value=1.9)
    for ratio in (3.0, 5.0):
        along = np.concatenate([np.arange(8), 7 + ratio * np.arange(1, 9)])
        yield Case(f"1 to {ratio}", files(stack(along=along)), REFUSED, "slice steps differ|are missing")
    for seed in range(5):
        steps = np.random.default_rng(seed).uniform(1, 2, 15)
        along = np.concatenate([[0], np.cumsum(steps)])
        packed = files(stack(along=along))
        yield Case(f"steps at random {seed}", packed, codes={"UNEVEN_SLICES"}, place=0.06, value=1.9)
    for by in (0.1, 0.2, 0.45, -0.3):
        along = np.arange(16.0)
        along[6] += by
        packed = files(stack(along=along))
        yield Case(f"one slice moved by {by} steps", packed, codes={"UNEVEN_SLICES"}, place=0.06, value=1.9)
    yield Case("growing", files(stack(along=np.arange(16) ** 1.2)), EITHER, place=0.06, value=1.9)
    yield Case(
        "a gap of 2.5 steps",
        files(stack(along=[*range(8), *(n + 1.5 for n in range(8, 16))])),
        EITHER,
        place=0.06,
        value=1.9,
    )


def mixtures():
    turned = rotation(90, (1, 0, 0)) @ straight()
    for n in (0, 6, 15):
        made = stack()
        odd = in_series_of(made[0], stack(turned))[n]
        yield Case(f"one slice of another direction, {n}", files([*made, odd]), codes={"SERIES_SPLIT"})
    made = stack()
    other = in_series_of(made[0], stack(turned))
    yield Case("two directions", files([*made, *other]), volumes=2)
    for tags in (
        {"PixelSpacing": ["0.35", "0.4"]},
        {"ConvolutionKernel": "B70f"},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"Modality": "PT"},
        {"RescaleType": "US"},
    ):
        made = with_tags(stack(), [4], **tags)
        codes = {"SERIES_SPLIT", "MISSING_SLICES"}
        yield Case(f"one slice with {tags}", files(made), codes=codes)
    made = stack()
    small = in_series_of(made[0], stack(shape=(16, 11, 14)))
    yield Case("two sizes", files([*made, *small]), volumes=2)
    yield Case(
        "two patients under one UID",
        files([*made, *in_series_of(made[0], stack(), PatientID="2")]),
        volumes=2,
    )
    yield Case(
        "two frames of reference",
        files([*made, *in_series_of(made[0], stack(), FrameOfReferenceUID=uid())]),
        volumes=2,
    )


def localizers():
    made = stack()
    for name, turn, shape, tags in (
        ("a scout", 90, (1, 30, 40), {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("a scout that does not say so", 90, (1, 30, 40), {}),
        ("a scout of the same size", 90, (1, 12, 10), {}),
        (
            "a scout in the same direction",
            0,
            (1, 12, 10),
            {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        ),
        ("scouts both ways", 90, (2, 30, 40), {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ):
        view = stack(rotation(turn, (1, 0, 0)) @ straight(), shape)
        packed = files([*made, *in_series_of(made[0], view, **tags)])
        yield Case(name, packed, codes={"LOCALIZERS_SET_ASIDE"} if tags else {"SERIES_SPLIT"})
    scouts = with_tags(stack(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    yield Case("nothing else", files(scouts), REFUSED, "only localizers")
    yield Case(
        "a scout as its own series",
        files([*made, *stack(rotation(90) @ straight(), (1, 30, 40))]),
        codes=set(),
    )


def acquisitions():
    for tags in (
        {"AcquisitionNumber": 2},
        {"TemporalPositionIdentifier": 2},
        {"ConvolutionKernel": "B70f"},
        {"ContrastBolusAgent": "Iohexol"},
        {"KVP": "140"},
        {"SliceThickness": "5"},
        {"ReconstructionDiameter": "250"},
        {"SeriesDescription": "EXP"},
        {"ProtocolName": "EXP"},
        {"AcquisitionTime": "101500"},
        {"NominalPercentageOfRespiratoryPhase": 50.0},
    ):
        made = stack()
        again = in_series_of(made[0], stack(turn=0.4), **tags)
        yield Case(f"{next(iter(tags))}", files([*made, *again]), volumes=2, turns=(0.0, 0.4))
    made = stack()
    half = in_series_of(made[0], stack(along=np.arange(16) + 0.5, turn=0.4), AcquisitionNumber=2)
    yield Case("half a step apart", files([*made, *half]), volumes=2, turns=(0.0, 0.4))
    some = in_series_of(made[0], stack(along=np.arange(16) + 10, turn=0.4), AcquisitionNumber=2)
    yield Case("overlapping in part", files([*made, *some]), volumes=2, turns=(0.0, 0.4))
    follows = in_series_of(made[0], stack(along=np.arange(16, 32)), AcquisitionNumber=2)
    yield Case("one after the other", files([*made, *follows]), codes={"SEVERAL_ACQUISITIONS"})
    third = in_series_of(made[0], stack(turn=0.6), AcquisitionNumber=3)
    again = in_series_of(made[0], stack(turn=0.4), AcquisitionNumber=2)
    yield Case("three", files([*made, *again, *third]), volumes=3, turns=(0.0, 0.4, 0.6))
    counted = stack()
    for n, d in enumerate(counted):
        d.AcquisitionNumber = n
    yield Case("each slice its own", files(counted), codes=set())


def encodings():
    native = (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
    for syntax in (*native, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        shape = (16, 33, 41) if syntax == JPEG2000Lossless else SHAPE  # OpenJPEG packs no smaller ones
        for signed in (False, True):
            options = {"signed": signed, "intercept": 0.0 if signed else -4096.0}
            yield Case(
                f"{syntax.name}, signed {signed}", files(stack(shape=shape, **options), syntax), codes=set()
            )
        made = stack(rotation(10) @ straight(), (16, 33, 41), intercept=-1024.0)
        for d in made:
            stored = np.clip(np.frombuffer(d.PixelData, "<i2"), 0, 4095)  # 12 bits, as most scanners store
            d.PixelData, d.BitsStored, d.HighBit = stored.astype("<u2").tobytes(), 12, 11
        yield Case(f"{syntax.name}, 12 bits", files(made, syntax), codes=set(), value=-1)
    for slope, intercept in itertools.product((1.0, 0.5, 0.25, 2.0), (-4096.0, -3000.0, -4096.5)):
        packed = files(stack(slope=slope, intercept=intercept))
        yield Case(f"{slope} x + {intercept}", packed, codes=set(), value=1.51)
    own = [stack(intercept=-4096.0 - 10 * n)[n] for n in range(16)]
    yield Case("each slice its own intercept", files(in_series_of(own[0], own)), codes={"SCALES_DIFFER"})
    no_meta = {}
    for d in stack():
        buffer = stdio.BytesIO()
        pydicom.dcmwrite(buffer, d, implicit_vr=True, little_endian=True)
        no_meta[name_of(d)] = buffer.getvalue()
    yield Case("without preamble", no_meta, codes=set())
    for name, tags in (
        ("names in many scripts", {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Ωmega^山田=김"}),
        (
            "names in Latin",
            {"SpecificCharacterSet": "ISO_IR 100", "SeriesDescription": "Lungen-CT überlagert"},
        ),
        ("names in Cyrillic", {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Иванов"}),
        ("names in GB18030", {"SpecificCharacterSet": "GB18030", "SeriesDescription": "吸气"}),
        ("an unknown character set", {"SpecificCharacterSet": "KLINGON"}),
        ("a multi-valued description", {"SeriesDescription": ["a", "b"]}),
        ("padding", {"PixelPaddingValue": 63536}),
        ("padding range", {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 10}),
    ):
        yield Case(name, files(with_tags(stack(), **tags)), codes=set())
    for length in ("defined", "undefined"):
        made = stack()
        for d in made:
            inner = Dataset()
            inner.CodeValue, inner.CodeMeaning = "1", "x"
            deeper = Dataset()
            deeper.ProcedureCodeSequence = Sequence([inner])
            d.ReferencedStudySequence = Sequence([deeper])
            d["ReferencedStudySequence"].is_undefined_length = length == "undefined"
            deeper.is_undefined_length_sequence_item = length == "undefined"
            block = d.private_block(0x0029, "EXAMPLE", create=True)
            block.add_new(1, "OB", bytes(100_000 if length == "defined" else 10))
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            yield Case(f"sequences of {length} length, {syntax.name}", files(made, syntax), codes=set())
    for extra in (1, 2):
        made = stack()
        for d in made:
            d.PixelData += bytes(2 * extra)
        yield Case(f"{2 * extra} bytes after the pixels", files(made), codes=set())


def truncations():
    rng = np.random.default_rng(5)
    packed = files(stack())
    size = len(next(iter(packed.values())))
    for cut in sorted({0, 1, 127, 128, 131, 132, 133, 144, size - 1, size - 2, *rng.integers(0, size, 45)}):
        which = int(rng.integers(0, 16))
        yield Case(f"file {which} to {cut} bytes", changed(packed, which, lambda c, n=cut: c[:n]), EITHER)
    for cut in (200, 600, size - 100):
        cut_all = {name: c[:cut] for name, c in packed.items()}
        yield Case(
            f"all files to {cut} bytes", cut_all, REFUSED, "cut short|cannot be (parsed|used)|none of which"
        )
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian):
        packed = files(stack(shape=(16, 33, 41)), syntax)
        for share in (0.3, 0.7, 0.95):
            cut_one = changed(packed, 6, lambda c, s=share: c[: int(len(c) * s)])
            yield Case(f"{syntax.name} to {share}", cut_one, REFUSED, "cut short|cannot be")


def put(tag, vr, value):
    """Change an element's bytes in an explicit little-endian file: same tag, another VR and value."""

    def change(packed):
        key = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        at = packed.index(key, 132)
        long = packed[at + 4 : at + 6] in (b"OW", b"OB", b"SQ", b"UN", b"UT")
        old = (
            struct.unpack("<L", packed[at + 8 : at + 12])[0]
            if long
            else struct.unpack("<H", packed[at + 6 : at + 8])[0]
        )
        end = at + (12 if long else 8) + old
        return packed[:at] + key + vr + struct.pack("<H", len(value)) + value + packed[end:]

    return change


ROWS, COLUMNS = 0x00280010, 0x00280011


def hostile():
    packed = files(stack())
    every = (
        "claims|lacks|cannot|cut short|has|stores|allocates|zero or|right angle|missing|chest|colour|single"
    )
    for name, change in {
        "65535 rows": put(ROWS, b"US", b"\xff\xff"),
        "0 rows": put(ROWS, b"US", b"\0\0"),
        "UL for US": put(ROWS, b"UL", struct.pack("<L", 12)),
        "UL for US, 2^31 rows": put(ROWS, b"UL", struct.pack("<L", 1 << 31)),
        "two values for rows": put(ROWS, b"US", b"\x0c\0\x0c\0"),
        "rows as text": put(ROWS, b"LO", b"12"),
        "3 bytes for columns": put(COLUMNS, b"US", b"\x0a\0\0"),
        "signed rows": put(ROWS, b"SS", b"\xff\xff"),
        "half the rows": put(ROWS, b"US", b"\x06\0"),
        "twice the rows": put(ROWS, b"US", b"\x18\0"),
        "12 bits allocated": put(0x00280100, b"US", b"\x0c\0"),
        "no bits allocated": put(0x00280100, b"US", b"\0\0"),
        "64 bits allocated": put(0x00280100, b"US", b"\x40\0"),
        "200 bits stored": put(0x00280101, b"US", b"\xc8\0"),
        "high bit 99": put(0x00280102, b"US", b"\x63\0"),
        "65535 samples": put(0x00280002, b"US", b"\xff\xff"),
        "spacing 0": put(0x00280030, b"DS", b"0\\0 "),
        "spacing negative": put(0x00280030, b"DS", b"-1\\1"),
        "spacing NaN": put(0x00280030, b"DS", b"nan\\1 "),
        "spacing 1e308": put(0x00280030, b"DS", b"1e308\\1e308 "),
        "spacing text": put(0x00280030, b"DS", b"abc\\1 "),
        "one spacing": put(0x00280030, b"DS", b"1 "),
        "position infinite": put(0x00200032, b"DS", b"inf\\0\\0 "),
        "position NaN": put(0x00200032, b"DS", b"0\\nan\\0 "),
        "position 1e30": put(0x00200032, b"DS", b"0\\0\\1e30"),
        "position of two numbers": put(0x00200032, b"DS", b"0\\0 "),
        "position empty": put(0x00200032, b"DS", b""),
        "position in sideways words": put(0x00200032, b"LO", b"0\\0\\0 "),
        "orientation zero": put(0x00200037, b"DS", b"0\\0\\0\\0\\0\\0 "),
        "orientation parallel": put(0x00200037, b"DS", b"1\\0\\0\\1\\0\\0 "),
        "orientation NaN": put(0x00200037, b"DS", b"1\\0\\0\\0\\nan\\0 "),
        "orientation too long": put(0x00200037, b"DS", b"2\\0\\0\\0\\2\\0 "),
        "slope 0": put(0x00281053, b"DS", b"0 "),
        "slope NaN": put(0x00281053, b"DS", b"nan "),
        "slope 1e300": put(0x00281053, b"DS", b"1e300 "),
        "intercept infinite": put(0x00281052, b"DS", b"inf "),
        "intercept text": put(0x00281052, b"DS", b"none"),
    }.items():
        for where, made in (
            ("one", changed(packed, 6, change)),
            ("all", {n: change(c) for n, c in packed.items()}),
        ):
            if name in ("intercept text", "slope 1e300", "intercept infinite") and where == "one":
                yield Case(f"{name} in {where}", made, EITHER, value=1e9)
            else:
                yield Case(f"{name} in {where}", made, EITHER, every)
    for frames in (0, 4, -1, 2_000_000_000):
        made = with_tags(stack(), NumberOfFrames=str(frames))
        yield Case(
            f"{frames} frames",
            files(made),
            EITHER if frames == 0 else REFUSED,
            "frames|multi-frame|cut short",
        )
    for depth, undefined in ((20, True), (2000, True), (2000, False)):
        yield Case(
            f"nested {depth} deep, undefined {undefined}",
            changed(packed, 6, nested(depth, undefined)),
            EITHER,
        )
    for length in (0xFFFFFFF0, 0x7FFFFFFF, 1 << 30):
        for tag in (0x00081115, 0x00104000, 0x00091001):
            yield Case(
                f"{length:x} bytes of {tag:08x}", changed(packed, 6, huge(tag, length)), EITHER, "beside it"
            )
    for start in (b"MZ\x90", b"\x7fELF", b"%PDF-1.7", b"#!/bin/sh\n"):
        made = {n: start.ljust(128, b"\0") + c[128:] for n, c in packed.items()}
        yield Case(f"begins with {start!r}", made, codes={"SUSPICIOUS_PREAMBLE"})
    for text in (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "=cmd|'/c calc'!A1",
        "\x1b[31mred\x07",
        "../../etc",
    ):
        tags = {
            "PatientName": text,
            "PatientID": text,
            "SeriesDescription": text,
            "ConvolutionKernel": text[:16],
        }
        yield Case(f"{text!r} in the tags", files(with_tags(stack(), **tags)), codes=set())
    yield Case("a deflate bomb", changed(packed, 6, bomb), REFUSED, "unpacks to more than|longer than")
    yield Case(
        "an RLE bomb",
        {n: rle_bomb(c) for n, c in files(stack(), RLELossless).items()},
        REFUSED,
        "cannot|claims",
    )
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        shape = (16, 33, 41) if syntax == JPEG2000Lossless else SHAPE
        made = {
            n: put(ROWS, b"US", b"\0\x10")(put(COLUMNS, b"US", b"\0\x10")(c))
            for n, c in files(stack(shape=shape), syntax).items()
        }
        yield Case(f"{syntax.name} that claims 4096 x 4096", made, REFUSED, "cannot|has")
    yield Case(
        "a syntax nobody knows",
        {n: c.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0") for n, c in packed.items()},
        EITHER,
    )
    yield Case("a million elements", changed(packed, 6, many), EITHER)
    yield Case("every tag twice", changed(packed, 6, lambda c: c[:-300] + c[400:]), EITHER)
    yield Case("elements out of order", changed(packed, 6, lambda c: out_of_order(c)), EITHER)


def before_pixels(packed, inserted):
    at = packed.index(b"\xe0\x7f\x10\x00", 132)
    return packed[:at] + inserted + packed[at:]


def nested(depth, undefined):
    def change(packed):
        inner = b""
        for _ in range(depth):
            if undefined:
                item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0" + bytes(4)
                inner = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0" + bytes(4)
            else:
                item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
                inner = b"\x08\x00\x15\x11SQ\0\0" + struct.pack("<L", len(item)) + item
        return before_pixels(packed, b"\x40\x00" + inner[2:])

    return change


def huge(tag, length):
    def change(packed):
        at = packed.index(b"\x20\x00\x0d\x00", 132)
        return packed[:at] + struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"UN", 0, length) + packed[at:]

    return change


def bomb(packed):
    at = packed.index(b"\x08\x00\x08\x00", 132)
    head = packed[:at].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    head = head.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    group = struct.unpack("<L", head[140:144])[0] + 2
    head = head[:140] + struct.pack("<L", group) + head[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(1 << 20)
    return head + b"".join(packer.compress(block) for _ in range(260)) + packer.flush()


def rle_bomb(packed):
    """Runs of 128 bytes from two, far more than the picture has."""
    at = packed.index(b"\xe0\x7f\x10\x00", 132)
    frame = struct.pack("<16L", 2, 64, 64 + 200_000, *[0] * 13) + b"\x81\x05" * 200_000
    items = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + struct.pack("<L", len(frame)) + frame
    return packed[:at] + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0" + bytes(4)


def many(packed):
    elements = b"".join(
        struct.pack("<HH2sH", 0x0041, n & 0xFFFF, b"UN", 0) + bytes(4) for n in range(100_000)
    )
    return before_pixels(packed, elements)


def out_of_order(packed):
    at, to = packed.index(b"\x20\x00\x32\x00", 132), packed.index(b"\x20\x00\x37\x00", 132)
    end = packed.index(b"\x20\x00\x52\x00", 132)
    return packed[:at] + packed[to:end] + packed[at:to] + packed[end:]


def archives():
    packed = files(stack())

    def zipped(members, **options):
        buffer = stdio.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    flat = zipped(packed)
    yield Case("flat", {"a.zip": flat}, codes=set())
    yield Case("under another name", {"study.img": flat}, codes=set())
    yield Case(
        "nested folders", {"a.zip": zipped({f"a/b/{n}/IM": c for n, c in packed.items()})}, codes=set()
    )
    yield Case("zip in zip", {"a.zip": zipped({"b/c.zip": flat, "README": b"x"})}, codes=set())
    names = {f"../../../../tmp/{n}": c for n, c in packed.items()}
    yield Case("names that climb", {"a.zip": zipped(names)}, codes=set())
    yield Case("absolute names", {"a.zip": zipped({f"/etc/{n}": c for n, c in packed.items()})}, codes=set())
    yield Case(
        "beside loose files",
        {**dict(list(packed.items())[:8]), "a.zip": zipped(dict(list(packed.items())[8:]))},
        codes=set(),
    )
    deep = flat
    for _ in range(4):
        deep = zipped({"x.zip": deep})
    yield Case("five deep", {"a.zip": deep}, REFUSED, "nested more than 3 deep")
    first = next(iter(packed.values()))
    yield Case("a bomb", {"a.zip": zipped({"a": first + bytes(400 << 20)})}, REFUSED, "unpacks to more than")
    yield Case("cut short", {"a.zip": flat[:-200]}, REFUSED, "no DICOM|cannot be unpacked|not a valid")
    damaged = flat[:3000] + bytes(400) + flat[3400:]
    yield Case("damaged", {"a.zip": damaged}, REFUSED, "cannot be unpacked")
    locked = bytearray(flat)
    for at in range(len(locked) - 4):
        if locked[at : at + 4] == b"PK\x01\x02":
            locked[at + 8] |= 1
    yield Case("locked", {"a.zip": bytes(locked)}, REFUSED, "password")
    beside = {**packed, "documents.zip": bytes(locked)}
    yield Case("locked, beside slices", beside, codes=set())
    yield Case("nothing in it", {"a.zip": zipped({"README": b"x"})}, REFUSED, "no DICOM")


KEPT = """
    Modality StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID PatientID PatientName StudyDate SeriesNumber
    SeriesDescription Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit
    PixelRepresentation PatientPosition
    """.split()  # noqa: SIM905


def enhanced(
    affine=None, shape=SHAPE, *, order=None, along=None, passes=1, syntax=ExplicitVRLittleEndian, **change
):
    """One multi-frame file; `order` is that of its frames."""
    affine = straight() if affine is None else affine
    slices = [d for n in range(passes) for d in stack(affine, shape, along=along, turn=0.4 * n)]
    order = range(len(slices)) if order is None else order
    first = slices[0]
    d = Dataset()
    for name in KEPT:
        setattr(d, name, getattr(first, name))
    d.SOPClassUID, d.SOPInstanceUID, d.NumberOfFrames = EnhancedCTImageStorage, uid(), len(slices)
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, each = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, "2"
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    for n in order:
        groups, place, told, values = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = slices[n].ImagePositionPatient
        told.TemporalPositionIndex = int(1 + n // shape[0])
        told.FrameAcquisitionNumber = 1
        values.RescaleSlope, values.RescaleIntercept = "1", slices[n].RescaleIntercept
        groups.PlanePositionSequence = Sequence([place])
        groups.FrameContentSequence = Sequence([told])
        groups.PixelValueTransformationSequence = Sequence([values])
        each.append(groups)
    d.SharedFunctionalGroupsSequence, d.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(each)
    d.PixelData = b"".join(slices[n].PixelData for n in order)
    for name, value in change.items():
        setattr(d, name, value)
    return files([d], syntax)


def multi_frames():
    rng = np.random.default_rng(2)
    yield Case("in order", enhanced(), codes=set())
    yield Case("backwards", enhanced(order=range(15, -1, -1)), codes=set())
    for n in range(3):
        yield Case(f"at random {n}", enhanced(order=rng.permutation(16)), codes=set())
    yield Case("oblique", enhanced(rotation(25) @ straight(), order=rng.permutation(16)), codes=set())
    gone = [n for n in range(16) if n != 6]
    yield Case("one missing", enhanced(along=gone, shape=(15, 12, 10)), codes={"MISSING_SLICES"})
    tilt = straight()
    tilt[1, 0] = 0.5
    yield Case("tilted", enhanced(tilt), codes={"GANTRY_TILT"})
    twice = enhanced(passes=2, order=rng.permutation(32))
    yield Case("two time points", twice, volumes=2, turns=(0.0, 0.4))
    for syntax in (ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian):
        packed = enhanced(shape=(16, 33, 41), order=rng.permutation(16), syntax=syntax)
        yield Case(syntax.name, packed, codes=set())
    yield Case("more frames than described", enhanced(NumberOfFrames=17), REFUSED, "17 frames")
    yield Case("fewer frames than described", enhanced(NumberOfFrames=3), REFUSED, "3 frames")
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "109081", "SCT", "Iohexol"
    told = enhanced(ContrastBolusAgentSequence=Sequence([agent]))
    yield Case("with contrast", told, codes={"CONTRAST_AGENT"})
    short = enhanced()
    yield Case("cut short", changed(short, 0, lambda c: c[:-500]), REFUSED, "cut short")


LEAST = {
    orientations: 58,
    names_and_numbers: 11,
    tilts: 25,
    missing: 30,
    duplicates: 12,
    jitters: 30,
    uneven: 17,
    mixtures: 12,
    localizers: 7,
    acquisitions: 16,
    encodings: 48,
    truncations: 60,
    hostile: 100,
    archives: 13,
    multi_frames: 16,
}
"""At least so many cases of each."""


# --- judging ----------------------------------------------------------------------------------------------


def check_volume(scan, case, turns):
    """Raise unless each voxel is where it says."""
    volume = scan.volume
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1.1e-4, "sheared"
    world = volume.grid.world(np.stack(np.indices(volume.shape), -1))
    tilted = "GANTRY_TILT" in {f.code for f in scan.findings}
    counted = np.ones(volume.shape, bool)
    if tilted:
        counted = volume.array != -1024  # what was not scanned
        assert counted.mean() > 0.2
    if case.value >= 0:
        off = min(np.abs(field_hu(world, t) - volume.array)[counted].max() for t in turns)
        assert off <= (max(1.01, case.value) if tilted else case.value) + 1e-6, (
            f"voxels are off by {off:.2f} HU"
        )
    if tilted:
        return
    slices = positions_of(scan.files)
    planes = [k for k in range(volume.shape[0]) if k not in scan.facts["interpolated_slices"]]
    corners = volume.grid.world([(k, 0, 0) for k in planes])
    off = np.linalg.norm(corners[:, None] - slices[None], axis=2).min(axis=1).max()
    assert off <= case.place, f"planes are {off} mm from the slices"


def positions_of(paths):
    found = []
    for path in paths:
        d = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        frames = d.get("PerFrameFunctionalGroupsSequence")
        places = [f.PlanePositionSequence[0] for f in frames] if frames else [d]
        found += [[float(v) for v in place.ImagePositionPatient] for place in places]
    return np.array(found)


def judge(case, folder):
    """``right`` or ``refused``; raises AssertionError where it is neither."""
    for name, data in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    try:
        if case.volumes > 1:
            listed = [info for info in io.list_series(folder) if info.usable]
            assert len(listed) == case.volumes
            with pytest.raises(InputError, match=f"{case.volumes} CT series"):
                io.read(folder)
            scans = [io.read_series(info) for info in listed]
        else:
            scans = [io.read(folder)]
    except LungvqError as error:
        told = str(error)
        assert case.outcome != READ, told
        assert len(told) > len(str(folder)) + 10
        assert "\n" not in told
        assert "\x1b" not in told
        assert not case.reason or re.search(case.reason, told), told
        return "refused"
    assert case.outcome != REFUSED, "was read"
    for scan in scans:
        check_volume(scan, case, case.turns)
        if case.itk:
            check_against_simpleitk(scan)
        if case.codes is not None:
            assert {f.code for f in scan.findings} == case.codes
    return "right"


@pytest.fixture(autouse=True)
def write_what_is_wrong(monkeypatch):
    """And judge geometry alone: a few HU in a box are no chest."""
    monkeypatch.setattr(listing, "check_chest_ct", lambda volume, name: {})
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)


def check_against_simpleitk(scan):
    """An ordinary series read by another: the same voxels at the same points, to 1e-6 mm."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in scan.files])
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan.volume.array)
    for k, j, i in itertools.product(*((0, n - 1) for n in scan.volume.shape)):
        point = image.TransformIndexToPhysicalPoint((i, j, k))
        assert np.abs(scan.volume.grid.world((k, j, i)) - point).max() <= 1e-6, "SimpleITK has it elsewhere"


@pytest.mark.parametrize("fault", LEAST, ids=lambda fault: fault.__name__)
def test_read_right_or_refused_with_a_reason(fault, tmp_path, capsys):
    counts = Counter()
    wrong = []
    for n, case in enumerate(fault()):
        folder = tmp_path / str(n)
        folder.mkdir()
        try:
            counts[judge(case, folder)] += 1
        except AssertionError as error:
            wrong.append(f"{case.name}: {(str(error).splitlines() or ['?'])[0]}")
    peak = peak_mb()
    with capsys.disabled():
        told = f"{counts['right']} right, {counts['refused']} refused, {len(wrong)} wrong"
        print(f"\n{fault.__name__}: {told}, {peak} MB at most", end="")
    assert not wrong, "\n".join(wrong)
    assert counts.total() >= LEAST[fault]
    assert peak < 1024


def peak_mb():
    """Of the processes that took the files apart and were not ended by their limits."""
    most = 0
    for process in sandbox._idle._processes:
        status = Path(f"/proc/{process._popen.pid}/status")
        if status.exists():
            most = max(most, int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) >> 10)
    sandbox._idle.close()
    return most


def test_the_corpus_is_large():
    assert sum(LEAST.values()) >= 400


# --- a second opinion -------------------------------------------------------------------------------------


def second_opinions():
    yield from itertools.islice(orientations(), 0, None, 12)
    yield next(names_and_numbers())
    yield from itertools.islice(encodings(), 0, 15, 2)
    yield from itertools.islice(multi_frames(), 0, 2)


DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(not DCM2NIIX, reason="dcm2niix is not installed")
def test_dcm2niix_has_the_same_values_at_the_same_points(tmp_path, capsys):
    """To 1e-4 mm: NIfTI keeps places as 32-bit numbers."""
    count = 0
    for n, case in enumerate(second_opinions()):
        source, made = tmp_path / f"in{n}", tmp_path / f"out{n}"
        made.mkdir()
        for name, data in case.files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        command = [DCM2NIIX, "-z", "n", "-b", "n", "-o", made, source]
        subprocess.run(command, capture_output=True, check=False)
        found = sorted(made.glob("*.nii"))
        if len(found) != 1:  # not one volume to dcm2niix
            continue
        scan = io.read(source)
        image = nib.load(found[0])
        values = np.asarray(image.dataobj).reshape(image.shape[:3])
        affine = np.diag([-1, -1, 1, 1]) @ image.affine
        theirs = np.stack(np.indices(values.shape), -1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
        ours = scan.volume.grid.index(theirs)
        assert values.size == scan.volume.array.size
        assert np.abs(ours - np.rint(ours)).max() * min(scan.volume.spacing) < 1e-4, case.name
        k, j, i = np.rint(ours).astype(int).T
        np.testing.assert_array_equal(scan.volume.array[k, j, i], values.reshape(-1), case.name)
        count += 1
    with capsys.disabled():
        print(f"\ndcm2niix agrees on {count} volumes", end="")
    assert count >= 12


DCMTK = os.pathsep.join(p for p in os.get_exec_path() if not Path(p).is_relative_to(sys.prefix))


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("dcmcjpeg", path=DCMTK), reason="DCMTK is not installed")
@pytest.mark.parametrize(
    "make", [enhanced, lambda shape: files(stack(shape=shape))], ids=["enhanced", "classic"]
)
@pytest.mark.parametrize(
    ("tool", "option", "syntax"),
    [
        ("dcmcjpeg", "+e1", "JPEG Lossless, Non-Hierarchical, First-Order Prediction"),
        ("dcmcjpeg", "+el", "JPEG Lossless, Non-Hierarchical (Process 14)"),
        ("dcmcjpls", "+el", "JPEG-LS Lossless"),
        ("dcmcrle", "-v", "RLE Lossless"),
        ("dcmconv", "+ti", "Implicit VR Little Endian"),
        ("dcmconv", "+tb", "Explicit VR Big Endian"),
        ("dcmconv", "+td", "Deflated Explicit VR Little Endian"),
    ],
)
def test_what_dcmtk_packed(tmp_path, make, tool, option, syntax):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name, data in make(shape=(16, 33, 41)).items():
        (tmp_path / "in" / name).write_bytes(data)
        command = [shutil.which(tool, path=DCMTK), option, tmp_path / "in" / name, tmp_path / "out" / name]
        subprocess.run(list(filter(None, command)), check=True, capture_output=True)
    before, after = io.read(tmp_path / "in"), io.read(tmp_path / "out")
    assert after.facts["transfer_syntax"].startswith(syntax)
    np.testing.assert_array_equal(after.volume.array, before.volume.array)
    np.testing.assert_allclose(after.volume.affine, before.volume.affine, rtol=0, atol=1e-9)
