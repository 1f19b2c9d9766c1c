"""How sharp a reconstruction is, from the names vendors give their kernels."""

from __future__ import annotations

import re

__all__ = ["family", "main_part"]

SOFT, MEDIUM, SHARP = "soft", "medium", "sharp"

# Siemens: a letter for the organ and use, an optional second one, and a number that grows with sharpness.
_SIEMENS = re.compile(r"^[bhijqudtu][a-z]?\s?(\d{2})[a-z]*\b", re.IGNORECASE)
_CANON = re.compile(r"^FC\s?(\d{2})", re.IGNORECASE)
_SOFT_TO, _MEDIUM_TO = 43, 56

_WORDS = (
    (SHARP, re.compile(r"bone|lung|edge|sharp|ultra|hrct|knochen|poumon|polmon|pulmon|^[ydel][abc]?$|肺|骨")),
    (MEDIUM, re.compile(r"detail|chst|medium")),
    (SOFT, re.compile(r"soft|stand|stnd|std|smooth|mediast|weichteil|tissu|body|^[abc]$|縦隔|纵隔")),
)


def main_part(kernel: str) -> str:
    """The kernel's name without iteration strengths that some scanners add: ``Br40d\\3`` is ``BR40D``."""
    return kernel.split("\\")[0].strip().upper()


def family(kernel: str) -> str:
    """``"soft"``, ``"medium"``, ``"sharp"``, or ``""`` for a name that is not known.

    The limits follow the acceptance table: B30 to B40, STANDARD, FC01, B and C are soft; B60 and more, LUNG and
    BONE are sharp; what lies between is medium.

    Examples
    --------
    >>> [family(k) for k in ("B35f", "Bl57d\\\\3", "STANDARD", "LUNG", "FC13", "FC52", "Br49", "L", "")]
    ['soft', 'sharp', 'soft', 'sharp', 'soft', 'sharp', 'medium', 'sharp', '']
    """
    name = main_part(kernel)
    if canon := _CANON.match(name):
        return SOFT if int(canon[1]) < 30 else SHARP
    if siemens := _SIEMENS.match(name):
        number = int(siemens[1])
        return SOFT if number <= _SOFT_TO else MEDIUM if number <= _MEDIUM_TO else SHARP
    return next((found for found, words in _WORDS if words.search(name.casefold())), "")
