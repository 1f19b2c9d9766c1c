"""Two hundred studies as hospitals have them: the right pair is found, or none, and never a wrong one.

Volumes are those of small phantoms, some stretched along the body to hold more or less; headers are what a study in
practice has, wrong ones included. Each volume is written as DICOM, listed and looked at once; a study then takes the
listed series with headers of its own. A part of the studies goes the whole way: written as DICOM files, read by the
command. Every one does in the exhaustive run.
"""

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from lungvq import io
from lungvq.cli import app
from lungvq.errors import InputError
from lungvq.phantom import make_phantom
from lungvq.phantom.dicom import sharpened, study_tags, write_series
from lungvq.study import look_at, survey_series
from lungvq.volume import Volume

STUDIES = 200
ON_DISK = 20
RANDOM_FOLDERS = 600
SOFT, SHARP = "B35f", "B70f"

NAMES = (
    ("CHEST INSP 1.0", "CHEST EXP 1.0"),
    ("Thorax Inspiration 1.0 Br40", "Thorax Exspiration 1.0 Br40"),
    ("THORAX INSPI", "THORAX EXPI"),
    ("TÓRAX INSPIRACIÓN", "TÓRAX ESPIRACIÓN"),
    ("Torace inspirazione", "Torace espirazione"),
    ("TÓRAX INSPIRAÇÃO", "TÓRAX EXPIRAÇÃO"),
    ("Thorax inademing", "Thorax uitademing"),
    ("胸部 吸气", "胸部 呼气"),
    ("胸部吸気", "胸部呼気"),
    ("klatka wdech", "klatka wydech"),
    ("ОГК вдох", "ОГК выдох"),
    ("흉부 흡기", "흉부 호기"),
    ("Lung TLC", "Lung RV"),
    ("ChestInhale", "ChestExhale"),
    ("THX FULL INSP", "THX END-EXP"),
    ("Toraks inspiryum", "Toraks ekspiryum"),
    ("Thorax Einatmung", "Thorax Ausatmung"),
    ("Thorax inandning", "Thorax utandning"),
    ("חזה שאיפה", "חזה נשיפה"),
    ("Lung_1.0_insp", "Lung_1.0_air trapping"),
)


@dataclass
class Series:
    """One series of a study: which volume it shows and what its header says; `part` is what it truly is."""

    shows: str
    part: str = ""
    tags: dict = field(default_factory=dict)


@dataclass
class Study:
    """A folder, and the pairs of parts that are right; none where a person could not tell either."""

    kind: str
    series: list[Series]
    right: frozenset = frozenset()


# --- volumes ----------------------------------------------------------------------------------------------


def stretched(volume, share):
    """The same picture, along the body `share` as long: the lungs hold as much less."""
    affine = volume.affine.copy()
    affine[:3, 0] *= share
    return Volume(volume.array, affine)


def make_volumes():
    phantom = make_phantom("healthy", seed=1, spacing=(7.0, 5.0, 5.0))
    other = make_phantom("healthy", seed=4, spacing=(7.0, 5.0, 5.0))
    insp, exp = phantom.insp.reorient("SPL"), phantom.exp.reorient("SPL")
    lungs = phantom.truth.lobes_insp.reorient("SPL").array > 0
    soft = (insp.array > -100) & (insp.array < 150)
    middle = insp.shape[2] // 4
    coronal = insp.reorient("PIL")
    return {
        "insp": insp,
        "exp": exp,
        "insp sharp": sharpened(insp),
        "exp sharp": sharpened(exp),
        "insp again": stretched(insp, 0.985),
        "exp again": stretched(exp, 1.01),
        "middle": stretched(insp, 0.78),
        "weak insp": stretched(insp, 0.85),
        "small": stretched(insp, 0.92),
        "still": stretched(insp, 0.97),
        "fuller exp": stretched(exp, 0.8),
        "prone insp": stretched(insp, 0.93),
        "insp B": other.insp.reorient("SPL"),
        "exp B": other.exp.reorient("SPL"),
        "enhanced insp": insp.like(np.where(soft, insp.array + 180, insp.array).astype(np.int16)),
        "no lungs": insp.like(np.where(lungs, np.int16(35), insp.array)),
        "heart": insp.crop((slice(None), slice(None), slice(middle, -middle))),
        "coronal": coronal,
        "scout": Volume(coronal.array[:2], coronal.affine),
    }


