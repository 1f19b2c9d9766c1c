"""The header of a DICOM file as plain values; runs in `lungvq.io.child`, for files one cannot trust.

Ordinary files, which are nearly all, are scanned by `_scan`, ten times as fast as pydicom and without
importing it. Whatever is not quite ordinary, damage above all, is left to pydicom and its wide experience.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from io import BytesIO
from struct import unpack, unpack_from
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["TAGS", "Damaged", "describe", "inflated", "printable", "reason_of"]

TAGS = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyDate": 0x00080020,
    "SeriesDate": 0x00080021,
    "AcquisitionDate": 0x00080022,
    "AcquisitionDateTime": 0x0008002A,
    "StudyTime": 0x00080030,
    "SeriesTime": 0x00080031,
    "AcquisitionTime": 0x00080032,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "StudyDescription": 0x00081030,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "PatientSex": 0x00100040,
    "PatientSize": 0x00101020,
    "PatientWeight": 0x00101030,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "ScanOptions": 0x00180022,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "ProtocolName": 0x00181030,
    "ReconstructionDiameter": 0x00181100,
    "Exposure": 0x00181152,
    "ConvolutionKernel": 0x00181210,
    "PatientPosition": 0x00185100,
    "RespiratoryMotionCompensationTechnique": 0x00189170,
    "RespiratoryCyclePosition": 0x00189214,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "ImageComments": 0x00204000,
    "NominalPercentageOfRespiratoryPhase": 0x00209245,
    "StartingRespiratoryPhase": 0x00209247,
    "EndingRespiratoryPhase": 0x00209249,
    "SamplesPerPixel": 0x00280002,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "LossyImageCompression": 0x00282110,
    "RequestedProcedureDescription": 0x00321060,
}
"""What is read of a header: keyword and tag."""

MAX_FRAMES = 5000
MAX_INFLATED = 256 << 20
MAX_TEXT, MAX_VALUES = 1024, 64

_CT, _ENHANCED_CT, _LEGACY_CT = (f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

_PIXEL_TAG, _UNDEFINED = 0x7FE00010, 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_AGENTS = "ContrastBolusAgentSequence"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_WIRE = {
    "rows": "Rows",
    "columns": "Columns",
    "samples": "SamplesPerPixel",
    "frames": "NumberOfFrames",
    "allocated": "BitsAllocated",
    "stored": "BitsStored",
    "high": "HighBit",
    "signed": "PixelRepresentation",
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept",
    "padding": "PixelPaddingValue",
}
_DEFAULTS = {"samples": 1, "frames": 1, "signed": 0, "slope": 1.0, "intercept": 0.0}
# What the functional groups of Enhanced CT call otherwise than classic CT.
_ENHANCED_NAMES = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "ExposureInmAs": "Exposure",
}
_PREAMBLES = {b"MZ": "a Windows program", b"\x7fELF": "a Linux program", b"%PDF": "a PDF", b"#!": "a script"}


class Damaged(Exception):
    """Why a file cannot be used; goes after "<name> "."""


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins so may be DICOM, with its preamble or without."""
    return head[128:132] == b"DICM" or (len(head) > 132 and head[:2] == b"\x08\0" and head[3] == 0)


