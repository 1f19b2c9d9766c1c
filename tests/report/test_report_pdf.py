"""The report on paper: the same words and numbers as the page, in any script, and nothing run as markup."""

import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import matplotlib
import pytest
from matplotlib.ft2font import FT2Font

from lungvq.report import build_page, draw_pictures
from lungvq.report.html import render
from lungvq.report.pdf import _characters, render_pdf, spell_out
from lungvq.result import ScanSummary

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="no poppler-utils on this machine"
)

NAMES = {
    "Latin": "Łukasz Çağlar Nguyễn",
    "Cyrillic": "Иванов Пётр",
    "Greek": "Παπαδόπουλος",
    "Arabic": "محمد",
    "Hebrew": "כהן",
    "Chinese": "王小東",
    "Japanese": "山田タロウ",
    "Korean": "홍길동",
    "Thai": "สมชาย",
    "Devanagari": "शर्मा",
    "Bengali": "বাংলা",
    "Tamil": "தமிழ்",
    "Georgian": "ქართული",
    "Armenian": "Հայ",
    "Ethiopic": "አበበ",
}
MARKUP = [
    '<script>alert("1")</script>',
    "<b>bold</b>",
    '#panic("x")',
    "#sys.version",
    "$x^2$",
    "*star* _under_ `tick`",
    "\\LaTeX{} \\input{/etc/passwd}",
    "[a](b) // c /* d */ @e <f>",
    "{{ 7*7 }} {% raw %}",
    "= heading -- --- ... ~",
]


def tidy(text):
    """Text without the differences that layout makes: spaces, break points, hyphens at a line end, ligatures."""
    text = unicodedata.normalize("NFKC", text)
    return re.sub(r"[-\s\u200b\u202a-\u202e\u00ad]+", "", text)