# --- studies ----------------------------------------------------------------------------------------------

TIMES = {"insp": "101530", "exp": "101641", "third": "101750", "fourth": "101840", "before": "101312"}


def tags(description="", when="insp", kernel=SOFT, number=2, **more):
    """What a header says of one series."""
    acquisition = list(TIMES).index(when) + 1
    return {
        "SeriesDescription": description,
        "AcquisitionTime": TIMES.get(when, ""),
        "SeriesTime": TIMES.get(when, ""),
        "AcquisitionNumber": acquisition,
        "ConvolutionKernel": kernel,
        "SeriesNumber": number,
        **more,
    }


def insp(description, shows="insp", part="I", **more):
    return Series(shows, part, tags(description, **{"when": "insp", "number": 2, **more}))


def exp(description, shows="exp", part="E", **more):
    return Series(shows, part, tags(description, **{"when": "exp", "number": 5, **more}))


PRIOR = {
    "StudyInstanceUID": "1.2.826.1.7",
    "FrameOfReferenceUID": "1.2.826.1.8",
    "StudyDate": "20240301",
    "SeriesDate": "20240301",
    "AcquisitionDate": "20240301",
}
PATIENT_B = {
    "PatientID": "B-2",
    "PatientName": "Roe^Richard",
    "PatientBirthDate": "19550505",
    "PatientSex": "M",
}
RIGHT = frozenset({("I", "E")})


def usual_company(rng):
    """What lies beside the breath-holds in nearly every study."""
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    reformat = {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}
    company = [
        Series("scout", "", tags("Topogram 0.6 T20f", "before", "T20f", 1, **localizer)),
        Series("coronal", "", tags("Thorax COR 3.0", number=11, **reformat)),
        Series("coronal", "", tags("cor insp", "insp", number=12)),
        Series(
            "insp", "", tags("INSP MIP 10/2", number=13, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])
        ),
        Series("insp", "", tags("CTAC", "before", "B19f", 14, SliceThickness=5)),
        Series("exp", "", tags("PET WB", number=15, Modality="PT")),
        Series("heart", "", tags("CaSc 3.0 Q32", "before", "Qr36", 16)),
        Series("no lungs", "", tags("Abdomen nativ", "before", "Br40", 17)),
    ]
    chosen = rng.choice(len(company), rng.integers(1, 5), replace=False)
    return [company[n] for n in sorted(chosen)]


