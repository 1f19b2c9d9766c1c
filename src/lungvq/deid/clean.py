"""One dataset without what could name its patient: every element, at any depth, is settled by the table.

Elements are taken as they lie in the file and only those that change are decoded, so that what is kept, the pixels
first of all, is written back byte for byte. Beyond the table, whose authors say that it may not suffice:

* attributes the table does not name are kept only where their value cannot hold words (numbers, codes) or where
  they are known to describe the equipment; words, dates and UIDs among them are emptied, treated as dates, replaced;
* what is kept is searched for the patient's and other people's names and numbers, and emptied where one is found.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from lungvq.deid.images import Refused
from lungvq.deid.profile import Action, Option, Profile
from lungvq.deid.words import KNOWN, clean_words
from lungvq.errors import OutputError, UsageError

__all__ = ["Deidentifier", "Secret"]

_SHORTEST = 8  # characters of a salt
_MOST_DAYS = 3650  # dates are moved back by up to ten years


@dataclass(frozen=True)
class Secret:
    """What is made up, the same for the same salt and never to be turned back without it.

    Parameters
    ----------
    salt : bytes
    """

    salt: bytes = field(repr=False)

    @classmethod
    def from_user(cls, salt: str | None = None, file: Path | None = None) -> Secret:
        """The secret a user gave, or a new one; only a file that was asked for ever holds it.

        Raises
        ------
        UsageError
            If both are given, or one is too short to be secret.
        OutputError
            If the file cannot be written.
        """
        if salt is not None and file is not None:
            raise UsageError("give --salt or --salt-file, not both")
        if file is not None and not file.exists():
            try:
                file.touch(mode=0o600, exist_ok=False)
                file.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
            except OSError as error:
                raise OutputError(f"cannot write the secret to {file}: {error.strerror or error}") from error
        if file is not None:
            salt = file.read_bytes().decode("utf-8", "surrogateescape").strip()
        if salt is None:
            return cls(secrets.token_bytes(32))
        if len(salt) < _SHORTEST:
            raise UsageError(f"a salt has at least {_SHORTEST} characters, so that nobody can guess it")
        return cls(salt.encode("utf-8", "surrogateescape"))

    def digest(self, what: str, value: str) -> bytes:
        """32 bytes that stand for a value."""
        return hmac.new(self.salt, f"{what}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, old: str) -> str:
        """A UID for a UID: a UUID (version 8) under 2.25."""
        raw = bytearray(self.digest("uid", old)[:16])
        raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(raw, 'big')}"

    def pseudonym(self, patient: str) -> str:
        """A name for a patient."""
        return f"P{self.digest('patient', patient).hex()[:12].upper()}"

    def days(self, patient: str) -> int:
        """By how many days a patient's dates are moved: 1 to 3650 back."""
        return -1 - int.from_bytes(self.digest("days", patient)[:8], "big") % _MOST_DAYS


# Words the table does not name and that describe the equipment, the technique or a code.
_EQUIPMENT = frozenset(
    """
    Manufacturer ManufacturerModelName SoftwareVersions ManufacturerModelVersion
    CodeValue LongCodeValue URNCodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning
    ConvolutionKernel FilterType FilterMaterial ImageFilter RescaleType LUTLabel ModalityLUTType StackID
    SegmentLabel SegmentAlgorithmName AlgorithmName AlgorithmVersion ContrastBolusRoute ReconstructionMethod
    AttenuationCorrectionMethod ScatterCorrectionMethod RandomsCorrectionMethod Radiopharmaceutical SequenceName
    PulseSequenceName ReceiveCoilName TransmitCoilName CollimatorGridName PatientSpeciesDescription
    """.split()  # noqa: SIM905
)
_FILLED = frozenset(
    {"LUTExplanation", "TrackingID", "LocalNamespaceEntityID", "UniversalEntityID", "TextValue"}
)
"""Other words that must not be empty where they are."""

