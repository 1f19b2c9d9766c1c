"""The table of PS3.15 and what becomes of every attribute in it."""

from collections import Counter

import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, PositronEmissionTomographyImageStorage

from lungvq.deid.clean import _EQUIPMENT, _KINDS, Deidentifier, Secret
from lungvq.deid.profile import Action, Option, Profile, table
from lungvq.errors import UsageError

SECRET = Secret(b"a salt for tests")
CONCRETE = [tag for tag in table() if "x" not in tag and tag != "odd"]
# Set by the de-identifier itself, or parts of what is not a dataset.
SET = {"00100010", "00100020", "00280303"}
TEXT = {"LO", "SH", "ST", "LT", "UT", "UC", "PN"}


def planted(vr, n):
    """A value of a VR that no other attribute has, and the bytes to look for."""
    words = f"Qzx{n:04d}Kw"
    values = {
        "DA": f"18{n % 100:02d}0{1 + n % 9}1{n % 9}", "TM": f"{n % 24:02d}{n % 60:02d}17.{n:06d}",
        "DT": f"17{n % 100:02d}0711{n % 24:02d}{n % 60:02d}13.{n:06d}", "AS": f"{n:03d}D"[-4:],
        "DS": f"{n}.77319", "IS": str(77000000 + n), "UI": f"1.3.6.1.4.1.99999.{n}", "CS": f"QZX{n:04d}KW",
        "AE": words, "UR": f"http://{words}",
    }  # fmt: skip
    if vr in values:
        return values[vr]
    if vr in TEXT:
        return words
    return {"OB": words.encode() + b"\0", "OW": words.encode() + b"\0", "UN": words.encode() + b"\0"}.get(
        vr, n
    )


def vr_of(tag):
    return dictionary_VR(int(tag, 16)) if dictionary_has_tag(int(tag, 16)) else "LO"


def full(sop_class, tags=CONCRETE):
    """A dataset with every attribute of the table, and what was planted in each."""
    dataset, values = Dataset(), {}
    for n, tag in enumerate(tags):
        vr = vr_of(tag)
        if vr == "SQ":
            inner = Dataset()
            inner.PatientName = f"Inner{n:04d}Name"
            inner.ReferencedSOPInstanceUID = f"1.3.6.1.4.1.99998.{n}"
            inner.CodeMeaning = "plain"
            value = [inner]
        else:
            value = planted(vr, n)
        dataset[int(tag, 16)] = DataElement(int(tag, 16), vr.split()[0], value)
        values[tag] = value
    dataset.SOPClassUID = sop_class
    return dataset, values


def cleaned(sop_class, *options):
    dataset, values = full(sop_class, [t for t in CONCRETE if t[:4] not in ("0000", "0002", "0004")])
    Deidentifier(Profile(frozenset(options)), SECRET).clean(dataset)
    return dataset, values


def test_the_table_is_whole():
    """Counts of PS3.15 2026c, Table E.1-1."""
    rows = table().values()
    assert len(rows) == 656
    assert Counter(row.codes["basic"] for row in rows) == {
        "X": 416, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2,
    }  # fmt: skip
    columns = {option.column: sum(bool(row.codes[option.column]) for row in rows) for option in Option}
    assert columns == {
        "patient": 19, "device": 59, "institution": 10, "modified_dates": 169, "full_dates": 169, "descriptors": 140,
    }  # fmt: skip
    names = {tag: row.attribute for tag, row in table().items()}
    assert names["00100010"] == "Patient's Name"
    assert names["00100011"] == "Person Names to Use Sequence"
    assert names["60xx3000"] == "Overlay Data"


def test_names_and_tags_belong_together():
    """Second route: pydicom's dictionary of PS3.6 calls the tags by the same names."""

    def plain(text):
        return "".join(c for c in text.lower() if c.isalnum())

    both = [tag for tag in CONCRETE if dictionary_has_tag(int(tag, 16))]
    assert len(both) > 600
    for tag in both:
        known, ours = plain(dictionary_description(int(tag, 16))), plain(table()[tag].attribute)
        assert known[:12] == ours[:12] or known in ours or ours in known, tag