def make_studies():
    """All of them, each kind several times with other words and other company."""
    rng = np.random.default_rng(7)
    studies = []

    def add(kind, count, make, right=RIGHT, company=True):
        for n in range(count):
            i, e = NAMES[(n * 7 + len(studies)) % len(NAMES)]
            beside = usual_company(rng) if company and n % 3 else []
            studies.append(Study(kind, [*make(i, e, n), *beside], frozenset(right)))

    nothing = ()
    add("named", 12, lambda i, e, n: [insp(i), exp(e)])
    add(
        "not named",
        14,
        lambda i, e, n: [insp(("", "CHEST 1.0", "Thorax")[n % 3]), exp(("", "CHEST 1.0", "Thorax")[n % 3])],
    )
    add("only one named", 6, lambda i, e, n: [insp(i), exp("")] if n % 2 else [insp("Lung"), exp(e)])
    add(
        "words that look alike",
        8,
        lambda i, e, n: [
            insp(
                w := (
                    "EXPERT CHEST",
                    "Torax espiral",
                    "InSpace recon",
                    "ExposureControl",
                    "Respiratory",
                    "experimental",
                    "insp/exp",
                    "Explo thorax",
                )[n % 8]
            ),
            exp(w),
        ],
    )
    add("swapped words", 12, lambda i, e, n: [insp(e), exp(i)])
    add("swapped words, one of them", 4, lambda i, e, n: [insp(e), exp("")] if n % 2 else [insp(""), exp(i)])
    add("swapped words, small breath", 5, lambda i, e, n: [insp(e), exp(i, "small")], nothing)
    add("both called inspiration, deep", 4, lambda i, e, n: [insp(i), exp(i)])
    add("both called inspiration, weak", 5, lambda i, e, n: [insp(i), exp(i, "weak insp")], nothing)
    add(
        "words in the protocol of all",
        4,
        lambda i, e, n: [insp("1.0", ProtocolName="Thorax Insp"), exp("1.0", ProtocolName="Thorax Insp")],
    )
    add(
        "words in comments or protocol",
        4,
        lambda i, e, n: [
            insp("", **{("ImageComments", "ProtocolName")[n % 2]: i}),
            exp("", **{("ImageComments", "ProtocolName")[n % 2]: e}),
        ],
    )
    add(
        "several kernels",
        12,
        lambda i, e, n: [
            insp(i + " lung", "insp sharp", "i", kernel=SHARP, number=3),
            insp(i),
            exp(e),
            exp(e, "exp sharp", "e", kernel=SHARP, number=6),
        ],
    )
    add(
        "one kernel in common",
        5,
        lambda i, e, n: [
            insp(i, "insp sharp", "I", kernel=SHARP, number=3),
            insp(i, part="i"),
            exp(e, "exp sharp", "E", kernel=SHARP, number=6),
        ],
    )
    add("no kernel in common", 3, lambda i, e, n: [insp(i), exp(e, "exp sharp", "E", kernel=SHARP)])
    add(
        "thick and thin",
        6,
        lambda i, e, n: [
            insp(i, part="i", number=3, SliceThickness=5),
            insp(i),
            exp(e, part="e", number=4, SliceThickness=5),
            exp(e),
        ],
    )
    add(
        "contrast, told",
        6,
        lambda i, e, n: [
            insp(i),
            exp(e),
            Series("enhanced insp", "", tags(i, "third", number=8, ContrastBolusAgent="Iomeron 400")),
        ],
    )
    add(
        "contrast, described",
        4,
        lambda i, e, n: [insp(i), exp(e), Series("insp again", "", tags("CTPA 1.0", "third", number=8))],
    )
    add(
        "contrast, only seen",
        4,
        lambda i, e, n: [insp(i), exp(e), Series("enhanced insp", "", tags(i, "third", number=8))],
    )
    add(
        "inspiration with contrast",
        5,
        lambda i, e, n: [
            insp(i, "enhanced insp", **({"ContrastBolusAgent": "ULTRAVIST"} if n % 2 else {})),
            exp(e),
        ],
        nothing,
    )
    add(
        "prior with one breath",
        8,
        lambda i, e, n: [
            insp(i),
            exp(e),
            Series("insp again" if n % 2 else "exp again", "", tags(i if n % 2 else e, "insp", **PRIOR)),
        ],
    )
    add(
        "prior with a pair",
        4,
        lambda i, e, n: [
            insp(i),
            exp(e),
            insp(i, "insp again", "P", **PRIOR),
            exp(e, "exp again", "p", **PRIOR),
        ],
        nothing,
    )
    add("breaths in two studies", 4, lambda i, e, n: [insp(i), exp(e, **PRIOR)], nothing)
    add(
        "three breaths, two named",
        6,
        lambda i, e, n: [insp(i), exp(e), Series("middle", "", tags("Thorax", "third", number=8))],
    )
    add(
        "three breaths, none named",
        4,
        lambda i, e, n: [insp("a"), exp("b"), Series("middle", "", tags("c", "third", number=8))],
        nothing,
    )
    add(
        "two expirations",
        4,
        lambda i, e, n: [insp(i), exp(e), exp(e, "fuller exp", "e", when="third", number=8)],
        nothing,
    )
    add(
        "inspiration repeated",
        4,
        lambda i, e, n: [insp(i), insp(i, "insp again", "i", when="third", number=7), exp(e)],
        {("I", "E"), ("i", "E")},
    )
    add("the same breath twice", 5, lambda i, e, n: [insp(i), exp(e if n % 2 else "", "still")], nothing)
    add(
        "before and after treatment",
        3,
        lambda i, e, n: [
            insp(i),
            exp(e),
            insp(i, "insp again", "P", when="third", number=7),
            exp(e, "exp again", "p", when="fourth", number=8),
        ],
        nothing,
    )
    add(
        "different patients",
        6,
        lambda i, e, n: (
            [insp(i), exp(e, "exp B", "b", **PATIENT_B)]
            if n % 2
            else [insp(i), exp(e), insp(i, "insp B", "b", **PATIENT_B)]
        ),
        nothing,
    )
    add("one chest", 5, lambda i, e, n: [insp(i)] if n % 2 else [exp(e)], nothing)
    add(
        "one chest in two kernels",
        3,
        lambda i, e, n: [insp(i), insp(i, "insp sharp", "i", kernel=SHARP, number=3)],
        nothing,
    )
    add("no chest", 3, lambda i, e, n: [insp(i, "no lungs"), exp(e, "scout")], nothing)
    add(
        "prone besides",
        4,
        lambda i, e, n: [
            insp(i),
            exp(e),
            Series(
                "prone insp",
                "",
                tags(
                    i + (" prone" if n % 2 else ""),
                    "third",
                    number=8,
                    PatientPosition="HFS" if n % 2 else "HFP",
                ),
            ),
        ],
    )
    add(
        "prone and supine only",
        2,
        lambda i, e, n: [insp(i, "prone insp", PatientPosition="HFP"), exp(e)],
        nothing,
    )
    add(
        "free breathing besides",
        4,
        lambda i, e, n: [
            insp(i),
            exp(e),
            Series(
                "middle", "", tags(("Free breathing", "4D resp", "T = 40%", "CTAC")[n % 4], "third", number=8)
            ),
        ],
    )
    add("small breath", 4, lambda i, e, n: [insp(i), exp(e, "small")])
    add("headers emptied", 4, lambda i, e, n: [insp("", **EMPTIED), exp("", **EMPTIED)])
    return studies


