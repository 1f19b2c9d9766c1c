"""What the words of a header tell of a series, in the languages hospitals write them in.

Words are evidence, never proof: protocols are copied, descriptions typed in a hurry, and many scanners leave them
empty. So each function answers only where a text is clear, and knows the words that merely look alike:
*expert*, *exposure*, *espiral* (Spanish for spiral), *InSpace* and *respiration* name no breath-hold.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["breath", "is_contrast", "is_plain", "other_purpose", "position", "reformatted", "tokens"]

INSPIRATION, EXPIRATION = "inspiration", "expiration"

# Parts of words, without accents and in small letters. English and the languages that share its Latin root need
# one pattern: inspir- (French, Spanish, Italian, Portuguese, Romanian, Turkish, Dutch, Nordic).
_INSPIRED = re.compile(
    r"insp(?!ac|ec|is)|inhal|^tlc$"
    r"|einatm|inademing|inandning|inanding|indanding|innpust"  # German, Dutch, Swedish, Danish, Norwegian
    r"|wdech|nadech|belegz|sisaanhengi|udah"  # Polish, Czech, Hungarian, Finnish, Croatian
    r"|вдох|вдих|вдиш|εισπνο"  # Russian, Ukrainian, Bulgarian, Greek
    r"|شهيق|שאיפה|흡기|hitvao"  # Arabic, Hebrew, Korean, Vietnamese
    r"|吸气|吸氣|吸気"  # Chinese, Japanese
)
_EXPIRED = re.compile(
    r"expir|exsp|ekspir|eksp$|exhal|exp$|expi$|^expn$|^espir(?!al)|^frc$|^rv$|airtrap"
    r"|ausatm|uitadem|utandning|udanding|utpust"
    r"|wydech|vydech|kilegz|uloshengi|izdah"
    r"|выдох|видих|издиш|εκπνο"
    r"|زفير|נשיפה|호기|thora$"
    r"|呼气|呼氣|呼気"
)
_PHRASES = {"air trap": "airtrap", "hit vao": "hitvao", "tho ra": "thora", "breath in": "inhale"}

_PLAIN = re.compile(
    r"non ?contrast|without (iv )?contrast|no contrast|w o (contrast|iv)|wo contrast|unenhanced|non ?enhanced"
    r"|nativ|ohne (km|kontrast)|sans (injection|contraste|ic)|sin contraste|senza (mdc|contrasto)|sem contraste"
    r"|zonder contrast|bez kontrast|без контраст|\bsi\b|\bc -|平扫|平掃|単純"
)
_CONTRAST = re.compile(
    r"\b(cta|ctpa|cte?pa|ctangio|angio\w*|contrast\w*|contraste|contrasto|kontrast\w*|mdc|km|enhanced|arteri\w+"
    r"|injecte|injectee|portal\w*|venous|venos[ao]?|venoes|parenchymphase|pulm(onary)? emboli\w*|lungenembolie)\b"
    r"|\bc ?\+|\+ ?c\b|контраст|造影|增强|增強|조영"
)
_POSTURE = {
    "prone": re.compile(
        r"\b(prone|bauchlage|procubitus|prono|prona|decubito prono|buikligging|ventral)\b|腹臥|俯卧"
    ),
    "decubitus": re.compile(r"\b(decubitus|seitenlage|lateral decub\w*|decubito lateral)\b|側臥|侧卧"),
}
_OTHER = {
    "free breathing": re.compile(r"\b(free ?breath\w*|freie ?atmung|respiration libre|tidal|fb)\b|自由呼吸"),
    "a gated phase": re.compile(
        r"\b(4 d( ?ct)?|gated|gating|respgat\w*)\b|\b(t|ph|phase) \d{1,3} %|^\d{1,3}( 0)? %"
    ),
    "attenuation correction": re.compile(r"\b(ctac|ac|attcor\w*|attenuation|schwaechung\w*)\b"),
    "bolus timing": re.compile(
        r"\b(premonitoring|monitoring|smart ?prep|bolus ?track\w*|tracker|test ?bolus|timing)\b"
    ),
    "an intervention": re.compile(r"\b(biopsy|biopsie|needle|drainage|ablation|punktion|intervention\w*)\b"),
    "an overview": re.compile(
        r"\b(scouts?|topogram\w*|localizer|localiser|surview|scanogram|scano|pilot)\b|定位"
    ),
}
_REFORMATTED = re.compile(
    r"\b(mpr|mip|minip|vrt|vr|cor|coronal|koronal|coronale|frontal|sag|sagittal|sagital|sagittale|oblique|curved"
    r"|iodine|vnc|vue|monoe?|mono ?energetic|z ?eff|spectral|subtract\w*|fused|fusion|pbv|lung ?vessels?)\b"
    r"|冠状|冠狀|矢状|矢狀"
)


def tokens(text: str) -> str:
    """Words in small letters without accents, one space between them.

    Camel case, digits and punctuation part words; ``+``, ``-`` and ``%`` stay, as they carry meaning.

    Examples
    --------
    >>> tokens("ThoraxInsp_1.0 Bl57"), tokens("Exspiration, tiefe Atmung"), tokens("INSPIRACIÓN")
    ('thorax insp 1 0 bl 57', 'exspiration tiefe atmung', 'inspiracion')
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])", " ", text)
    text = unicodedata.normalize("NFD", text.casefold())
    text = re.sub("[\u0300-\u036f]", "", text).replace("ø", "o").replace("đ", "d").replace("ł", "l")
    text = unicodedata.normalize("NFC", text)
    return " ".join(re.findall(r"[^\W\d_]+|\d+|[+%]|-(?=\s|$)", text))


