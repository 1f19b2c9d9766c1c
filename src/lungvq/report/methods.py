"""The words of the report that do not change from case to case: headings, captions, methods, limits, references."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = [
    "CAPTIONS",
    "GLOSSARY",
    "HEADINGS",
    "LIMITS",
    "METHODS",
    "NOTES",
    "REFERENCES",
    "Section",
    "methods_of",
    "number_citations",
]


@dataclass(frozen=True)
class Section:
    """A paragraph of the methods: a heading, the text with ``[key]`` citations, and its equation, if any."""

    title: str
    text: str
    equation: str = ""


HEADINGS: dict[str, str] = {
    "overline": "Lung ventilation and perfusion from two breath-hold CTs",
    "research": "Research use only",
    "not_for": "Not for diagnosis or treatment.",
    "key": "Key numbers",
    "scans": "Scans used",
    "selection": "How they were found",
    "maps": "Maps",
    "surfaces": "From outside",
    "lobes": "Lobes and lungs",
    "zones": "Zones",
    "density": "Density and small airways",
    "spread": "How even it is",
    "registration": "Registration",
    "distrust": "What to distrust",
    "methods": "Methods",
    "references": "References",
    "settings": "Settings and software",
    "glossary": "Glossary",
}

NOTES: dict[str, str] = {
    "maps": "The patient’s right is on the left of coronal and axial pictures; sagittal cuts look from the patient’s "
    "left, front to the left. Every column keeps one scale. V and Q share one colour table, from zero to twice the "
    "lung mean; where a map is undefined, as in opacities, the CT shows through.",
    "surfaces": "What a map holds, on average, in the first 20 mm beneath the pleura; thin lines are lobe borders.",
    "no_surfaces": "Not drawn: there is no map to show.",
    "lobes": "V % / vol % is the share of ventilation over the share of expiratory volume: 1 is what size alone "
    "would give.",
    "marked": "touched by a warning above.",
    "density": "LAA: share at or below that many HU. Perc15: 15 % of the lung is less dense. PRM compares both scans "
    "voxel by voxel. All depend on dose, kernel and slice thickness, and on how far this patient breathed in and "
    "out.",
    "spread": "CV: standard deviation over mean. H: interquartile range over mean. Both fall as maps are smoothed: "
    "CV, 10 mm is that after a further Gaussian of 10 mm FWHM. Defects: connected clusters of at least 1 mL below "
    "60 % of the mean. The outermost bins of the histograms hold what lies beyond the axis.",
    "registration": "Every map rests on knowing where each piece of lung went. Where the two layers jump against "
    "each other after registration, fissures, vessels or pleura are not matched there.",
}

CAPTIONS: dict[str, str] = {
    "montage_coronal": "Coronal, from front to back. CT window −600 HU, width 1500 HU. Lines: lobes.",
    "montage_axial": "Axial, from base to apex.",
    "montage_sagittal": "Sagittal, from the right to the left.",
    "vq_classes": "V/Q classes over the CT. Low means below 60 % of the lung mean.",
    "surfaces": "Front: the patient’s right is on the left. Back: it is on the right. Shading shows shape only; read "
    "values from hue and the bar.",
    "registration": "Expiration, and inspiration carried onto it, or as it lay in the scanner. Lines: lungs on "
    "expiration, the same in all layers. Brightness is matched; it says nothing here.",
}
"""What stands under a picture, by its name."""

REFERENCES: dict[str, str] = {
    "simon2000": "Simon BA. Non-invasive imaging of regional lung function using x-ray computed tomography. "
    "J Clin Monit Comput 2000;16:433-442.",
    "ding2012": "Ding K, Cao K, Fuld MK, et al. Comparison of image registration based measures of regional lung "
    "ventilation from dynamic spiral CT with Xe-CT. Med Phys 2012. PMC3416881.",
    "castillo2019": "Castillo E, Castillo R, Vinogradskiy Y, et al. Robust CT ventilation from the integral "
    "formulation of the Jacobian. Med Phys 2019. PMID 30779353.",
    "kipritidis2019": "Kipritidis J, Tahir BA, Cazoulat G, et al. The VAMPIRE challenge: a multi-institutional "
    "validation study of CT ventilation imaging. Med Phys 2019;46:1198-1217. doi 10.1002/mp.13346.",
    "heinrich2013": "Heinrich MP, Jenkinson M, Papież BW, et al. Towards realtime multimodal fusion for "
    "image-guided interventions using self-similarities. MICCAI 2013.",
    "heinrich2014": "Heinrich MP, Papież BW, Schnabel JA, Handels H. Non-parametric discrete registration with "
    "convex optimisation. WBIR 2014.",
    "brudin1987": "Brudin LH, Rhodes CG, Valind SO, et al. Regional lung density and blood volume in "
    "nonsmoking and smoking subjects measured by PET. J Appl Physiol 1987;63:1324-1334.",
    "fuld2013": "Fuld MK, Halaweish AF, Haynes SE, et al. Pulmonary perfused blood volume with dual-energy CT "
    "as surrogate for pulmonary perfusion assessed with dynamic multidetector CT. Radiology "
    "2013;267:747-756. doi 10.1148/radiol.12112789.",
    "castillo2021": "Castillo E, Nair G, Turner-Lawrence D, et al. Quantifying pulmonary perfusion from "
    "noncontrast computed tomography. Med Phys 2021;48:1804-1814. doi 10.1002/mp.14792.",
    "roach2022": "Roach DJ, Willmering MM, Plummer JW, et al. Hyperpolarized 129-xenon MRI ventilation defect "
    "quantification via thresholding and linear binning in multiple pulmonary diseases. Acad Radiol 2022. "
    "PMC8837732.",
    "galban2012": "Galbán CJ, Han MK, Boes JL, et al. Computed tomography-based biomarker provides unique "
    "signature for diagnosis of COPD phenotypes and disease progression. Nat Med 2012;18:1711.",
    "autolung2023": "Clinical validation of an AI-based automatic quantification tool for lung lobes in "
    "SPECT/CT. EJNMMI Phys 2023. doi 10.1186/s40658-023-00578-z.",
}

METHODS: tuple[Section, ...] = (
    Section(
        "Lungs and motion",
        "Lungs, airways and vessels are found on both scans, lobes on inspiration. Each lung is then registered on "
        "its own, from expiration to inspiration, so that it may slide along the chest wall: a search over all "
        "displacements on self-similarity codes [heinrich2013] with coupled convex optimisation [heinrich2014], "
        "refined by local correlation. Lobes that slide along a fissure seen in the image are refined apart. φ(x) "
        "is where the tissue at x on expiration lies on inspiration.",
        "J(x) = det ∇φ(x)   (inspiratory mL per expiratory mL)",
    ),
    Section(
        "Ventilation, V",
        "Air fraction F is one minus density over that of tissue. The air a parcel gains is what it holds at "
        "inspiration less what it held at expiration, the absolute form of a corrected Jacobian "
        "[ding2012]; unlike the Jacobian alone or a density ratio alone "
        "[simon2000], this does not assume that its tissue and blood stay the same. Each term is averaged over the "
        "neighbourhood within the lung before they are combined, in the spirit of integral formulations "
        "[castillo2019]. J_s is the Jacobian whose finest detail, where it is mostly error, gives way to what "
        "density says of it. Densities beside the pleura are those of the lung beneath, free of chest wall; air at "
        "inspiration and at expiration is scaled, lung by lung, to what each scan holds. For how CT "
        "ventilation agrees with other modalities see [kipritidis2019].",
        "V(x) = J_s(x) · F_insp(φ(x)) − F_exp(x)   (mL air per mL expiratory lung)",
    ),
    Section(
        "Perfusion, Q",
        "A surrogate: the relative blood mass of parenchyma, with vessels left out and density averaged over both "
        "breath-holds. D is the share of tissue that is not blood, 36 % of the lungs' mean density by default "
        "[brudin1987]. Perfused blood volume follows blood flow in many situations [fuld2013], not in all.",
        "Q(x) = max(0, (ρ_exp(x) + J(x) · ρ_insp(φ(x))) / 2 − D), divided by its lung mean",
    ),
    Section(
        "Apparent mass change, CT-P",
        "What blood would have to enter or leave a parcel between the scans to explain their densities "
        "[castillo2021]; kept signed here, with a standard error, because the magnitude of noise is not zero.",
        "m(x) = J(x) · ρ_insp(φ(x)) − ρ_exp(x)   (g per mL expiratory lung)",
    ),
    Section(
        "V/Q and its classes",
        "Both maps are taken relative to their means over the voxels where both are defined. Below 60 % of the "
        "mean is low, a threshold in use for xenon MRI [roach2022]. Dead space: V kept, Q low. Shunt-like: Q kept, "
        "V low; true shunt cannot be seen. Matched defect: both low. "
        "No published threshold exists for this kind of CT classification.",
        "V/Q(x) = log2( (V / mean V) / (Q / mean Q) )",
    ),
    Section(
        "Regions",
        "A region's V % and Q % are its share of the signed sum over both lungs, over defined voxels, all per mL of "
        "expiratory lung. V % / vol % compares that with its share of expiratory lung volume: 1 is what its size "
        "alone would give. Zones are thirds of equal height of each lung (equal_height_per_lung), the reading of "
        "planar scintigraphy [autolung2023]; other definitions of thirds give other numbers.",
    ),
    Section(
        "Density",
        "LAA-950: share of lung at or below −950 HU on inspiration. PRM [galban2012]: emphysema at or below −950 HU "
        "on inspiration and −856 HU on expiration; functional small airways disease (fSAD) at or below −856 HU on "
        "expiration only.",
    ),
)

LIMITS: tuple[tuple[str, str], ...] = (
    (
        "Q is not measured flow.",
        "It says where blood mass is, not how fast it moves. Acute pulmonary embolism hardly changes it, and "
        "wherever density is not blood (fibrosis, ground glass, oedema, collapse, tumour) it is wrong.",
    ),
    (
        "CT-P is a change of blood volume, not flow.",
        "It mixes the squeeze of inflation, gravity, the heart's phase and effort against a closed glottis, and "
        "takes in every error of the registration: 1 % of the Jacobian is as large as 1 % of inspiratory mass. Its "
        "magnitude correlates with perfusion even where no mass changed at all.",
    ),
    (
        "V is a difference between two breath-holds.",
        "It is not tidal breathing, and it depends on how far this patient breathed in and out.",
    ),
    (
        "Classes rest on a threshold.",
        "60 % of the mean is a choice; the shares move with it, and with the smoothing of both maps.",
    ),
    (
        "Near the diaphragm, the heart and the fissures",
        "motion is largest and neighbours slide: maps are least certain there.",
    ),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("V, Q", "ventilation, perfusion"),
    ("J", "Jacobian: local inspiratory over expiratory volume"),
    ("HU", "Hounsfield units"),
    ("SE", "standard error"),
    ("CV", "standard deviation over mean"),
    ("H", "interquartile range over mean"),
    ("LAA-950", "low attenuation area, at or below −950 HU"),
    ("PRM", "parametric response map"),
    ("fSAD", "functional small airways disease"),
    ("Dice", "overlap of two masks, 1 is perfect"),
    ("RUL, RML, RLL", "right upper, middle, lower lobe"),
    ("LUL, LLL", "left upper, lower lobe"),
)

_CITATION = re.compile(r"\[([a-z]+\d{4})\]")
_SUBSCRIPT = re.compile(r"_([A-Za-z]+)")


def methods_of(segmentation: Mapping[str, str]) -> tuple[Section, ...]:
    """`METHODS`, with the words on who found lungs and lobes, where that was not lungvq alone.

    Parameters
    ----------
    segmentation : dict of str to str
        As `lungvq.segment.given.Given.told` has it.
    """
    others = {name: who for name, who in segmentation.items() if who != "lungvq"}
    if not others:
        return METHODS
    named = {
        "lungs_insp": "the lungs at inspiration",
        "lungs_exp": "those at expiration",
        "lobes": "the lobes",
    }
    said = "; ".join(f"{named[name]} are from {who}" for name, who in others.items())
    first, *rest = METHODS
    return (replace(first, text=f"{first.text} Here {said}."), *rest)


def number_citations(
    sections: tuple[Section, ...], references: dict[str, str]
) -> tuple[list[dict[str, object]], list[str]]:
    """Sections with their text split at citations, and the references in the order they are first cited.

    Returns
    -------
    sections : list of dict
        ``title``; ``pieces``, pairs of text and the number that follows it (0: none); ``equation``, pairs of
        text and the subscript that follows it.
    cited : list of str

    Examples
    --------
    >>> sections, cited = number_citations((Section("A", "So [b2001], truly.", "a_i = 1"),), {"b2001": "B."})
    >>> sections[0]["pieces"], sections[0]["equation"], cited
    ([('So', 1), (', truly.', 0)], [('a', 'i'), (' = 1', '')], ['B.'])
    """
    order: list[str] = []
    numbered: list[dict[str, object]] = []
    for section in sections:
        parts = _CITATION.split(section.text)
        pieces = []
        for text, key in zip(parts[::2], [*parts[1::2], ""], strict=True):
            if key and key not in order:
                order.append(key)
            pieces.append((text.rstrip() if key else text, order.index(key) + 1 if key else 0))
        terms = _SUBSCRIPT.split(section.equation)
        equation = list(zip(terms[::2], [*terms[1::2], ""], strict=True)) if section.equation else []
        numbered.append({"title": section.title, "equation": equation, "pieces": pieces})
    return numbered, [references[key] for key in order]