EMPTIED = dict.fromkeys(
    ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AcquisitionTime", "SeriesTime", "ProtocolName",
     "AcquisitionNumber", "ConvolutionKernel", "PatientPosition"), "",
)  # fmt: skip


# --- from volumes to studies ------------------------------------------------------------------------------

FACTS = {
    "SeriesDescription": "series_description",
    "ImageComments": "image_comments",
    "ProtocolName": "protocol",
    "AcquisitionTime": "acquisition_time",
    "SeriesTime": "series_time",
    "AcquisitionNumber": "acquisition_number",
    "AcquisitionDate": "acquisition_date",
    "SeriesDate": "series_date",
    "StudyDate": "study_date",
    "ConvolutionKernel": "kernel",
    "SeriesNumber": "series_number",
    "StudyInstanceUID": "study_uid",
    "FrameOfReferenceUID": "frame_of_reference_uid",
    "ContrastBolusAgent": "contrast_agent",
    "PatientPosition": "patient_position",
}
WHO = {"PatientID": "id", "PatientName": "name", "PatientBirthDate": "birth_date", "PatientSex": "sex"}
COMMON = study_tags("healthy", 1, (7.0, 5.0, 5.0)) | {"SliceThickness": 1, "ImageComments": ""}


@pytest.fixture(scope="module")
def volumes():
    return make_volumes()


@pytest.fixture(scope="module")
def listed(volumes, tmp_path_factory):
    """Every volume once as the reader lists it, and what a look at it showed or why it shows nothing."""
    folder = tmp_path_factory.mktemp("volumes")
    infos, looks = {}, {}
    for name, volume in volumes.items():
        write_series(
            volume, folder / name, {**COMMON, "SeriesInstanceUID": f"1.2.3.{len(infos)}", "SeriesNumber": 1}
        )
        (infos[name],) = io.list_series(folder / name)
        try:
            looks[name] = look_at(infos[name])
        except InputError as error:
            looks[name] = error
    return infos, looks


def as_listed(study, infos):
    """The study's series as the reader would list them, without writing them."""
    result = []
    for n, series in enumerate(study.series):
        base = infos[series.shows]
        told = {**COMMON, **series.tags}
        facts = dict(base.facts)
        facts |= {fact: str(told[key]) or None for key, fact in FACTS.items() if key in told}
        facts["series_uid"] = f"1.2.{n}"
        facts["slice_thickness_mm"] = float(told["SliceThickness"])
        facts["image_type"] = "\\".join(told.get("ImageType", ("ORIGINAL", "PRIMARY", "AXIAL")))
        usable, reasons = base.usable, base.reasons
        if told.get("Modality", "CT") != "CT":
            usable, reasons = False, (f"its modality is {told['Modality']}, expected CT",)
        result.append(
            replace(
                base,
                path=base.path.with_name(f"SER{n:03d}"),
                usable=usable,
                reasons=reasons,
                description=str(told["SeriesDescription"]),
                kernel=str(told["ConvolutionKernel"]),
                uid=facts["series_uid"],
                facts=facts,
                findings=() if told["SliceThickness"] > 4 else base.findings,
                patient=io.Patient(**{field: str(told[key]) for key, field in WHO.items()}),
            )
        )
    return result


