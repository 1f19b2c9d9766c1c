"""What is written: the kinds of objects, and every code that is used in them, standard or our own."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from lungvq.anatomy import LOBES, LUNG_OF_LOBE, LUNGS, VQ_CLASSES, ZONES

__all__ = [
    "CLASS_TITLES",
    "DEFECTS",
    "EXTRAS",
    "KINDS",
    "OWN_SCHEME",
    "QUANTITIES",
    "TITLES",
    "Kind",
    "Quantity",
    "Site",
    "name_of_class",
    "own",
    "short",
    "site_of",
    "title_of",
    "ucum",
]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


def name_of_class(uid: str) -> str:
    """The name of a SOP class.

    Examples
    --------
    >>> name_of_class(LABEL_MAP)
    'Label Map Segmentation Storage'
    """
    return (
        "Label Map Segmentation Storage" if uid == LABEL_MAP else UID(uid).name
    )  # pydicom 3.0 has no name for it


@dataclass(frozen=True)
class Kind:
    """One kind of object: one series each.

    Parameters
    ----------
    title : str
        Series Description; "(research)" is added.
    sop_class, modality : str
    number : int
        Series Number: from 700, out of the way of a scanner's own.
    extra : str
        The word of ``--dicom-also`` that asks for it; empty where it is always written.
    """

    title: str
    sop_class: str
    modality: str
    number: int
    extra: str = ""


KINDS: dict[str, Kind] = {
    "ventilation": Kind("Ventilation, mL air per L lung, not HU", CT_IMAGE, "CT", 701),
    "perfusion": Kind("Perfusion, % of lung mean, not HU", CT_IMAGE, "CT", 702),
    "ventilation_colour": Kind("Ventilation on CT, colour", SECONDARY_CAPTURE, "OT", 711),
    "perfusion_colour": Kind("Perfusion on CT, colour", SECONDARY_CAPTURE, "OT", 712),
    "vq_colour": Kind("V/Q on CT, colour", SECONDARY_CAPTURE, "OT", 713),
    "seg_lungs": Kind("Lungs", SEGMENTATION, "SEG", 721),
    "seg_lobes": Kind("Lobes", SEGMENTATION, "SEG", 722),
    "seg_vq_classes": Kind("V/Q classes", SEGMENTATION, "SEG", 723),
    "seg_ventilation_defects": Kind("Ventilation defects", SEGMENTATION, "SEG", 724),
    "seg_perfusion_defects": Kind("Perfusion defects", SEGMENTATION, "SEG", 725),
    "labelmap_lungs": Kind("Lungs, label map", LABEL_MAP, "SEG", 731, "labelmap"),
    "labelmap_lobes": Kind("Lobes, label map", LABEL_MAP, "SEG", 732, "labelmap"),
    "labelmap_vq_classes": Kind("V/Q classes, label map", LABEL_MAP, "SEG", 733, "labelmap"),
    "measurements": Kind("Measurements per lung, lobe and zone", COMPREHENSIVE_3D_SR, "SR", 741),
    "report": Kind("Report", ENCAPSULATED_PDF, "DOC", 751),
    "pmap_ventilation": Kind("Ventilation, parametric map", PARAMETRIC_MAP, "OT", 761, "pmap"),
    "pmap_perfusion": Kind("Perfusion, parametric map", PARAMETRIC_MAP, "OT", 762, "pmap"),
    "pmap_vq_log2": Kind("log2 V/Q, parametric map", PARAMETRIC_MAP, "OT", 763, "pmap"),
}
"""Every object there can be, by the name of its file or folder."""

EXTRAS: tuple[str, ...] = tuple(dict.fromkeys(kind.extra for kind in KINDS.values() if kind.extra))
"""What can be asked for beyond the usual."""

# --- our own codes ----------------------------------------------------------------------------------------

OWN_SCHEME = "99LUNGVQ"
_CODE_LENGTH = 16  # longer ones need Long Code Value, which not every reader of reports knows

TITLES: dict[str, str] = {
    "volume_insp_ml": "Volume at inspiration",
    "volume_exp_ml": "Volume at expiration",
    "mass_insp_g": "Mass at inspiration",
    "mass_exp_g": "Mass at expiration",
    "ventilation": "Ventilation, air gained per expiratory lung volume",
    "perfusion": "Perfusion, relative blood mass",
    "vq_log2": "log2 of relative ventilation over relative perfusion",
    "vq_maps": "Estimation of ventilation and perfusion from two breath-hold CTs",
    "ventilation_ml": "Air gained from expiration to inspiration",
    "ventilation_fraction_pct": "Share of the ventilation of both lungs",
    "perfusion_fraction_pct": "Share of the perfusion of both lungs",
    "ventilation_cv": "Ventilation, coefficient of variation",
    "perfusion_cv": "Perfusion, coefficient of variation",
    "ventilation_h": "Ventilation, interquartile range over mean",
    "perfusion_h": "Perfusion, interquartile range over mean",
    "ventilation_defect": "Ventilation defect, below 60 % of the lungs' mean",
    "perfusion_defect": "Perfusion defect, below 60 % of the lungs' mean",
    "ventilation_defect_pct": "Share with ventilation below 60 % of the lungs' mean",
    "perfusion_defect_pct": "Share with perfusion below 60 % of the lungs' mean",
    "ventilation_undefined_pct": "Share where ventilation is not defined",
    "perfusion_undefined_pct": "Share where perfusion is not defined",
    "vq_normal": "V/Q normal",
    "vq_dead_space": "Dead space: ventilation kept, perfusion low",
    "vq_shunt": "Shunt-like: perfusion kept, ventilation low",
    "vq_matched_defect": "Matched defect: ventilation and perfusion low",
    "vq_abnormal": "V/Q not normal",
    "laa950_pct": "Share at or below -950 HU at inspiration",
    "qc": "Quality control",
    "qc_pass": "Passed",
    "qc_warn": "Caution",
    "qc_fail": "Failed",
    "ci_low": "Lower end of the 95 % interval",
    "ci_high": "Upper end of the 95 % interval",
    "equal_height_per_lung": "Thirds of equal height of each lung at expiration",
    "use": "Use",
    "alternative": "Another estimate of the same, not the default",
    "prm_normal": "Normal lung (PRM)",
    "prm_fsad": "Functional small airways disease (PRM)",
    "prm_emphysema": "Emphysema (PRM)",
    "prm_emptying_emphysema": "Emptying emphysema (PRM)",
    "prm_undefined_pct": "Share without a class (PRM)",
}


def title_of(value: str) -> str:
    """The meaning of one of our codes, at most 64 characters.

    Examples
    --------
    >>> title_of("volume_exp_ml"), title_of("vq_shunt_pct"), title_of("air_gain@1")
    ('Volume at expiration', 'Share of shunt-like: perfusion kept, ventilation low', 'Method air_gain@1')
    """
    if value in TITLES:
        return TITLES[value]
    if "@" in value:
        return f"Method {value}"
    stem = value.removesuffix("_pct")
    if stem != value and stem in TITLES:
        title = TITLES[stem]
        plain = title if title[1].isupper() or "/" in title.split()[0] else title[0].lower() + title[1:]
        return f"Share of {plain}"
    return value.replace("_", " ").strip().capitalize()


_SHORTER = {
    "ventilation": "v",
    "perfusion": "q",
    "matched_defect": "matched",
    "dead_space": "dead",
    "emptying_emphysema": "emptying",
    "emphysema": "emph",
    "correlation": "corr",
    "prm_undefined": "prm_undef",
    "equal_height_per_lung": "equal_height",
}


def short(name: str) -> str:
    """A name of ``metrics.csv`` or ``run.json`` in the 16 characters that every reader of codes takes.

    Examples
    --------
    >>> short("volume_exp_ml"), short("ventilation_fraction_pct"), short("vq_matched_defect_pct")
    ('volume_exp_ml', 'v_fraction_pct', 'vq_matched_pct')
    >>> short("a_name_that_is_not_in_the_contract")
    'a_name_t5a189c20'
    """
    if len(name) <= _CODE_LENGTH:
        return name
    for word, brief in _SHORTER.items():
        name = name.replace(word, brief)
    return name if len(name) <= _CODE_LENGTH else f"{name[:8]}{crc32(name.encode()):08x}"


def own(name: str) -> Code:
    """The code of the private scheme for a name that ``metrics.csv`` or ``run.json`` uses."""
    return Code(short(name), OWN_SCHEME, title_of(name)[:64])


def ucum(unit: str) -> Code:
    """A unit of measurement as UCUM has it.

    Examples
    --------
    >>> ucum("mL").value, ucum("1").meaning
    ('mL', 'no units')
    """
    meanings = {"1": "no units", "%": "percent", "mL": "milliliter", "g": "gram"}
    return Code(unit, "UCUM", meanings.get(unit, unit))


# --- places -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A region as SNOMED names it: the structure, and its side."""

    structure: Code
    side: Code


