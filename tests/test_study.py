"""What one folder's decision rests on: words, headers, quick looks, and a user's own choice."""

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from lungvq import io
from lungvq.agreement import agreement, check_same_patient, scan_time, why_strangers
from lungvq.cli import app
from lungvq.errors import InputError, PairError, ResourceError
from lungvq.findings import Severity
from lungvq.io import Patient
from lungvq.phantom import make_phantom
from lungvq.phantom.dicom import study_tags, write_series, write_study
from lungvq.segment import segment
from lungvq.segment.glance import Glance, glance
from lungvq.study import NoPairError, choose_pair, look_at, survey, survey_series, words
from lungvq.study.evidence import Candidate, breath_told, header_reasons, look_reasons, suitability
from lungvq.study.pair import Pair, Undecided, decide, pair_findings, partner
from lungvq.volume import Grid, Volume

# --- words ------------------------------------------------------------------------------------------------

INSPIRED = """Inspiration|Thorax Insp|INSPIRACIÓN|Inspiração|inspirazione|Einatmung|tief inspiriert
|wdech|nádech|belégzés|sisäänhengitys|inandning|indånding|innpust|вдох|вдих|εισπνοή|شهيق
|吸气|吸気|深吸氣|흡기|inademing|hít vào|TLC|Full inhale|THORAXINSP|1.0mm_Insp_B35f
|10017X_INSP_STD_COPD|udah|שאיפה"""
EXPIRED = """Expiration|EXP 1.0|Thorax Exp.|ESPIRACIÓN|espirazione|Exspiration|Ausatmung|wydech|výdech
|kilégzés|uloshengitys|utandning|udånding|utpust|выдох|видих|εκπνοή|زفير|呼气|呼気|호기
|uitademing|thở ra|FRC|RV|end-exp|MIDEXP|expi|ekspirasjon|Expiração|AirTrap|air trapping
|CHEST_EXP_B35f|exhale|izdah|נשיפה|EXPIRATORY|expn 2.5"""
NEITHER = """Expert|Experimental|Exposure|Exploration|InSpace|Inspect|Espiral|respiration|Respiratory
|insp/exp|CT CHEST||Inspiration + Expiration|Export|express|Standard|Transport
|ChestInspExp|Trespass"""


@pytest.mark.parametrize(
    ("texts", "told"), [(INSPIRED, "inspiration"), (EXPIRED, "expiration"), (NEITHER, "")]
)
def test_words_for_a_breath_in_many_languages(texts, told):
    for text in texts.replace("\n", "").split("|"):
        assert words.breath(text) == told, text


CONTRAST = (
    "with contrast",
    "CTPA",
    "Thorax KM",
    "C+ chest",
    "Angio TAP",
    "portal venous",
    "造影CT",
    "AP injecté",
)
PLAIN = (
    "nativ",
    "non-contrast",
    "w/o contrast",
    "INSP",
    "WITHOUT CONTRAST",
    "sans injection",
    "C-",
    "noncontrast",
)


def test_words_for_contrast_and_against_it():
    assert [text for text in CONTRAST if not words.is_contrast(text)] == []
    assert [text for text in PLAIN if words.is_contrast(text)] == []


def test_an_iteration_strength_is_no_breathing_phase():
    assert words.other_purpose("CHEST INSP ASIR 40%") == ""
    assert words.other_purpose("T=40%") == words.other_purpose("30%") == "a gated phase"


@pytest.mark.parametrize("text", ["Thorax 4D 0% in", "4DCT_Ex50", "Lung 4D-CT", "RespGated Thorax"])
def test_phases_of_a_gated_scan_are_told(text):
    assert words.other_purpose(text) == "a gated phase"


@pytest.mark.parametrize("text", ["Thorax Qr44d 1.0", "Br64d INSP", "Chest 3D 1.5", "Lung 14 days later"])
def test_a_number_before_a_d_is_not_always_a_gated_scan(text):
    assert words.other_purpose(text) == ""


# --- headers against each other ---------------------------------------------------------------------------


def test_patients_are_told_apart_by_what_is_known():
    jane = Patient("1", "Doe^Jane", "19600101", "F")
    assert not why_strangers(jane, Patient("1", "DOE^JANE^M^Dr", "19600101", "F"))
    assert not why_strangers(jane, Patient("1", "Doë^Jane", "19600102", "F"))  # one slip of a typist
    assert why_strangers(jane, replace(jane, id="2")) == "PatientID"
    assert "PatientName" in why_strangers(jane, Patient("1", "Roe^Jo", "19700101", "M"))  # an ID used twice
    assert why_strangers(replace(jane, id=""), Patient("", "Roe^Jo")) == "PatientName"
    assert not why_strangers(jane, Patient())
    with pytest.raises(PairError, match="different patients"):
        check_same_patient(jane, replace(jane, id="2"))