def write(study, volumes, folder):
    """The study as DICOM files in unhelpful folders."""
    for n, series in enumerate(study.series):
        header = {**COMMON, "SeriesInstanceUID": f"1.2.{n}", **series.tags}
        write_series(volumes[series.shows], folder / f"SER{n:03d}", header)


def judge(study, found_insp, found_exp):
    """``right``, ``wrong`` or ``abstained``."""
    if found_insp is None:
        return "abstained"
    parts = study.series[found_insp].part, study.series[found_exp].part
    return "right" if parts in study.right else "wrong"


def number_in(study, entries, role):
    """Which series of the study plays a role, by its UID."""
    uid = next((uid for uid, played in entries if played == role), None)
    return None if uid is None else int(uid.rsplit(".", 1)[1])


def tell(title, outcomes, studies):
    """Print the counts that the project quotes."""
    total = Counter(outcomes)
    answerable = [o for o, s in zip(outcomes, studies, strict=True) if s.right]
    rest = [o for o, s in zip(outcomes, studies, strict=True) if not s.right]
    print(
        f"\n{title}: {len(outcomes)} studies, {total['right']} right, {total['abstained']} abstained,"
        f" {total['wrong']} wrong; of {len(answerable)} answerable {answerable.count('right')} right, of {len(rest)}"
        f" unanswerable {rest.count('abstained')} abstained"
    )


STUDY_LIST = make_studies()


def test_the_corpus_has_two_hundred_studies_of_many_kinds():
    assert len(STUDY_LIST) == STUDIES
    assert len({s.kind for s in STUDY_LIST}) >= 30
    assert 0.2 < np.mean([not s.right for s in STUDY_LIST]) < 0.5


def seen_once(series, infos, looks):
    """What a look at the volume of a series showed, when it was looked at."""
    seen = looks[next(name for name, base in infos.items() if base.files == series.files)]
    if isinstance(seen, InputError):
        raise InputError(str(seen))
    return seen


def test_the_right_pair_or_none(listed):
    infos, looks = listed

    outcomes, wrong, missed = [], [], []
    for study in STUDY_LIST:
        found = survey_series(as_listed(study, infos), look=lambda s: seen_once(s, infos, looks))
        entries = [(e.series.uid, e.role) for e in found.entries]
        outcome = judge(study, *(number_in(study, entries, role) for role in ("inspiration", "expiration")))
        outcomes.append(outcome)
        told = f"{study.kind}: {found.verdict}"
        if outcome == "wrong":
            wrong.append(told)
        if outcome == "abstained" and study.right:
            missed.append(told)
        assert found.has_pair == (outcome != "abstained")
        assert all(entry.reasons for entry in found.entries), told
    tell("pair selection", outcomes, STUDY_LIST)
    assert not wrong, "\n".join(wrong)
    assert not missed, "\n".join(missed)


def through_the_command(study, volumes, folder):
    write(study, volumes, folder)
    done = CliRunner().invoke(app, ["inspect", str(folder), "--json"])
    assert done.exit_code in (0, 3), done.output
    entries = [(e["series_uid"], e["role"]) for e in json.loads(done.stdout)]
    outcome = judge(study, *(number_in(study, entries, role) for role in ("inspiration", "expiration")))
    assert done.exit_code == (3 if outcome == "abstained" else 0)
    if outcome == "abstained":
        assert done.stderr.startswith("lungvq: no pair was chosen: ")
    return outcome


def check_through_the_command(studies, volumes, folder):
    outcomes = [through_the_command(study, volumes, folder / str(n)) for n, study in enumerate(studies)]
    tell("pair selection from files", outcomes, studies)
    wrong = [
        s.kind for s, o in zip(studies, outcomes, strict=True) if o != ("right" if s.right else "abstained")
    ]
    assert not wrong


def test_the_same_from_files_by_the_command(volumes, tmp_path):
    kinds = list(dict.fromkeys(s.kind for s in STUDY_LIST))
    chosen = [next(s for s in STUDY_LIST if s.kind == kind) for kind in kinds]
    step = len(chosen) / ON_DISK
    check_through_the_command([chosen[int(n * step)] for n in range(ON_DISK)], volumes, tmp_path)