_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right, "both": codes.SCT.RightAndLeft}
_PARTS = {
    "upper": codes.SCT.UpperZoneOfLung,
    "middle": codes.SCT.MiddleZoneOfLung,
    "lower": codes.SCT.LowerZoneOfLung,
}
_LOBES = {
    "LUL": codes.SCT.UpperLobeOfLung,
    "LLL": codes.SCT.LowerLobeOfLung,
    "RUL": codes.SCT.UpperLobeOfLung,
    "RML": codes.SCT.MiddleLobeOfRightLung,
    "RLL": codes.SCT.LowerLobeOfLung,
}


def site_of(region: str) -> Site:
    """The standard code of a region of ``metrics.csv``.

    Raises
    ------
    KeyError
        If it is not one of `anatomy.REGIONS`.
    """
    if region in LOBES:
        return Site(_LOBES[region], _SIDES[LUNG_OF_LOBE[region]])
    if region in ZONES:
        side, part = region.split("_")
        return Site(_PARTS[part], _SIDES[side])
    return Site(codes.SCT.Lung, _SIDES[region])


# --- quantities -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """How a map is stored as numbers.

    Parameters
    ----------
    display_factor : int
        The rescaled value is this times the map's own: whole numbers, because a window narrower than 1 is not
        allowed and many viewers drop fractions.
    display_unit : str
        For people.
    rescale_type : str
        Unit after rescale, for readers that look: mL/L, or PCT for percent. Never HU, nor US for unspecified,
        which some readers, ours among them, take for HU.
    unit : Code
        Of the map's own values, as in the NIfTI file: what the real world value mapping gives.
    code : Code
        What is measured.
    """

    display_factor: int
    display_unit: str
    rescale_type: str
    unit: Code
    code: Code


QUANTITIES: dict[str, Quantity] = {
    "ventilation": Quantity(1000, "mL air per L lung", "mL/L", ucum("mL/mL"), own("ventilation")),
    "perfusion": Quantity(100, "% of lung mean", "PCT", ucum("1"), own("perfusion")),
    "vq_log2": Quantity(1, "log2, 0 = lung mean", "LOG2", ucum("1"), own("vq_log2")),
}

CLASS_TITLES: dict[str, Code] = {name: own(f"vq_{name}") for name in VQ_CLASSES}
DEFECTS: tuple[str, ...] = ("ventilation", "perfusion")
assert set(_SIDES) == {*LUNGS, "both"}