def printed(pdf, folder):
    (folder / "page.pdf").write_bytes(pdf)
    done = subprocess.run(
        ["pdftotext", "-enc", "UTF-8", folder / "page.pdf", "-"], capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode()


ASIDE = {"code", "region", "name", "abnormal", "value", "limit", "touches", "advice", "withheld"}


def leaves(value):
    """Every text in a page's dict, but for what names things for the layouts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        # A lobe goes by its letters.
        aside = ASIDE | ({"title"} if value.get("code") and "cells" in value else set())
        for key, item in value.items():
            if key not in aside:
                yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


class Words(HTMLParser):
    """What a reader of the page sees, and where each picture is described."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.words, self._skip = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._skip += tag in {"style", "title"}

    def handle_endtag(self, tag):
        self._skip -= tag in {"style", "title"}

    def handle_data(self, data):
        if not self._skip:
            self.words.append(data)


SELECTION = {
    "how": "the pair was found by lung volume",
    "series": [
        {"series": "1", "name": "Scout", "role": "set aside", "score": None, "lung_ml": None,
         "reasons": ["localizer"]},
        {"series": "2", "name": "Insp", "role": "inspiration", "score": 9.5, "lung_ml": 5120.0,
         "reasons": ["larger lungs", "says so"]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def found(case):
    """A case whose scans were chosen from a study."""
    return replace(case, selection=SELECTION)


@pytest.fixture(scope="module")
def drawn(found, tmp_path_factory):
    """The page, its pictures, and the folder that holds them."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lungvq.report.figures._PANEL_PX", 150)
        patch.setattr("lungvq.report.render3d._VOXELS", 500_000)
        pictures = {p.name: p for p in draw_pictures(found)}
    for picture in pictures.values():
        (folder / f"{picture.name}.{picture.kind}").write_bytes(picture.data)
    return build_page(found), pictures, folder


def test_it_is_a_tagged_pdf_and_the_same_every_time(drawn):
    pdf = render_pdf(*drawn)
    assert pdf.startswith(b"%PDF-1.7")
    assert b"/MarkInfo" in pdf
    assert b"pdfuaid" in pdf  # typst refuses to write this where alt texts or glyphs are missing
    assert render_pdf(*drawn) == pdf


def test_both_layouts_use_all_of_the_content(case):
    """A part that is added to the content and to one layout only is noticed here."""
    folder = resources.files("lungvq.report") / "templates"
    html, paper = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.html.j2", "report.typ")
    )
    for part in build_page(case):
        assert f"page.{part}" in html, part
        assert f"report.{part}" in paper, part


def test_letters_are_spelled_out_only_where_no_font_has_them():
    for name in NAMES.values():
        assert spell_out(name) == unicodedata.normalize("NFC", name)
    assert spell_out("\N{HANGUL CHOSEONG HIEUH}\N{HANGUL JUNGSEONG A}\N{HANGUL JONGSEONG NIEUN}") == "한"
    assert spell_out("A\ue000\U00012000") == "A[U+E000][U+12000]"


def test_what_a_font_is_said_to_have_it_has():
    """Bold text falls back like upright text: a character counts only where both cuts have it."""
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    upright, bold = (set(FT2Font(f"{folder}/DejaVuSans{cut}.ttf").get_charmap()) for cut in ("", "-Bold"))
    lone = upright - bold - set().union(*_characters())
    assert lone
    assert spell_out(chr(min(lone))) == f"[U+{min(lone):04X}]"


def test_the_fonts_are_small_and_have_their_licences():
    folder = resources.files("lungvq.report") / "fonts"
    files = {f.name: len(f.read_bytes()) for f in folder.iterdir()}
    assert sum(files.values()) < 6_000_000
    for name, words in {"Noto": "SIL OPEN FONT", "Hangul": "SIL OPEN FONT", "Han": "Apache License"}.items():
        assert words in folder.joinpath(f"LICENSE-{name}.txt").read_text(encoding="utf-8")


def test_no_text_can_break_the_report(case, drawn):
    """Marks on letters of another script have no common font: they are written out rather than lost."""
    odd = "a\u0902 א\u0301 한\u0301 \U0001f468\u200d\U0001f469 \u202e\x00\x07 \ud800 \ufffe ﻻ" + "W" * 500
    page = build_page(replace(case, case=odd, banner=odd))
    assert "[U+202E][U+0000][U+0007] [U+D800]" in page["case"]
    assert render_pdf(page, drawn[1], drawn[2]).startswith(b"%PDF")


@pytest.mark.integration
@needs_poppler
class TestWords:
    def test_page_and_paper_say_the_same(self, drawn, tmp_path):
        page, pictures, _ = drawn
        html = tidy("".join(Words(render(page, pictures)).words))
        text = printed(render_pdf(*drawn), tmp_path)
        # Page numbers and headers may stand between two halves of a paragraph.
        text = re.sub(r"Research use only\. Not for diagnosis or treatment\.\s+\d+ / \d+\s+", "", text)
        paper = tidy(re.sub(r"\f.*\n\s*RESEARCH USE ONLY\s*", "", text))
        for leaf in leaves(page):
            if leaf in page["notes"].values() and tidy(leaf) not in html:
                assert tidy(leaf) not in paper  # said only where it applies
                continue
            assert tidy(leaf).lower() in html.lower(), leaf
            assert tidy(leaf).lower() in paper.lower(), leaf

    def test_every_number_of_the_page_is_on_paper_as_often(self, drawn, tmp_path):
        page = drawn[0]
        paper = tidy(printed(render_pdf(*drawn), tmp_path))
        numbers = [
            c["text"] for table in ("lobes", "zones") for row in page[table]["rows"] for c in row["cells"]
        ]
        assert len(numbers) > 150
        for number in set(numbers) - {"–"}:
            assert paper.count(tidy(number)) >= numbers.count(number), number

    def test_every_page_says_research_use_and_carries_the_banner(self, case, drawn, tmp_path):
        page = build_page(replace(case, banner="The guard on breathing was switched off."))
        sheets = printed(render_pdf(page, drawn[1], drawn[2]), tmp_path).split("\f")[:-1]
        assert len(sheets) > 3
        for n, sheet in enumerate(sheets, 1):
            assert "RESEARCH USE ONLY" in sheet
            assert "Not for diagnosis or treatment." in sheet
            assert "The guard on breathing was switched off." in sheet
            assert f"{n}/{len(sheets)}" in tidy(sheet)

    def test_names_in_any_script_can_be_read_and_copied(self, case, drawn, tmp_path):
        page = build_page(replace(case, case=" / ".join(NAMES.values())))
        text = tidy(printed(render_pdf(page, drawn[1], drawn[2]), tmp_path))
        missing = [script for script, name in NAMES.items() if tidy(name) not in text]
        # Extraction gives a reordered vowel twice; the sheet itself is right.
        assert set(missing) <= {"Thai", "Bengali", "Devanagari", "Tamil"}
        assert "[U+" not in text

    @pytest.mark.parametrize("words", MARKUP)
    def test_markup_is_text_in_page_and_paper(self, case, drawn, tmp_path, words):
        scans = tuple(
            ScanSummary(s.role, words, s.sha256, {**s.facts, "series_description": words, words: words})
            for s in case.scans
        )
        page = build_page(replace(case, case=words, scans=scans, settings={words: words}))
        html = render(page, {})
        assert tidy(printed(render_pdf(page, {}, drawn[2]), tmp_path)).count(tidy(words)) >= 6
        assert tidy("".join(Words(html).words)).count(tidy(words)) >= 6
        assert "<script" not in html
        assert "<b>" not in html

    def test_what_is_withheld_is_withheld_on_paper(self, make_case, failing, drawn, tmp_path):
        case = make_case(change=failing("perfusion", "lobes", message="Contrast medium was given."))
        pictures = {n: p for n, p in drawn[1].items() if n not in {"vq_classes", "histogram_perfusion"}}
        text = printed(render_pdf(build_page(case), pictures, drawn[2]), tmp_path)
        words = re.sub(r"\s+", " ", text)
        for what in ("Perfusion", "V/Q", "Lobes"):
            assert f"{what} withheld because of a failed check: Contrast medium was given." in words
        assert "RUL " not in words.split("Lobes and lungs")[1].split("Glossary")[0]
        assert "V/Q classes over the CT" not in words