def describe(path: str) -> dict[str, Any]:
    """What a file is and what its header says.

    Returns
    -------
    reply : dict
        ``kind`` is ``image``, ``empty``, ``other`` (no DICOM, or DICOM without pixels) or ``damaged``. An
        image has ``tags``, shared by its ``frames``: one pair (tags of its own, wire) for each picture. A
        damaged file has a ``reason``, and ``series`` where so much could be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(_HEAD)
        if not looks_like_dicom(head):
            if 0 < len(head) < 132 and not any(head):
                return {"kind": "damaged", "reason": "is cut short", "series": None}
            return {"kind": "other" if head else "empty"}
        size = os.fstat(file.fileno()).st_size
        try:
            tags, where = _scan(head, size)
            header = None
        except Exception:  # whatever it is, pydicom shall say
            try:
                header, where = _parse(inflated(file, head))
                tags = {keyword: _plain(header, keyword) for keyword in TAGS}
                agents = header.get(_AGENTS)
                if agents and tags["ContrastBolusAgent"] is None:  # as Enhanced CT has it
                    tags["ContrastBolusAgent"] = _plain(agents[0], "CodeMeaning")
            except BaseException as error:  # damage raises nearly anything, RecursionError too
                return {"kind": "damaged", "reason": reason_of(error, "parsed"), "series": _series_of(file)}
        try:
            if where is None:
                # The object's own class may be what was cut short; that in the file's meta information is not.
                kind = str(_meta(header, "MediaStorageSOPClassUID") or tags["SOPClassUID"] or "")
                if any(ct.startswith(kind) for ct in (_CT, _ENHANCED_CT, _LEGACY_CT)):
                    raise Damaged("is cut short: it has no pixels")
                return {"kind": "other"}
            stream = inflated(file, head)
            tags["TransferSyntaxUID"] = where["syntax"] if stream is file else _DEFLATED
            if where["length"] is None:
                _check_packed(stream, where)
            elif where["offset"] + where["length"] > where["end"]:
                raise Damaged(
                    f"is cut short: {where['end'] - where['offset']} of {where['length']} bytes of pixels"
                )
            place = {**where, "path": path, "deflated": stream is not file}
            frames = list(_frames(header, tags, place))
        except BaseException as error:
            series = tags["SeriesInstanceUID"]
            return {"kind": "damaged", "reason": reason_of(error, "parsed"), "series": series}
    preamble = next((what for start, what in _PREAMBLES.items() if head.startswith(start)), None)
    return {"kind": "image", "tags": tags, "frames": frames, "preamble": preamble}


def reason_of(error: BaseException, done: str) -> str:
    """What to say of a file, after its name."""
    if isinstance(error, Damaged):
        return str(error)
    if isinstance(error, RecursionError):
        return "cannot be parsed: its sequences are nested beyond measure"
    if isinstance(error, MemoryError):
        return f"cannot be {done} within the memory that a file may take"
    told = printable((str(error).splitlines() or [""])[0][:160])
    return f"cannot be {done} ({told or type(error).__name__})"


def printable(text: str, instead: str = " ") -> str:
    """Text without what could command a terminal: a file's words are nobody's to trust.

    Examples
    --------
    >>> printable("a\\x1b[2Jb")
    'a [2Jb'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else instead for c in text).strip()


# --- ordinary files ---------------------------------------------------------------------------------------

