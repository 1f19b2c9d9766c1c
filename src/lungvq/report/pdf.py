"""From the page's dict and its pictures to one PDF: tagged (PDF/UA-1), A4, fonts embedded.

The layout is ``templates/report.typ``; the words and numbers reach it as JSON and are shown as they are, never
read as markup. Only the fonts beside this module and matplotlib's DejaVu Sans are used, so that the same case
gives the same file on every machine. A character that none of them has is written out as ``[U+1F600]``.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import typst
from matplotlib.ft2font import FT2Font

from lungvq.report.plate import Picture

__all__ = ["MISSING_GLYPH", "render_pdf", "spell_out"]

MISSING_GLYPH = "[U+{:04X}]"
"""What stands for a character that no font has."""

_NO_GLYPH = "could not be displayed with font"

# In the order they are asked for a glyph. The body font comes first, then what covers most.
_FAMILIES = (
    "Noto Sans",
    "DejaVu Sans",
    "Droid Sans Han Subset",
    "Lungvq Hangul",
    *(
        f"Noto Sans {script}"
        for script in (
            "Thai", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada",
            "Malayalam", "Sinhala", "Khmer", "Myanmar", "Ethiopic",
        )
    ),
)  # fmt: skip

# Joiners and selectors shape their neighbours and have no glyph of their own.
_SHAPING = frozenset(map(chr, (0x00AD, 0x034F, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF)))


def render_pdf(page: Mapping[str, Any], pictures: Mapping[str, Picture], figures: Path) -> bytes:
    """The report as a PDF file; the same bytes every time.

    Parameters
    ----------
    page : dict
        What `content.build_page` returns.
    pictures : dict of str to Picture
        By name; a missing one is left out.
    figures : Path
        The folder that holds them as files, called ``<name>.<kind>``.
    """
    shown = {
        name: {
            "file": f"/{name}.{picture.kind}",
            "alt": picture.alt,
            "ratio": picture.size[0] / picture.size[1],
        }
        for name, picture in pictures.items()
    }
    for allowed in (_printable, _printable_alone, str.isascii):
        try:
            return _compile(spell_out(page, allowed), shown, figures)
        except typst.TypstError as error:
            # A mark on a letter of another script may have no font that holds both.
            if _NO_GLYPH not in error.message or allowed is str.isascii:
                raise
    raise AssertionError("the last way out returns or raises")


def spell_out(value: Any, allowed: Callable[[str], bool] | None = None) -> Any:
    """The same value with every character that cannot be printed written as its number.

    Parameters
    ----------
    value : str, mapping, list or anything else
        Mappings and lists are gone through; what is not text stays.
    allowed : callable, optional
        Says of a character whether it can be printed; default whether a font has it.

    Examples
    --------
    >>> spell_out({"name": "王 Иван \U0001f468"})
    {'name': '王 Иван [U+1F468]'}
    """
    allowed = allowed or _printable
    if isinstance(value, str):
        if not all(map(allowed, value)):
            value = unicodedata.normalize("NFC", value)  # syllables rather than their letters
        return "".join(c if allowed(c) else MISSING_GLYPH.format(ord(c)) for c in value)
    if isinstance(value, Mapping):
        return {key: spell_out(item, allowed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spell_out(item, allowed) for item in value]
    return value


def _compile(page: Mapping[str, Any], shown: Mapping[str, Any], figures: Path) -> bytes:
    inputs = {"page": json.dumps(page), "pictures": json.dumps(shown), "fonts": json.dumps(_FAMILIES)}
    compiler = typst.Compiler(root=figures, font_paths=_fonts(), sys_inputs=inputs)
    layout = resources.files("lungvq.report").joinpath("templates/report.typ").read_bytes()
    pdf = compiler.compile(layout, format="pdf", pdf_standards=["ua-1"], timestamp=0)
    assert isinstance(pdf, bytes)
    return pdf


@cache
def _printable(character: str) -> bool:
    return (
        character.isascii()
        or character in _SHAPING
        or any(ord(character) in characters for characters in _characters())
    )


def _printable_alone(character: str) -> bool:
    """As `_printable`, but no marks, joiners and selectors."""
    return unicodedata.category(character)[0] not in "MC" and _printable(character)


@cache
def _characters() -> tuple[frozenset[int], ...]:
    """The characters that each family has in every cut the layout asks for: upright, and bold if there is one."""
    ours, theirs = _folders()
    cuts: list[Iterable[Path]] = [(ours / f"NotoSans-{cut}.ttf" for cut in ("Regular", "Bold"))]
    cuts += [(theirs / name for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"))]
    cuts += [(file,) for file in sorted(ours.glob("*.ttf")) if not file.name.startswith("NotoSans-")]
    return tuple(
        frozenset.intersection(*(frozenset(FT2Font(str(file)).get_charmap()) for file in files))
        for files in cuts
    )


def _folders() -> tuple[Path, Path]:
    ours = Path(str(resources.files("lungvq.report").joinpath("fonts")))
    return ours, Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@cache
def _fonts() -> typst.Fonts:
    return typst.Fonts(
        include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(f) for f in _folders()]
    )