def breath(text: str) -> str:
    """``"inspiration"``, ``"expiration"``, or ``""`` where the text names neither or both.

    Examples
    --------
    >>> [breath(t) for t in ("CHEST INSP 1.0", "Thorax Exsp.", "Expert chest", "Insp and Exp", "ESPIRAL")]
    ['inspiration', 'expiration', '', '', '']
    """
    words = tokens(text)
    for phrase, word in _PHRASES.items():
        words = re.sub(rf"\b{phrase}", word, words)
    found = {
        name
        for name, pattern in ((INSPIRATION, _INSPIRED), (EXPIRATION, _EXPIRED))
        if any(pattern.search(word) for word in words.split())
    }
    return found.pop() if len(found) == 1 else ""


def is_plain(text: str) -> bool:
    """Whether the text says that no contrast was given."""
    return bool(_PLAIN.search(tokens(text)))


def is_contrast(text: str) -> bool:
    """Whether the text speaks of contrast in the vessels.

    Examples
    --------
    >>> [is_contrast(t) for t in ("CTPA 1.0", "Thorax mit KM", "Thorax ohne KM", "non-contrast chest", "C+")]
    [True, True, False, False, True]
    """
    return not is_plain(text) and bool(_CONTRAST.search(tokens(text)))


def position(text: str) -> str:
    """``"prone"``, ``"decubitus"`` or ``""``: how the patient lay, where the text says so."""
    words = tokens(text)
    return next((name for name, pattern in _POSTURE.items() if pattern.search(words)), "")


def other_purpose(text: str) -> str:
    """What else than a breath-hold the series is for, in words; empty where the text does not say.

    Examples
    --------
    >>> other_purpose("CTAC WB"), other_purpose("T = 50%"), other_purpose("CHEST INSP 1.0")
    ('attenuation correction', 'a gated phase', '')
    """
    words = tokens(text)
    return next((name for name, pattern in _OTHER.items() if pattern.search(words)), "")


def reformatted(text: str) -> str:
    """The word that tells of a reformat, projection or computed image; empty where there is none.

    Examples
    --------
    >>> reformatted("CHEST COR 3.0"), reformatted("VNC 1.0"), reformatted("CHEST INSP")
    ('cor', 'vnc', '')
    """
    found = _REFORMATTED.search(tokens(text))
    return found[0] if found else ""