_WORDS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR", "PN", "AE"})
_DATES = frozenset({"DA", "DT", "TM"})
_NUMBERS = frozenset(
    {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT", "US or SS", "US or OW", "US or SS or OW"}
)
_BULK_GROUPS = frozenset({0x0028, 0x7FE0})  # look-up tables and pixels
_LEGAL = {
    "CS": re.compile(rb"[\w .+/-]{0,16}(?:\\[\w .+/-]{0,16})*\0?", re.ASCII),
    "DS": re.compile(rb"[0-9+\-eE. \\]*\0?"),
    "IS": re.compile(rb"[0-9+\- \\]*\0?"),
    "AS": re.compile(rb"(?:\d{3}[DWMY])?[ \0]*"),
}
_REGISTERED = ("1.2.840.10008.",)
_KINDS = (
    "ClassUID",
    "SyntaxUID",
    "CodingSchemeUID",
    "ContextUID",
    "MappingResourceUID",
)  # name a kind, not a thing

_IDENTITY = frozenset(
    """
    PatientID OtherPatientIDs IssuerOfPatientID PatientBirthDate PatientAddress PatientTelephoneNumbers
    AccessionNumber StudyID AdmissionID ServiceEpisodeID MedicalRecordLocator MilitaryRank InsurancePlanIdentification
    NameToUse PatientTelecomInformation ResponsibleOrganization ReferringPhysicianAddress
    ReferringPhysicianTelephoneNumbers ClinicalTrialSubjectID ClinicalTrialSubjectReadingID
    """.split()  # noqa: SIM905
)

_ALSO_NAMES = frozenset({"long", "chest", "head", "deep", "hard", "sharp", "brust", "lunger", "bone", "leg"})

_DUMMIES: dict[str, Any] = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0", "CS": "REMOVED",
    "AE": "REMOVED", "UR": "urn:removed", "OB": b"\0\0", "OW": b"\0\0", "OF": b"\0\0\0\0", "OD": b"\0" * 8,
    "OL": b"\0" * 4, "UN": b"\0\0", "AT": 0, "FL": 0.0, "FD": 0.0,
}  # fmt: skip


class Deidentifier:
    """Takes identity out of datasets, consistently for all that are given to it.

    Parameters
    ----------
    profile : Profile
    secret : Secret

    Attributes
    ----------
    done : Counter of str
        How often each action was taken: ``"X removed"`` and the like.
    """

    def __init__(self, profile: Profile, secret: Secret) -> None:
        self.profile, self.secret = profile, secret
        self.done: Counter[str] = Counter()

    def clean(self, dataset: Dataset) -> None:
        """Take identity out of a dataset, in place; its file meta information is left to the writer.

        Raises
        ------
        Refused
            If a name stands in its compressed pixels, whose formats have room for comments.
        """
        _Cleaning(self, dataset).run()


