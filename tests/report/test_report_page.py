import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from lungvq.anatomy import LEFT, LOBES, REGIONS
from lungvq.errors import OutputError
from lungvq.report import build_page, draw_pictures, write_report
from lungvq.report.content import number
from lungvq.report.html import render
from lungvq.report.methods import METHODS, REFERENCES, number_citations

VOID = {"meta", "img", "input", "br", "rect", "line", "path"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test wants to know."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


def words_of(case):
    return Page(render(build_page(case), {})).words


def value(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}", ""))


@pytest.fixture(scope="module")
def written(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(case, folder)


@pytest.fixture(scope="module")
def page(written):
    return Page((written[0] / "report.html").read_text(encoding="utf-8"))


class TestFile:
    def test_everything_that_is_said_to_be_written_is_there(self, written):
        folder, paths = written
        assert paths[:2] == [folder / "report.html", folder / "report.pdf"]
        assert set(paths[2:]) == set((folder / "figures").iterdir())
        assert {p.suffix for p in paths[2:]} == {".png", ".svg"}
        assert all(p.stat().st_size > 0 for p in paths)

    def test_it_stays_small(self, written):
        assert (written[0] / "report.html").stat().st_size < 8e6

    def test_nothing_is_loaded_from_anywhere(self, written, page):
        for tag, attrs in page.tags:
            for name in ("src", "href", "action", "srcset", "data", "poster", "xlink:href"):
                target = attrs.get(name) or ""
                assert target.startswith(("data:image/png;base64,", "#")) or not target, (
                    tag,
                    name,
                    target[:80],
                )
        assert not page.all("script")
        assert not page.all("link")
        assert "url(" not in (written[0] / "report.html").read_text(encoding="utf-8").split("</style>")[0]

    def test_the_policy_names_the_style_sheet_and_nothing_else(self, written, page):
        text = (written[0] / "report.html").read_text(encoding="utf-8")
        policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not any("style" in attrs for _, attrs in page.tags)  # the policy would drop such attributes

    def test_it_can_be_read_without_seeing_it(self, page):
        assert page.all("html")[0]["lang"] == "en"
        assert all(attrs.get("alt") for attrs in page.all("img"))
        assert all(attrs.get("scope") for attrs in page.all("th"))
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {a["href"][1:] for a in page.all("a")} <= set(ids)
        assert {a["for"] for a in page.all("label")} <= set(ids)

    def test_the_order_of_contents(self, page):
        heads = [
            "Fake case 07", "Research use only", "WARN", "Key numbers", "Scans used", "Maps", "From outside",
            "Lobes and lungs", "Zones", "How even it is", "Registration", "What to distrust", "Methods",
            "References", "Settings and software", "Glossary",
        ]  # fmt: skip
        places = [page.words.index(head) for head in heads]
        assert places == sorted(places)

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, case, tmp_path, monkeypatch):
        monkeypatch.setattr("lungvq.report.draw_pictures", lambda result, progress: [])
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot be written"):
            write_report(case, tmp_path / "file")


class TestEscaping:
    HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> ' \" & {{ 7 * 7 }} $x^2$"

    def test_hostile_strings_stay_words(self, make_case):
        def change(parts):
            parts["case"], parts["banner"] = self.HOSTILE, self.HOSTILE

        case = make_case(change=change)
        scans = tuple(replace(s, name=self.HOSTILE, facts={self.HOSTILE: self.HOSTILE}) for s in case.scans)
        finding = replace(case.findings[-1], message=self.HOSTILE, advice=self.HOSTILE, unit=self.HOSTILE)
        case = replace(
            case, scans=scans, findings=(finding,), settings={self.HOSTILE: self.HOSTILE},
            versions={self.HOSTILE: self.HOSTILE}, timings=[(self.HOSTILE, 1.0)],
        )  # fmt: skip
        page = Page(render(build_page(case), {}))
        assert not page.all("script")
        assert not page.all("img")
        assert page.words.count("{{ 7 * 7 }}") >= 10
        assert not any("onerror" in attrs for _, attrs in page.tags)


class TestNumbers:
    @pytest.mark.parametrize(
        ("given", "digits", "expected"),
        [
            (float("nan"), 1, "–"),
            (None, 1, "–"),
            (float("inf"), 0, "–"),
            (12345.6, 0, "12\N{NARROW NO-BREAK SPACE}346"),
            (-3.14159, 1, "\N{MINUS SIGN}3.1"),
            (-0.01, 1, "0.0"),
        ],
    )
    def test_words_for_numbers(self, given, digits, expected):
        assert number(given, digits) == expected

    @pytest.mark.parametrize("index", [4, 7], ids=["V %", "Q %"])
    def test_columns_of_shares_add_up(self, case, index):
        table = build_page(case)["lobes"]
        assert table["columns"][index] in (("V", "%"), ("Q", "%"))
        shares = {row["region"]: value(row["cells"][index]["text"]) for row in table["rows"]}
        assert shares["both"] == 100
        assert sum(shares[lobe] for lobe in LOBES) == pytest.approx(100, abs=0.26)  # five roundings
        assert shares["left"] + shares["right"] == pytest.approx(100, abs=0.11)
        assert shares["LUL"] + shares["LLL"] == pytest.approx(shares["left"], abs=0.16)

    def test_it_says_that_they_add_up(self, case):
        assert "V % of the five lobes adds up to 100.0 %" in words_of(case)
        assert "Q % of right and left adds up to 100.0 %" in words_of(case)

    def test_it_says_when_lung_belongs_to_no_lobe(self, make_case):
        def change(parts):
            parts["lobes"] = parts["lobes"].like(np.where(parts["lobes"].array == 5, 0, parts["lobes"].array))

        words = words_of(make_case(change=change))
        assert re.search(r"V % of the five lobes adds up to \d\d\.\d % \(\d+\.\d % lies in no lobe\)", words)

    def test_a_ratio_to_volume_by_hand(self, case):
        table = build_page(case)["lobes"]
        row = next(r for r in table["rows"] if r["region"] == "RLL")
        share = case.metric("RLL", "volume_exp_ml") / case.metric("both", "volume_exp_ml")
        expected = case.metric("RLL", "perfusion_fraction_pct") / 100 / share
        assert value(row["cells"][8]["text"]) == pytest.approx(expected, abs=0.005)
        assert value(row["cells"][2]["text"]) == pytest.approx(
            case.metric("RLL", "volume_insp_ml") - case.metric("RLL", "volume_exp_ml"), abs=0.5
        )

    def test_zones_and_regions_are_all_there(self, case, page):
        table = build_page(case)
        assert {r["region"] for r in table["lobes"]["rows"]} == {r for r in REGIONS if "_" not in r}
        zones = table["zones"]["rows"]
        assert [z["title"] for z in zones] == ["Upper", "Middle", "Lower", "Whole lung"]
        # Right before left, as on the pictures.
        assert value(zones[0]["cells"][1]["text"]) == pytest.approx(
            case.metric("right_upper", "ventilation_fraction_pct"), abs=0.05
        )
        assert value(zones[2]["cells"][6]["text"]) == pytest.approx(
            case.metric("left_lower", "ventilation_fraction_pct"), abs=0.05
        )
        assert "equal_height_per_lung" in page.words

    def test_negative_shares_are_shown(self, case):
        metrics = case.metrics.copy()
        where = (metrics["region"] == "LLL") & (metrics["metric"] == "ventilation_fraction_pct")
        metrics.loc[where, "value"] = -3.2
        assert "\N{MINUS SIGN}3.2" in words_of(replace(case, metrics=metrics))

    def test_intervals_and_warnings_stand_beside_their_number(self, case):
        metrics = case.metrics.copy()
        where = (metrics["region"] == "RUL") & (metrics["metric"] == "ventilation_fraction_pct")
        metrics.loc[where, ["ci_low", "ci_high", "qc"]] = [20.04, 24.96, "WARN SPACING_EXP"]
        row = build_page(replace(case, metrics=metrics))["lobes"]["rows"][0]
        assert row["cells"][4]["interval"] == "20.0 to 25.0"
        assert row["cells"][4]["mark"]
        assert not row["cells"][7]["mark"]

    def test_a_failed_number_is_not_shown(self, case):
        metrics = case.metrics.copy()
        where = (metrics["region"] == "RUL") & (metrics["metric"] == "volume_insp_ml")
        metrics.loc[where, "qc"] = "FAIL SOMETHING"
        cells = build_page(replace(case, metrics=metrics))["lobes"]["rows"][0]["cells"]
        assert [c["text"] for c in cells[:3:2]] == ["–", "–"]  # nor what is made from it
        assert cells[1]["text"] != "–"

    def test_marks_stand_once(self, case):
        metrics = case.metrics.copy()
        column = metrics["metric"] == "perfusion_defect_pct"
        row = metrics["region"] == "left"
        metrics.loc[column | row, "qc"] = "WARN SOMETHING"
        table = build_page(replace(case, metrics=metrics))["lobes"]
        assert [n for n, marked in enumerate(table["marks"]) if marked] == [9]
        assert [r["region"] for r in table["rows"] if r["mark"]] == ["left"]
        assert not any(c["mark"] for r in table["rows"] for c in r["cells"])
        assert table["marked"]

    def test_mass_change_beyond_two_standard_errors(self, case):
        """Half of the lung at three standard errors, half at one."""
        i = np.indices(case.exp.shape)[2] % 2
        change = np.where(i == 0, -0.03, 0.01).astype(np.float32)
        error = np.full(case.exp.shape, 0.01, np.float32)
        maps = {**case.maps, "perfusion_ctp": case.exp.like(change), "perfusion_ctp_se": case.exp.like(error)}
        measured = dict(build_page(replace(case, maps=maps))["distrust"]["measured"])
        text = measured["Apparent mass change exceeds twice its standard error in"]
        assert float(text.split(" ")[0]) == pytest.approx(50, abs=3)


@pytest.mark.usefixtures("small_pictures")
class TestWithholding:
    def test_warnings_come_first_with_value_limit_and_advice(self, make_case, failing):
        verdict = build_page(make_case(change=failing("prm")))["verdict"]
        assert verdict["status"] == "FAIL"
        assert [f["severity"] for f in verdict["serious"]] == ["FAIL", "WARN"]
        assert verdict["serious"][1]["value"] == "2.5 mm"
        assert verdict["serious"][1]["limit"] == "1.5 mm"
        assert "Reconstruct" in verdict["serious"][1]["advice"]
        assert len(verdict["passed"]) == 2

    def test_perfusion_takes_vq_with_it(self, make_case, failing):
        case = make_case(change=failing("perfusion", message="Contrast medium was given."))
        words = words_of(case)
        assert "Perfusion withheld because of a failed check: Contrast medium was given." in words
        assert "V/Q withheld because of a failed check: Contrast medium was given." in words
        row = build_page(case)["lobes"]["rows"][-1]["cells"]
        assert [c["text"] for c in row[7:14]] == ["–"] * 7
        assert row[4]["text"] == "100.0"
        names = {p.name for p in draw_pictures(case)}
        assert "vq_classes" not in names
        assert "histogram_perfusion" not in names
        assert {"histogram_ventilation", "montage_coronal"} <= names
        assert case.withheld("vq_log2")
        assert not case.withheld("ventilation")

    def test_cut_lungs_leave_no_number_of_both_on_the_first_page(self, make_case, failing):
        key = build_page(make_case(change=failing("both", "left", "right")))["key"]
        assert [text for _, text, _ in key["volumes"]] == ["–"] * 4
        assert all(split["withheld"] for split in key["splits"])
        assert key["classes"]["withheld"]

    def test_one_lung_leaves_no_number_of_both_nor_shares_on_the_first_page(self, make_case, failing):
        page = build_page(make_case(change=failing("left")))
        assert [text for _, text, _ in page["key"]["volumes"]] == ["–"] * 4
        assert all(split["withheld"] and split["bar"] is None for split in page["key"]["splits"])
        assert page["key"]["classes"]["withheld"]
        assert page["lobes"]["sums"] == ""

    def test_lobes_go_and_lungs_stay(self, make_case, failing):
        case = make_case(change=failing("lobes", message="No voxel belongs to RML."))
        assert "Lobes withheld because of a failed check: No voxel belongs to RML." in words_of(case)
        assert [r["region"] for r in build_page(case)["lobes"]["rows"]] == ["right", "left", "both"]

    def test_a_lung_takes_its_lobes_and_zones_and_keeps_its_row(self, make_case, failing):
        page = build_page(make_case(change=failing("left")))
        rows = {r["region"]: r for r in page["lobes"]["rows"]}
        for region in ("left", "LUL", "LLL"):
            assert rows[region]["withheld"]
            assert {c["text"] for c in rows[region]["cells"]} == {"–"}
        assert not rows["right"]["withheld"]
        assert {c["text"] for c in page["zones"]["rows"][0]["cells"][5:]} == {"–"}

    def test_all_withholds_everything(self, make_case, failing):
        case = make_case(change=failing("all"))
        assert set(build_page(case)["withheld"]) == {
            "ventilation",
            "perfusion",
            "vq",
            "lobes",
            "density",
            "prm",
        }
        cells = [c["text"] for r in build_page(case)["lobes"]["rows"] for c in r["cells"]]
        assert set(cells) == {"–"}
        assert {value for _, value, _ in build_page(case)["key"]["volumes"]} == {"–"}
        assert "surfaces" not in {p.name for p in draw_pictures(case)}

    def test_a_banner_is_on_the_page(self, make_case):
        def change(parts):
            parts["banner"] = "The guard on breathing was switched off."

        assert "The guard on breathing was switched off." in words_of(make_case(change=change))


@pytest.mark.usefixtures("small_pictures")
class TestPoorCases:
    def test_a_map_without_a_single_value(self, make_case, tmp_path):
        def change(parts):
            parts["ventilation"] = np.full(parts["exp"].shape, np.nan)

        with np.errstate(all="raise"):
            paths = write_report(make_case(change=change), tmp_path)
        Page(paths[0].read_text(encoding="utf-8"))

    def test_an_empty_lung_stays_a_row(self, make_case, tmp_path):
        def change(parts):
            for name in ("lungs", "lobes"):
                gone = parts["lungs"].array == LEFT if name == "lungs" else parts["lobes"].array <= 2
                parts[name] = parts[name].like(np.where(gone, 0, parts[name].array))

        case = make_case(change=change)
        paths = write_report(case, tmp_path)
        Page(paths[0].read_text(encoding="utf-8"))
        rows = {r["region"]: r for r in build_page(case)["lobes"]["rows"]}
        assert rows["left"]["cells"][1]["text"] == "0"
        assert rows["left"]["cells"][6]["text"] == "–"
        assert rows["right"]["cells"][4]["text"] == "100.0"

    def test_no_lungs_at_all(self, make_case, tmp_path):
        def change(parts):
            for name in ("lungs", "lobes"):
                parts[name] = parts[name].like(np.zeros_like(parts[name].array))

        paths = write_report(make_case(change=change), tmp_path)
        assert "Not drawn" in Page(paths[0].read_text(encoding="utf-8")).words


def test_every_citation_has_its_reference_and_every_reference_is_cited():
    sections, cited = number_citations(METHODS, REFERENCES)
    assert sorted(cited) == sorted(REFERENCES.values())
    numbers = [n for section in sections for _, n in section["pieces"] if n]
    assert list(dict.fromkeys(numbers)) == list(range(1, len(cited) + 1))