@pytest.mark.parametrize(
    "sop_class", [CTImageStorage, EnhancedCTImageStorage, PositronEmissionTomographyImageStorage]
)
@pytest.mark.parametrize("options", [(), *((o,) for o in Option), tuple(set(Option) - {Option.FULL_DATES})])
def test_every_attribute_of_the_table_gets_its_action(sop_class, options):
    dataset, values = cleaned(sop_class, *options)
    profile = Profile(frozenset(options))
    seen = Counter()
    for tag, value in values.items():
        number, vr = int(tag, 16), vr_of(tag)
        action = profile.action(number, str(sop_class))
        if tag in SET:
            continue
        if action is Action.CLEAN and number in dataset and vr not in ("SQ", "DA", "TM", "DT"):
            assert not dataset[number].value or vr not in TEXT or "Qzx" not in str(dataset[number].value)
            action = None
        elif action is Action.CLEAN and vr not in ("SQ", "DA", "TM", "DT"):
            action = None
        elif action is Action.CLEAN:
            action = Action.UID if vr == "SQ" else None
            if action is None and vr != "TM":
                assert str(dataset[number].value) != value
        seen[action] += 1
        if action is Action.REMOVE:
            assert number not in dataset, tag
        elif action is Action.EMPTY:
            assert not dataset[number].value, tag
        elif action is Action.KEEP and vr != "SQ":
            assert str(dataset[number].value) == str(pydicom_value(number, vr, value)), tag
        elif action is Action.UID and vr == "UI":
            assert str(dataset[number].value) == SECRET.uid(value), tag
        elif action in (Action.DUMMY, Action.UID, Action.KEEP) and vr == "SQ":
            assert "Inner" not in str(dataset[number].value), tag
            assert "1.3.6.1.4.1.99998" not in str(dataset[number].value), tag
        elif action is Action.DUMMY:
            assert dataset[number].value not in (None, "", b""), tag
            assert dataset[number].value != value, tag
    assert sum(seen.values()) > 600


def pydicom_value(number, vr, value):
    return DataElement(number, vr.split()[0], value).value


def test_nothing_planted_in_the_table_survives_the_basic_profile():
    dataset, values = cleaned(CTImageStorage)
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, dataset)
    text = buffer.getvalue()
    for tag, value in values.items():
        if isinstance(value, list):
            continue
        vr = vr_of(tag)
        # Short numbers can be there by chance.
        if isinstance(value, int) or vr == "AS":
            assert int(tag, 16) not in dataset or dataset[int(tag, 16)].value != value or value < 2
            continue
        assert (value if isinstance(value, bytes) else value.encode()) not in text, tag
    assert b"Inner" not in text
    assert b"99998" not in text


def test_compound_codes_follow_the_kind_of_image():
    date, at = 0x00080021, 0x0008002A  # series date X/D, acquisition date and time X/Z/D
    basic = Profile()
    assert basic.action(date, CTImageStorage) is Action.REMOVE
    assert basic.action(date, PositronEmissionTomographyImageStorage) is Action.DUMMY
    assert basic.action(at, CTImageStorage) is Action.REMOVE
    assert basic.action(at, EnhancedCTImageStorage) is Action.DUMMY
    assert basic.action(0x00080070) is None  # manufacturer: not in the table


def test_options_exclude_each_other_where_they_must():
    with pytest.raises(UsageError, match="exclude each other"):
        Profile.of(["full-dates", "modified-dates"])
    with pytest.raises(UsageError, match="no option 'uids'"):
        Profile.of(["uids"])


def test_codes_say_which_options_were_used():
    assert Profile().codes() == [("113100", "Basic Application Confidentiality Profile")]
    codes = Profile(frozenset(set(Option) - {Option.FULL_DATES})).codes()
    assert [value for value, _ in codes] == ["113100", "113105", "113107", "113108", "113109", "113112"]


def test_of_all_standard_attributes_only_those_of_equipment_keep_words():
    """Every attribute of PS3.6 with a word, date or UID in it, listed in the table or not, nested or not."""
    wordy = {*TEXT, "AE", "UR", "UI", "DA", "TM", "DT"}
    dataset, inner, values = Dataset(), Dataset(), {}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 < 8 or keyword in ("SpecificCharacterSet", "SOPClassUID") or vr not in wordy:
            continue
        values[keyword] = planted(vr, len(values) % 9000)
        for place in (dataset, inner):
            place.add_new(tag, vr, values[keyword])
    assert len(values) > 1000
    dataset.SOPClassUID = CTImageStorage
    dataset.SharedFunctionalGroupsSequence = [inner]
    Deidentifier(Profile(), SECRET).clean(dataset)
    for place in (dataset, dataset.SharedFunctionalGroupsSequence[0]):
        left = {e.keyword for e in place if e.keyword in values and str(e.value) == values[e.keyword]}
        assert {k for k in left if not k.endswith("UID")} <= _EQUIPMENT
        assert all(keyword.endswith(_KINDS) for keyword in left if keyword.endswith("UID"))