class _Cleaning:
    """The work on one dataset: what it knows of the patient, and where it stands."""

    def __init__(self, owner: Deidentifier, dataset: Dataset) -> None:
        self._secret, self._profile, self._done = owner.secret, owner.profile, owner.done
        self._dataset = dataset
        self._sop_class = str(dataset.get("SOPClassUID") or "")
        self._patient = "|".join(str(dataset.get(k) or "") for k in ("PatientID", "IssuerOfPatientID"))
        if self._patient == "|":  # without a number, the name has to do
            self._patient = f"name {dataset.get('PatientName') or dataset.get('StudyInstanceUID')}"
        self._encodings = _encodings(dataset, [default_encoding])
        self._tokens = frozenset(_tokens(dataset, self._encodings))

    @cached_property
    def _pseudonym(self) -> str:
        return self._secret.pseudonym(self._patient)

    @cached_property
    def _shift(self) -> timedelta:
        return timedelta(days=self._secret.days(self._patient))

    def run(self) -> None:
        self._check_comments()
        self._level(self._dataset)
        dataset, options = self._dataset, self._profile.options
        dataset.PatientName = self._pseudonym
        dataset.PatientID = self._pseudonym
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "lungvq deid, PS3.15 2026c Basic Profile"
        dataset.DeidentificationMethodCodeSequence = [_code(*code) for code in self._profile.codes()]
        shifted, kept = Option.MODIFIED_DATES in options, Option.FULL_DATES in options
        dataset.LongitudinalTemporalInformationModified = (
            "MODIFIED" if shifted else "UNMODIFIED" if kept else "REMOVED"
        )

    def _check_comments(self) -> None:
        meta = getattr(self._dataset, "file_meta", None)
        if meta is None or "PixelData" not in self._dataset or not meta.TransferSyntaxUID.is_encapsulated:
            return
        data = self._dataset.get_item("PixelData").value.lower()
        # Shorter ones are there by chance.
        if any(token.encode() in data for token in self._tokens if len(token.encode()) > 4):
            raise Refused("a name stands within its compressed pixels, which are not touched here")

    def _level(self, dataset: Dataset) -> None:
        """All elements of a dataset or of an item of a sequence."""
        outer, self._encodings = self._encodings, _encodings(dataset, self._encodings)
        for tag in list(dataset.keys()):
            if tag.is_private or tag.group < 8 or _graphics(tag) or tag.element == 0:
                del dataset[tag]
                self._done["private, curve, overlay or group removed"] += 1
                continue
            self._element(dataset, tag)
        self._encodings = outer

    def _element(self, dataset: Dataset, tag: BaseTag) -> None:
        action = self._profile.action(tag, self._sop_class)
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else dataset.get_item(tag).VR or "UN"
        if action is None:
            self._unlisted(dataset, tag, vr)
            return
        if action is Action.CLEAN and not self._cleaned(dataset, tag, vr):
            action = Profile().action(tag, self._sop_class) or Action.REMOVE
        if action is Action.CLEAN:
            self._done["C cleaned"] += 1
        elif action is Action.KEEP:
            self._keep(dataset, tag, vr)
        elif action is Action.REMOVE:
            self._remove(dataset, tag)
        elif action is Action.EMPTY:
            self._empty(dataset, tag, vr)
        elif action is Action.UID:
            self._replace_uids(dataset, tag, vr)
        else:
            self._dummy(dataset, tag, vr)

    # ---------------------------------------------------------------------------------------------- actions

    def _remove(self, dataset: Dataset, tag: BaseTag) -> None:
        del dataset[tag]
        self._done["X removed"] += 1

    def _empty(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        dataset[tag] = DataElement(tag, vr, [] if vr == "SQ" else None)
        self._done["Z emptied"] += 1

    def _dummy(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        if vr == "SQ":  # needed, so its items stay; all that is in them is settled by the table
            self._items(dataset, tag)
        elif vr == "UI":
            self._replace_uids(dataset, tag, vr)
            return
        else:
            words = "Removed" if vr in _WORDS else 0
            dataset[tag] = DataElement(tag, vr.split()[0], _DUMMIES.get(vr, words))
        self._done["D replaced"] += 1

    def _replace_uids(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        if vr == "SQ":
            self._items(dataset, tag)
            return
        if vr != "UI":
            self._dummy(dataset, tag, vr)
            return
        value = dataset[tag].value
        old = [value] if isinstance(value, str) else list(value or ())
        new = [self._secret.uid(str(uid).strip()) if str(uid).strip() else "" for uid in old]
        dataset[tag] = DataElement(tag, "UI", new if len(new) != 1 else new[0])
        self._done["U new UID"] += 1

    def _keep(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        if vr == "SQ":
            self._items(dataset, tag)
        elif vr in _WORDS and self._names_someone(dataset, tag):
            self._empty(dataset, tag, vr)
            return
        self._done["K kept"] += 1

    def _items(self, dataset: Dataset, tag: BaseTag) -> None:
        """The same for every item of a sequence; what does not parse as one is removed."""
        items = dataset[tag].value
        if not isinstance(items, Sequence):
            del dataset[tag]
            return
        for item in items:
            self._level(item)
            _hide_local_code(item)

    def _cleaned(self, dataset: Dataset, tag: BaseTag, vr: str) -> bool:
        """Clean an element; False where that cannot be done without a person."""
        if vr == "SQ":
            self._items(dataset, tag)
            return True
        if vr in _DATES and Option.MODIFIED_DATES in self._profile.options:
            return self._shifted(dataset, tag, vr)
        if vr in _WORDS - {"PN", "AE", "UR"} and Option.DESCRIPTORS in self._profile.options:
            words = clean_words(self._text(dataset, tag), self._tokens)
            if words:
                dataset[tag] = DataElement(
                    tag, vr, words[:64] if vr == "LO" else words[:16] if vr == "SH" else words
                )
            return bool(words)
        return False

    def _shifted(self, dataset: Dataset, tag: BaseTag, vr: str) -> bool:
        """Move dates by the patient's days; times of day stay. False where a date has no day."""
        if vr == "TM":
            return re.fullmatch(r"[\d.:\\ \-]*", self._text(dataset, tag)) is not None
        values = [v.strip() for v in self._text(dataset, tag).split("\\")]
        moved = [self._moved(value, vr) for value in values]
        if not all(moved):
            return False
        dataset[tag] = DataElement(tag, vr, moved if len(moved) != 1 else moved[0])
        return True

    def _moved(self, value: str, vr: str) -> str:
        parts = re.fullmatch(
            r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)((?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?)", value
        )
        if not parts or (vr == "DA" and parts[4]):
            return ""
        try:
            day = date(int(parts[1]), int(parts[2]), int(parts[3])) + self._shift
        except (ValueError, OverflowError):
            return ""
        return f"{day.year:04d}{day.month:02d}{day.day:02d}{parts[4]}"

    # ---------------------------------------------------------------------------- what the table does not name

    def _unlisted(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        keyword = keyword_for_tag(tag)
        if vr == "SQ":
            self._items(dataset, tag)
        elif vr == "UI":
            value = dataset[tag].value
            uids = [str(uid) for uid in ([value] if isinstance(value, str) else value or ())]
            of_a_kind = keyword.endswith(_KINDS) and all(UID(uid).is_valid or not uid for uid in uids)
            if not of_a_kind and not all(uid.startswith(_REGISTERED) for uid in uids):
                self._replace_uids(dataset, tag, vr)
        elif vr in _DATES:
            options = self._profile.options
            if Option.FULL_DATES not in options and not (
                Option.MODIFIED_DATES in options and self._shifted(dataset, tag, vr)
            ):
                self._empty(dataset, tag, vr)
        elif vr in _WORDS:
            if keyword in _FILLED:
                self._dummy(dataset, tag, vr)
            elif keyword not in _EQUIPMENT or self._names_someone(dataset, tag):
                self._empty(dataset, tag, vr)
        elif vr in _LEGAL:
            legal = _LEGAL[vr].fullmatch(_bytes(dataset, tag))
            if not legal or (vr == "CS" and self._names_someone(dataset, tag)):
                self._empty(dataset, tag, vr)
        elif vr not in _NUMBERS and not (keyword and tag.group in _BULK_GROUPS):
            self._remove(dataset, tag)

    def _names_someone(self, dataset: Dataset, tag: BaseTag) -> bool:
        """Whether a value has a known name or number in it; short ones count as whole words only."""
        text = self._text(dataset, tag).lower()
        words = set(re.findall(r"[^\W_]+", text))
        return any(token in words or (len(token) > 5 and token in text) for token in self._tokens)

    def _text(self, dataset: Dataset, tag: BaseTag) -> str:
        return _text(dataset, tag, self._encodings)


def _graphics(tag: BaseTag) -> bool:
    """Curves and overlays: groups 50xx and 60xx, all of them."""
    return tag.group >> 8 in (0x50, 0x60)


def _hide_local_code(item: Dataset) -> None:
    """Replace the words of a code that only one site knows: they may be anything."""
    scheme = str(item.get("CodingSchemeDesignator") or "")
    if "CodeMeaning" in item and (scheme.startswith("99") or scheme == "L") and scheme != "99LUNGVQ":
        item.CodeMeaning = "Removed"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _bytes(dataset: Dataset, tag: BaseTag) -> bytes:
    value = dataset.get_item(tag).value
    if isinstance(value, bytes):
        return value
    # A name is one value, though it can be walked through letter by letter.
    values = list(value) if isinstance(value, MutableSequence) else [value]
    return b"" if value is None else "\\".join(map(str, values)).encode("utf-8", "replace")


def _encodings(dataset: Dataset, outer: list[str]) -> list[str]:
    """The character sets of a dataset or item."""
    names = dataset.get("SpecificCharacterSet")
    try:
        return convert_encodings(names) if names else outer
    except (LookupError, TypeError, ValueError):
        return outer


def _text(dataset: Dataset, tag: BaseTag, encodings: list[str]) -> str:
    """A value as text, whatever its bytes are; several values are joined by backslashes."""
    raw = dataset.get_item(tag).value
    if not isinstance(raw, bytes):
        return _bytes(dataset, tag).decode("utf-8", "replace")
    try:
        text = decode_bytes(raw, encodings, TEXT_VR_DELIMS | PN_DELIMS)
    except (LookupError, ValueError):
        text = raw.decode("latin-1")
    return text.rstrip("\0 ")


def _tokens(dataset: Dataset, encodings: list[str]) -> Iterator[str]:
    """Parts of names and numbers, in lower case, that must not be found in what is kept."""
    encodings = _encodings(dataset, encodings)
    for tag in list(dataset.keys()):
        if tag.is_private:
            continue
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else dataset.get_item(tag).VR
        if vr == "SQ":
            items = dataset[tag].value
            for item in items if isinstance(items, Sequence) else ():
                yield from _tokens(item, encodings)
        elif vr == "PN" or keyword_for_tag(tag) in _IDENTITY:
            for token in re.findall(r"[^\W_]+", _text(dataset, tag, encodings).lower()):
                if len(token) >= (4 if token.isascii() else 2) and token not in KNOWN - _ALSO_NAMES:
                    yield token