@pytest.mark.exhaustive
def test_all_of_them_from_files_by_the_command(volumes, tmp_path):
    check_through_the_command(STUDY_LIST, volumes, tmp_path)


# --- anything together ------------------------------------------------------------------------------------

BREATH = {
    "insp": "I", "insp sharp": "I", "insp again": "I", "enhanced insp": "I", "insp B": "I",
    "exp": "E", "exp sharp": "E", "exp again": "E", "exp B": "E",
}  # fmt: skip


def any_series(rng, number):
    """One series of whatever a folder may hold, and whatever its header may say."""

    def draw(*values):
        return values[rng.integers(len(values))]

    shows = draw(
        *BREATH, "insp", "exp", "insp", "exp", "middle", "small", "still", "prone insp", "no lungs", "heart"
    )
    i, e = draw(*NAMES)
    own, other = (i, e) if BREATH.get(shows, "I") == "I" else (e, i)
    header = tags(
        draw(own, own, own, "", "Thorax", other, "EXPERT", "insp/exp", "INSP MPR", "CTPA", "Free breathing"),
        draw("insp", "exp", "third"),
        SHARP if "sharp" in shows else draw(SOFT, SOFT, "Br40", "LUNG", ""),
        number,
        SliceThickness=draw(1, 1, 5),
        PatientPosition="HFP" if "prone" in shows else draw("HFS", "HFS", "FFS", ""),
        ImageType=draw(
            ["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY", "AXIAL"]
        ),
        ContrastBolusAgent=draw("", "", "", "none", "Iomeprol"),
        ProtocolName=draw("ChestBreathHolds", "ChestBreathHolds", own, other),
    )
    if shows.endswith(" B") or rng.random() < 0.02:
        header |= PATIENT_B
    if rng.random() < 0.15:
        header |= PRIOR
    return Series(shows, "", header)


def why_wrong(chosen, study, candidates):
    """What forbids the chosen pair, judged by what the series truly are; empty where nothing does."""
    one, two = chosen
    if {s.shows for s in chosen} & {"enhanced insp", "no lungs", "heart", "scout", "coronal"}:
        return "no plain whole chest"
    for key, what in (("PatientID", "patient"), ("StudyInstanceUID", "study")):
        if one.tags.get(key) != two.tags.get(key):
            return f"two {what}s"
    if ("prone" in one.shows) != ("prone" in two.shows):
        return "two positions"
    if any(
        s.tags["ContrastBolusAgent"] == "Iomeprol" or "CTPA" in s.tags["SeriesDescription"] for s in chosen
    ):
        return "contrast"
    ml = [candidates[id(s)] for s in chosen]
    if ml[1] > 0.95 * ml[0]:
        return "no breathing"
    if "E" in (BREATH.get(one.shows),) or BREATH.get(two.shows) == "I":
        return "the wrong way round"
    if len({s.tags.get("PatientID") for s in study}) > 1:
        return "another patient in the folder"
    return ""


def test_whatever_lies_together_no_wrong_pair(listed):
    infos, looks = listed
    rng = np.random.default_rng(11)
    chosen_count, wrong = 0, []
    for _ in range(RANDOM_FOLDERS):
        study = [any_series(rng, n + 1) for n in range(rng.integers(1, 8))]
        found = survey_series(as_listed(Study("", study), infos), look=lambda s: seen_once(s, infos, looks))
        if found.pair is None:
            continue
        chosen_count += 1
        uids = [c.series.uid for c in (found.pair.insp, found.pair.exp)]
        pair = [study[int(uid.rsplit(".", 1)[1])] for uid in uids]
        ml = {id(s): c.look.lung_ml for s, c in zip(pair, (found.pair.insp, found.pair.exp), strict=True)}
        if why := why_wrong(pair, study, ml):
            told = [(s.shows, s.tags["SeriesDescription"], s.tags["ProtocolName"]) for s in study]
            wrong.append(f"{why}: {found.verdict}\nof {told}")
    print(f"\nrandom folders: {RANDOM_FOLDERS}, a pair chosen in {chosen_count}, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(wrong[:10])
    assert chosen_count > RANDOM_FOLDERS / 10