def test_scans_far_apart_in_time_or_making_are_warned_about():
    facts = {"study_uid": "1", "acquisition_date": "20260115", "acquisition_time": "101500.5", "kvp": 120.0,
             "slice_thickness_mm": 1.0, "manufacturer": "A", "model": "x", "patient_position": "HFS"}  # fmt: skip
    later = facts | {
        "acquisition_date": "20260128",
        "study_uid": "2",
        "kvp": 100.0,
        "slice_thickness_mm": 3.0,
    }
    by_code = {f.code: f for f in agreement(facts, later)}
    assert by_code["TIME_BETWEEN_SCANS"].severity is Severity.WARN
    assert by_code["TIME_BETWEEN_SCANS"].value == pytest.approx(13 * 24)
    assert "13 days" in by_code["TIME_BETWEEN_SCANS"].message
    assert {"STUDY_MISMATCH", "KVP_MISMATCH", "THICKNESS_MISMATCH", "SCANNER_MATCH"} <= set(by_code)
    soon = facts | {"acquisition_time": "101705"}
    assert all(f.severity is Severity.PASS for f in agreement(facts, soon))
    assert agreement({}, facts) == ()
    assert scan_time({"acquisition_datetime": "20260115101500.25+0100"}) == scan_time(facts)
    assert scan_time({"study_date": "20260115", "study_time": "1015"}) == scan_time(facts)  # no 10:01:05
    assert scan_time({"study_date": "20260115", "study_time": "10"}) == datetime(2026, 1, 15, 10)


# --- one series -------------------------------------------------------------------------------------------


def series(description="", *, kernel="B35f", shape=(300, 512, 512), spacing=(1.0, 0.7, 0.7), **facts):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1
    facts = {"series_description": description, "kernel": kernel, "slice_thickness_mm": spacing[0]} | facts
    uid = str(facts.get("series_uid") or id(facts))
    return io.SeriesInfo(
        io.scan.Path("study/folder"), "dicom", (), True, modality="CT", description=description, kernel=kernel,
        uid=uid, slices=shape[0], grid=Grid(shape, affine), facts=facts,
    )  # fmt: skip


def candidate(litres, description="", hu=None, **more):
    """A scan of lungs that weigh 900 g unless told otherwise."""
    hu = hu if hu is not None else 900 / litres - 1000
    return Candidate.of(series(description, **more), Glance(1000 * litres, hu, 0.0))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (series("x", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), "a localizer"),
        (series("x", image_type="DERIVED\\SECONDARY\\MPR"), "derived from other images"),
        (series("Thorax cor"), "'cor'"),
        (series("Thorax MIP"), "'mip'"),
        (series("CTAC"), "attenuation correction"),
        (series("x", respiratory_percent="50"), "gated"),
        (series("x", respiratory_motion="RETROSPECTIVE"), "gated"),
        (series("x", shape=(20, 512, 512), spacing=(7, 1, 1)), "only 20 slices"),
        (series("x", shape=(60, 512, 512)), "covers 60 mm"),
        (series("x", contrast_agent="Iomeron 350"), "contrast medium by its header"),
        (series("CTPA 1.0"), "contrast medium by its description"),
    ],
)  # fmt: skip
def test_what_is_no_plain_whole_chest_is_set_aside_with_its_reason(given, reason):
    assert any(reason in told for told in header_reasons(given)), header_reasons(given)


@pytest.mark.parametrize("agent", ["", "none", "NO", "w/o", "ohne", "oral", "0", "No contrast"])
def test_a_header_that_denies_contrast_sets_nothing_aside(agent):
    assert header_reasons(series("CHEST INSP 1.0 B35f", contrast_agent=agent)) == ()


def test_cut_lungs_and_bright_blood_are_seen():
    assert look_reasons(Glance(5000, -850, 2.0, 45.0)) == look_reasons(Glance(5000, -850, 2.0)) == ()
    assert "cuts the lungs" in look_reasons(Glance(5000, -850, 30.0, 45.0))[0]
    assert "contrast medium" in look_reasons(Glance(5000, -850, 2.0, 180.0))[0]


