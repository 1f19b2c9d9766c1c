"""Words of descriptions that tell how a chest was scanned and never who was: all others are dropped.

A word is kept where it names a body part, a phase of breathing, a technique or a reconstruction, in the languages
of common consoles; numbers only with a unit or a decimal point.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["KNOWN", "clean_words"]

KNOWN: frozenset[str] = frozenset(
    """
    ct mr pt nm pet spect hrct ldct cta axial ax transversal transverse coronal cor sagittal sag oblique mpr mip minip
    chest thorax torax thoracic lung lungs lunge lungen pulmonary pulmonaire pulmonar pulmones pulmon poumon poumons
    polmone polmoni polmonare longen long płuca płuc klatka piersiowa brust toraks akciger keuhko keuhkot lunga lungor
    mediastinum heart cardiac upper lower abdomen abd
    inspiration insp inspiratory inspiratorisch inspiratoire inspiracion inspiración inspirazione inspiratie wdech
    einatmung expiration exp expiratory exspiration exspiratorisch expiratoire espiracion espiración espirazione
    expiratie wydech ausatmung breath hold breathhold deep full forced end max maximal tlc rv frc apnea apnee
    in ex inhale exhale tief mit ohne sans con senza with without
    native nativ plain unenhanced noncontrast nc nonionic contrast kontrast contraste contrasto iv km c+ c- w wo
    helical spiral volume vol thin slice slices thick recon reconstruction iterative fbp asir admire safire idose veo
    soft sharp bone standard std detail edge medium smooth hard lung kernel filter window iso
    low dose lowdose ultra high resolution hires hr screening follow up scout topogram localizer localiser surview
    scanogram supine prone feet first ventilation perfusion vq v q spectral mono dual energy de ge gated gating ecg
    phase arterial venous delayed head neck leg pelvis
    """.split()  # noqa: SIM905
)

_KERNEL = re.compile(r"(?:[BHITDUQ][a-z]?\d{2}[a-z]?|FC\d{2}|[YU][A-E]|LUNG|CHST|BONEPLUS)", re.IGNORECASE)
_MEASURE = re.compile(
    r"\d{1,3}(?:[.,]\d{1,3})?(?:mm|cm|kv|kvp|mas|ma|s|%|kev)|\d{1,2}[.,]\d{1,3}", re.IGNORECASE
)
_UNITS = frozenset({"mm", "cm", "kv", "kvp", "mas", "ma", "s", "%", "kev"})
_SPLIT = re.compile(r"[^\w.,+%-]+|_+")


def clean_words(text: str, forbidden: Collection[str] = ()) -> str:
    """The words of a description that are known to name nobody, in their order.

    Parameters
    ----------
    text : str
    forbidden : collection of str
        Words in lower case that are dropped though known: parts of this patient's name, say.

    Examples
    --------
    >>> clean_words("CT Thorax Inspiration 1.0 mm Br59f - 55F Dr. Smith")
    'CT Thorax Inspiration 1.0 mm Br59f'
    >>> clean_words("Chest, Mr. Long 19450312", forbidden={"long"})
    'Chest Mr'
    """
    kept: list[str] = []
    words = [word.strip(".,-") for word in _SPLIT.split(text)]
    for n, word in enumerate(words):
        unit = words[n + 1].lower() in _UNITS if n + 1 < len(words) else False
        known = word.lower() in KNOWN or _KERNEL.fullmatch(word) or _MEASURE.fullmatch(word)
        follows = word.lower() in _UNITS and bool(kept) and kept[-1][-1:].isdigit()
        if (known or follows or (unit and re.fullmatch(r"\d{1,3}", word))) and word.lower() not in forbidden:
            kept.append(word)
    return " ".join(kept)