_HEAD = 1 << 16
_KEYWORDS = {tag: keyword for keyword, tag in TAGS.items()}
_CHARSET = 0x00080005
_CODECS = {"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}
_LONG = frozenset(b"OB OW OF OD OL OV SQ UN UC UR UT SV UV".split())
_TEXT = frozenset(b"AE AS CS DA DT LO LT PN SH ST TM UC UI UT".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
# For files that do not say: how the values of TAGS are written where not as text.
_REALS = frozenset(
    TAGS[name]
    for name in """
    SliceThickness KVP ReconstructionDiameter ImagePositionPatient ImageOrientationPatient PixelSpacing
    RescaleIntercept RescaleSlope
    """.split()  # noqa: SIM905
)
_INTEGERS = frozenset(
    TAGS[name]
    for name in """
    Exposure SeriesNumber AcquisitionNumber InstanceNumber TemporalPositionIdentifier NumberOfFrames
    """.split()  # noqa: SIM905
)
_SHORTS = frozenset(
    TAGS[name]
    for name in """
    SamplesPerPixel Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue
    """.split()  # noqa: SIM905
)
_FLOATS = frozenset([TAGS["NominalPercentageOfRespiratoryPhase"]])
_WHOLE_TEXT = frozenset([TAGS["ImageComments"]])


class _Unusual(Exception):
    """Leave it to pydicom."""


def _scan(head: bytes, size: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Values of TAGS and the place of the pixels, for a little-endian file with nothing odd about it.

    Raises
    ------
    Exception
        Of any kind, where there is.
    """
    if head[128:132] != b"DICM" or head[132:136] != b"\x02\0\0\0" or head[136:140] != b"UL\x04\0":
        raise _Unusual
    start = 144 + int(unpack_from("<L", head, 140)[0])
    meta = {tag: head[at : at + n] for tag, _, at, n in _elements(head, 144, start, explicit=True)}
    syntax = meta[0x00020010].rstrip(b"\0 ").decode("ascii")
    if syntax in (_DEFLATED, _BIG_ENDIAN) or not syntax.startswith("1.2.840.10008.1.2"):
        raise _Unusual
    tags: dict[str, Any] = dict.fromkeys(TAGS)
    codec = "ascii"
    for tag, vr, at, length in _elements(head, start, len(head), explicit=syntax != _IMPLICIT):
        if tag == _PIXEL_TAG:
            packed = length == _UNDEFINED
            place = {"offset": at, "length": None if packed else length, "end": size}
            return tags, {"syntax": syntax, "little": True, **place}
        if tag == _CHARSET:
            codec = _CODECS[head[at : at + length].decode("ascii").strip(" \0")]
        elif tag == TAGS["PixelPaddingValue"] and vr is None:
            vr = b"SS" if tags["PixelRepresentation"] else b"US"
            tags["PixelPaddingValue"] = _value(tag, vr, head[at : at + length], codec)
        elif tag in _KEYWORDS:
            tags[_KEYWORDS[tag]] = _value(tag, vr, head[at : at + length], codec)
        elif tag >> 16 in (0x5200, 0x0004):  # Enhanced CT; a directory of files
            raise _Unusual
    raise _Unusual


def _elements(
    head: bytes, at: int, end: int, *, explicit: bool
) -> Iterator[tuple[int, bytes | None, int, int]]:
    """Tag, VR, place and length of the value of each element; sequences are passed over."""
    before = 0
    while at < end:
        tag, vr, at, length = _element(head, at, explicit)
        if tag <= before:
            raise _Unusual
        before = tag
        yield tag, vr, at, length
        at = _end_of_sequence(head, at, explicit, 0) if length == _UNDEFINED else at + length
    if at != end:
        raise _Unusual


def _element(head: bytes, at: int, explicit: bool) -> tuple[int, bytes | None, int, int]:
    group, element = unpack_from("<HH", head, at)
    tag = group << 16 | element
    if not explicit or group == 0xFFFE:
        return tag, None, at + 8, unpack_from("<L", head, at + 4)[0]
    vr = head[at + 4 : at + 6]
    if vr in _SHORT:
        return tag, vr, at + 8, unpack_from("<H", head, at + 6)[0]
    if vr in _LONG:
        return tag, vr, at + 12, unpack_from("<L", head, at + 8)[0]
    raise _Unusual


def _end_of_sequence(head: bytes, at: int, explicit: bool, depth: int) -> int:
    """Where a sequence that does not tell its length ends."""
    if depth > 8:
        raise _Unusual
    while True:
        tag, _, at, length = _element(head, at, explicit)
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        if length != _UNDEFINED:
            at += length
            continue
        while True:
            tag, _, at, length = _element(head, at, explicit)
            if tag == _ITEM_END:
                break
            at = _end_of_sequence(head, at, explicit, depth + 1) if length == _UNDEFINED else at + length


def _value(tag: int, vr: bytes | None, raw: bytes, codec: str) -> Any:
    """A value as `_plain_value` gives it."""
    if tag in _SHORTS:
        if len(raw) != 2 or vr not in (b"US", b"SS", None):
            raise _Unusual
        return unpack("<h" if vr == b"SS" else "<H", raw)[0]
    if tag in _FLOATS:
        if len(raw) != 4 or vr not in (b"FL", None):
            raise _Unusual
        return unpack("<f", raw)[0]
    text = raw.decode(codec)
    if tag in _REALS or tag in _INTEGERS:
        if vr not in (b"DS" if tag in _REALS else b"IS", None):
            raise _Unusual
        numbers = (
            [(float if tag in _REALS else int)(part) for part in text.split("\\")] if text.strip() else []
        )
        return (numbers[0] if len(numbers) == 1 else numbers[:MAX_VALUES]) if numbers else None
    if vr is not None and vr not in _TEXT:
        raise _Unusual
    parts = [text] if tag in _WHOLE_TEXT else text.split("\\")
    plain = [part.rstrip("\0 ")[:MAX_TEXT] or None for part in parts]
    return plain[0] if len(plain) == 1 else plain[:MAX_VALUES]


# --- with pydicom -----------------------------------------------------------------------------------------


def inflated(file: BinaryIO, head: bytes) -> BinaryIO:
    """The file from its start; where it is deflated, what it unpacks to, under a syntax that says so.

    A deflated file of some kB can unpack to GB, and pydicom would.

    Raises
    ------
    Damaged
        If it unpacks beyond measure.
    """
    file.seek(0)
    if _DEFLATED.encode() not in head or head[128:132] != b"DICM":
        return file
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(file.name)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return file
    file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_INFLATED)
    if len(content) == MAX_INFLATED:
        raise Damaged(f"unpacks to more than {MAX_INFLATED >> 20} MB")
    syntax = _EXPLICIT.encode() + b"\0"
    element = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    return BytesIO(bytes(128) + b"DICM" + element + content)


def _parse(stream: BinaryIO) -> tuple[Dataset, dict[str, Any] | None]:
    """The header, and where its pixels lie: None where there are none."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    header = pydicom.dcmread(
        stream, stop_before_pixels=True, force=True, specific_tags=[*TAGS, *_GROUPS, _AGENTS]
    )
    implicit, little = map(bool, header.original_encoding)
    guessed = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    where = _pixel_element(stream, implicit, little)
    syntax = str(_meta(header, "TransferSyntaxUID") or guessed)
    return header, where and {"syntax": syntax, "little": little, **where}


def _meta(header: Dataset | None, keyword: str) -> Any:
    meta = getattr(header, "file_meta", None)
    return meta.get(keyword) if meta is not None else None


def _pixel_element(stream: BinaryIO, implicit: bool, little: bool) -> dict[str, Any] | None:
    """Offset and length of the value of Pixel Data, where parsing stopped; length None where packed."""
    start = stream.read(12)
    if len(start) < (8 if implicit else 12):
        return None
    order = "<" if little else ">"
    group, element = unpack(f"{order}HH", start[:4])
    if group << 16 | element != _PIXEL_TAG:
        return None
    length = unpack(f"{order}L", start[4:8] if implicit else start[8:12])[0]
    offset = stream.tell() - len(start) + (8 if implicit else 12)
    end = stream.seek(0, os.SEEK_END)
    return {"offset": offset, "length": None if length == _UNDEFINED else length, "end": end}


def _check_packed(stream: BinaryIO, where: dict[str, Any]) -> None:
    """Packed pixels go on to their delimiter: some decoders make a picture of half a stream without a word."""
    at = where["offset"]
    while True:
        stream.seek(at)
        start = stream.read(8)
        if len(start) < 8:
            raise Damaged("is cut short: its packed pixels do not end")
        group, element, length = unpack("<HHL" if where["little"] else ">HHL", start)
        if group << 16 | element == _SEQUENCE_END:
            return
        if group << 16 | element != _ITEM or length == _UNDEFINED:
            raise Damaged("has packed pixels that are no list of items")
        at += 8 + length


def _frames(
    header: Dataset | None, tags: dict[str, Any], where: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each picture what it has of its own, and how to get at its pixels."""
    common = {
        name: _DEFAULTS.get(name) if tags[keyword] is None else tags[keyword]
        for name, keyword in _WIRE.items()
    }
    count = common["frames"]
    if not isinstance(count, int) or not 1 <= count <= MAX_FRAMES:
        raise Damaged(f"claims {count} frames")
    shared, each = ((header.get(name) if header is not None else None) or [] for name in _GROUPS)
    if each and len(each) != count:
        raise Damaged(f"has {count} frames and describes {len(each)}")
    grouped = _of_groups(shared[0], tags) if shared else {}
    for n in range(count):
        own = {**grouped, **(_of_groups(each[n], tags) if each else {})}
        wire = {**common, **where, "frame": n}
        wire |= {name: own[keyword] for name, keyword in _WIRE.items() if own.get(keyword) is not None}
        yield own, wire


def _of_groups(groups: Dataset, tags: dict[str, Any]) -> dict[str, Any]:
    """Attributes out of the functional groups, under their classic names."""
    found = {}
    for group in groups:
        if group.VR != "SQ" or not group.value:
            continue
        for element in group.value[0]:
            keyword = _ENHANCED_NAMES.get(element.keyword, element.keyword)
            if keyword in tags and element.VR != "SQ":
                found[keyword] = _plain_value(element.value)
    return found


def _plain(header: Dataset, keyword: str) -> Any:
    try:
        return _plain_value(header.get(keyword))
    except Exception:  # one value that cannot be understood; the caller knows whether it matters
        return None


def _plain_value(value: Any) -> Any:
    """As JSON can carry it: None, a number, text, or a list of them; None for text that is empty."""
    from pydicom.dataset import Dataset
    from pydicom.multival import MultiValue
    from pydicom.sequence import Sequence as DicomSequence

    if value is None or isinstance(value, (bytes, DicomSequence, Dataset)):
        return None
    if isinstance(value, (MultiValue, list, tuple)):
        return [_plain_value(v) for v in value[:MAX_VALUES]]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value).rstrip("\0 ")[:MAX_TEXT] or None


def _series_of(file: BinaryIO) -> str | None:
    """The series a damaged file belongs to, where its beginning can still be read."""
    file.seek(0)
    if _DEFLATED.encode() in file.read(_HEAD):
        return None
    try:
        from pydicom.filereader import read_partial

        file.seek(0)
        beyond = 0x0020000E
        start = read_partial(file, stop_when=lambda tag, *_: tag > beyond, force=True, specific_tags=[beyond])
        return str(start.SeriesInstanceUID)
    except BaseException:
        return None