def test_explicit_tags_count_before_words_and_words_of_the_series_before_the_protocol():
    both = series("CHEST INSP", protocol="Thorax EXP")
    assert breath_told(both) == ("inspiration", "series description")
    assert breath_told(series("", protocol="Thorax EXP")) == ("expiration", "protocol")
    assert breath_told(series("", protocol="Thorax EXP"), {"Thorax EXP"}) == ("", "")
    tagged = series("CHEST INSP", respiratory_start_phase="MINIMUM", respiratory_end_phase="MINIMUM")
    assert breath_told(tagged) == ("expiration", "respiratory phase tag")


def test_thin_and_soft_score_best_and_say_why():
    scores = [
        suitability(series("x", kernel=kernel, spacing=(mm, 0.7, 0.7)))[0]
        for kernel, mm in (("B35f", 1.0), ("B50f", 1.0), ("B70f", 1.0), ("B35f", 5.0), ("B70f", 5.0))
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5
    assert suitability(series("x", kernel="LUNG"))[1] == ("−2 sharp kernel LUNG",)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("healthy", seed=2, spacing=(4.0, 5.0, 5.0))


def test_a_quick_look_agrees_with_the_full_segmentation(phantom):
    looks = [glance(v.reorient("SPL")) for v in (phantom.insp, phantom.exp)]
    for seen, scan in zip(looks, (phantom.insp, phantom.exp), strict=True):
        assert seen.lung_ml == pytest.approx(segment(scan.reorient("SPL")).volume_ml("both"), rel=0.04)
        assert seen.blood_hu is None or 20 < seen.blood_hu < 70
    assert looks[1].lung_g == pytest.approx(looks[0].lung_g, rel=0.15)
    empty = phantom.insp.reorient("SPL")
    with pytest.raises(InputError, match="no lungs"):
        glance(empty.like(np.full_like(empty.array, 40)))


def test_a_thinned_look_is_the_look(phantom, tmp_path):
    scan = phantom.exp.reorient("SPL")
    scan = scan.resample(scan.grid.with_spacing((1.9, 5.0, 5.0)), fill=-1000.0)
    scan = scan.like(scan.array.astype(np.int16))
    tags = {**study_tags("healthy", 5, scan.spacing), "SeriesInstanceUID": "1.2.3", "SeriesNumber": 4}
    write_series(scan, tmp_path, tags)
    (info,) = io.list_series(tmp_path)
    assert look_at(info).lung_ml == pytest.approx(glance(scan).lung_ml, rel=0.01)


# --- pairs ------------------------------------------------------------------------------------------------


def parts(found):
    assert isinstance(found, Pair), found
    return found.insp.series.description, found.exp.series.description


def test_volume_decides_and_words_agree():
    assert parts(decide([candidate(3.0, "b"), candidate(5.0, "a")])) == ("a", "b")


@pytest.mark.parametrize("litres", [(5.0, 4.9), (5.0, 4.8, 4.6, 4.4, 4.2), (5.0,), ()])
def test_no_two_breaths_no_pair(litres):
    assert isinstance(decide([candidate(v) for v in litres]), Undecided)


def test_swapped_words_yield_to_a_clear_breath_and_are_told():
    found = decide([candidate(5.0, "exp"), candidate(3.0, "insp")])
    assert parts(found) == ("exp", "insp")
    first = pair_findings(found)[0]
    assert (first.code, first.severity) == ("WORDS_CONTRADICT_VOLUME", Severity.WARN)


def test_swapped_words_and_a_doubtful_breath_decide_nothing():
    small = decide([candidate(5.0, "exp"), candidate(4.6, "insp")])
    assert isinstance(small, Undecided)
    assert "too little to overrule" in small.why
    # Half the mass is gone: one of the volumes is not what it seems.
    wrong = decide([candidate(5.0, "exp", hu=-820), candidate(2.5, "insp", hu=-820)])
    assert isinstance(wrong, Undecided)
    assert "mass" in wrong.why


def test_two_scans_of_one_name_need_a_deep_breath():
    assert isinstance(decide([candidate(5.0, "insp"), candidate(4.2, "insp")]), Undecided)
    assert isinstance(decide([candidate(5.0, "insp"), candidate(3.0, "insp")]), Pair)


def test_matching_kernels_before_soft_before_anything():
    full = [candidate(5.0, f"INSP {k}", kernel=k) for k in ("B70f", "B35f", "B50f")]
    empty = [candidate(3.0, f"EXP {k}", kernel=k) for k in ("B70f", "B50f")]
    assert parts(decide([*full, *empty])) == ("INSP B50f", "EXP B50f")
    assert parts(decide([*full, empty[0]])) == ("INSP B70f", "EXP B70f")
    mixed = decide([full[1], empty[0]])
    assert "KERNEL_MISMATCH" in {f.code for f in pair_findings(mixed)}


def test_the_breaths_of_two_people_without_names_are_not_mixed():
    one, other = (
        [candidate(5.0, "insp"), candidate(3.0, "exp")],
        [candidate(3.05, "insp"), candidate(2.0, "exp")],
    )
    assert isinstance(decide([*one, *other]), Undecided)
    assert parts(decide([*one, candidate(2.0)])) == ("insp", "exp")


def test_a_small_breath_is_warned_about_with_its_ratio():
    found = {f.code: f for f in pair_findings(decide([candidate(5.0, "insp"), candidate(4.6, "exp")]))}
    assert found["BREATH_BETWEEN_SCANS"].severity is Severity.WARN
    assert (found["BREATH_BETWEEN_SCANS"].value, found["BREATH_BETWEEN_SCANS"].limit) == (0.92, 0.9)
    found = {f.code: f for f in pair_findings(decide([candidate(5.0), candidate(3.0)]))}
    assert found["BREATH_BETWEEN_SCANS"].severity is Severity.PASS


def test_one_chosen_scan_finds_its_partner_or_says_that_there_are_several():
    insp, exp, rest = candidate(5.0, "insp"), candidate(3.0, "exp"), candidate(4.0, "rest")
    assert parts(partner(rest, "inspiration", [insp, exp, rest])) == ("rest", "exp")
    assert parts(partner(rest, "expiration", [insp, exp, rest])) == ("insp", "rest")
    assert parts(partner(insp, "inspiration", [exp, rest])) == ("insp", "exp")  # its name decides
    several = partner(insp, "inspiration", [candidate(3.0), candidate(4.0)])
    assert isinstance(several, Undecided)
    assert "2 breath-holds" not in several.why or several.why


# --- a folder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(phantom, folder)
    return folder


def test_the_phantoms_study_gives_its_soft_pair_and_a_reason_for_everything(study):
    found = survey(study)
    roles = {e.key: e.role for e in found.entries}
    assert roles == {
        "1": "set aside", "2": "inspiration", "3": "candidate", "4": "expiration", "5": "set aside",
    }  # fmt: skip
    assert all(entry.reasons for entry in found.entries)
    assert "words agree" in found.verdict
    assert {f.severity for f in found.findings} == {Severity.PASS}
    record = json.dumps([e.row() for e in found.entries])
    assert "LUNGVQ^PHANTOM" not in record
    assert all(e.score is not None for e in found.entries if e.role not in ("set aside",))


@pytest.mark.parametrize("name", ["4", "CHEST EXP 4.0 B35f", "chest exp 4.0 b35f", "series-04"])
def test_a_series_may_be_named_in_many_ways(study, name):
    chosen = choose_pair(study, "3", name)
    assert chosen.insp.facts["series_number"] == "3"
    assert chosen.exp.facts["series_number"] == "4"
    assert "user" in chosen.how
    by_uid = choose_pair(study, chosen.insp.uid, chosen.exp.uid)
    assert by_uid.exp.uid == chosen.exp.uid


def test_with_one_series_chosen_the_other_is_found(study):
    chosen = choose_pair(study, "3", None)  # the sharp one, which nobody would take
    assert (chosen.insp.facts["series_number"], chosen.exp.facts["series_number"]) == ("3", "4")
    assert "KERNEL_MISMATCH" in {f.code for f in chosen.findings}


def test_a_name_that_fits_no_series_or_several_is_refused_with_the_names_there_are(study, tmp_path):
    with pytest.raises(InputError, match="no series is called '99'; choose among: 1, 2, 3, 4, 5"):
        choose_pair(study, "99", None)
    with pytest.raises(InputError, match="cannot be used"):
        choose_pair(study, "1", None)
    with pytest.raises(PairError, match="the same series"):
        choose_pair(study, "2", "2")
    scan = Volume(np.zeros((31, 20, 20), np.int16), np.diag([5.0, 5, 5, 1])[[2, 1, 0, 3]])
    for n in (1, 2):
        write_series(
            scan,
            tmp_path / str(n),
            {"StudyInstanceUID": "1.2", "SeriesInstanceUID": f"1.2.{n}", "SeriesNumber": 7},
        )
    with pytest.raises(InputError, match="2 series are called '7'; choose among: 7a, 7b"):
        choose_pair(tmp_path, "7", None)


def test_both_breaths_in_one_series_are_told_apart_and_can_be_named(phantom, tmp_path):
    tags = study_tags("healthy", 2, (4.0, 5.0, 5.0))
    tags |= {"SeriesInstanceUID": "1.2.9", "SeriesNumber": 2, "SeriesDescription": "CHEST INSP/EXP"}
    for n, scan in enumerate((phantom.insp, phantom.exp), start=1):
        own = {**tags, "AcquisitionNumber": n, "AcquisitionTime": f"101{n}00"}
        write_series(scan.reorient("SPL"), tmp_path / str(n), own, first_number=1000 * n)
    found = survey(tmp_path)
    assert {e.key: e.role for e in found.entries} == {"2a": "inspiration", "2b": "expiration"}
    assert "series 2a" in found.verdict
    assert "series 2b" in found.verdict
    with pytest.raises(InputError, match="2 series are called '2'; choose among: 2a, 2b"):
        choose_pair(tmp_path, "2", None)
    assert choose_pair(tmp_path, "2A", None).exp.slices == phantom.exp.reorient("SPL").shape[0]


def test_a_look_that_fails_sets_one_series_aside_and_no_more(study):
    listed = io.list_series(study)

    def look(info):
        if info.facts["series_number"] == "3":
            raise ResourceError("too large")
        return look_at(info)

    found = survey_series(listed, look=look)
    assert found.has_pair
    assert next(e for e in found.entries if e.key == "3").reasons == ("too large",)


def test_no_pair_carries_the_table_and_the_way_out(study):
    only = [s for s in io.list_series(study) if s.facts["series_number"] in ("2", "3")]
    found = survey_series(only)
    error = NoPairError(found)
    assert error.exit_code == 3
    assert error.entries
    assert "no breathing" in str(error)
    assert "--insp-series and --exp-series" in str(error)


def test_breath_holds_in_a_study_each_are_told_once_with_the_way_out(study):
    listed = [s for s in io.list_series(study) if s.facts["series_number"] in ("2", "4")]
    apart = [replace(s, facts=s.facts | {"study_uid": f"1.2.{n}"}) for n, s in enumerate(listed)]
    error = str(NoPairError(survey_series(apart)))
    assert (
        "none of 2 studies holds a pair: in each of them one chest CT that could be used was found" in error
    )
    assert error.count("one chest CT") == 1
    assert "--insp-series and --exp-series" in error


def test_script_and_control_characters_in_a_header_are_plain_text_in_the_terminal(phantom, tmp_path):
    for n, (scan, words_) in enumerate(
        ((phantom.insp, "insp [red]<script>x\x1b[31m"), (phantom.exp, "exp\u202e[/]"))
    ):
        tags = study_tags("healthy", 2, scan.spacing)
        tags |= {"SeriesInstanceUID": f"1.2.{n}", "SeriesNumber": n, "SeriesDescription": words_}
        write_series(scan.reorient("SPL"), tmp_path / str(n), tags)
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "[red]<script>" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


def test_inspect_prints_the_table_and_exits_with_three_where_it_abstains(study, tmp_path):
    done = CliRunner().invoke(app, ["inspect", str(study)])
    assert done.exit_code == 0
    assert [word in done.stdout for word in ("Score", "inspiration", "set aside", "words agree")] == [
        True
    ] * 4
    lone = CliRunner().invoke(app, ["inspect", str(study / "series-02")])
    assert lone.exit_code == 3
    assert lone.stderr.startswith("lungvq: no pair was chosen: one chest CT")
    assert "candidate" in lone.stdout


@pytest.mark.slow
def test_run_takes_the_phantoms_study_and_records_how_the_pair_was_found(study, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(study), "-o", str(out), "--no-dicom"])
    assert done.exit_code == 0, done.output
    assert "a reformat" in done.stderr  # the decision table
    record = json.loads((out / "run.json").read_text())
    assert "words agree" in record["selection"]["how"]
    assert [row["role"] for row in record["selection"]["series"]].count("set aside") == 2
    codes = [f["code"] for f in record["findings"]]
    assert {"BREATH_BETWEEN_SCANS", "TIME_BETWEEN_SCANS"} <= set(codes)
    assert len(codes) == len(set(codes))
    assert "CHEST INSP COR" in (out / "report.html").read_text()
    refused = CliRunner().invoke(app, ["run", str(study / "series-02"), "-o", str(tmp_path / "no")])
    assert refused.exit_code == 3
    assert not (tmp_path / "no").exists()
