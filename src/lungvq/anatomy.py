"""Names and label numbers of the regions, said once.

Labels: 0 outside; lobes 1 LUL, 2 LLL, 3 RUL, 4 RML, 5 RLL; lungs 1 left, 2 right.
"""

from __future__ import annotations

LEFT, RIGHT = 1, 2
LUNGS: dict[str, int] = {"left": LEFT, "right": RIGHT}

LOBES: dict[str, int] = {"LUL": 1, "LLL": 2, "RUL": 3, "RML": 4, "RLL": 5}
LOBES_OF_LUNG: dict[str, tuple[str, ...]] = {"left": ("LUL", "LLL"), "right": ("RUL", "RML", "RLL")}
LUNG_OF_LOBE: dict[str, str] = {lobe: lung for lung, lobes in LOBES_OF_LUNG.items() for lobe in lobes}

LUNG_OF_LOBE_LABEL: tuple[int, ...] = (0, *(LUNGS[LUNG_OF_LOBE[lobe]] for lobe in LOBES))
"""The lung's label at the position of each lobe's: ``np.array(LUNG_OF_LOBE_LABEL)[lobes]`` gives lungs."""

ZONES: tuple[str, ...] = (
    "left_upper",
    "left_middle",
    "left_lower",
    "right_upper",
    "right_middle",
    "right_lower",
)

REGIONS: tuple[str, ...] = ("both", "left", "right", "LUL", "LLL", "RUL", "RML", "RLL", *ZONES)

VQ_CLASSES: dict[str, int] = {"normal": 1, "dead_space": 2, "shunt": 3, "matched_defect": 4}
PRM_CLASSES: dict[str, int] = {"normal": 1, "fsad": 2, "emphysema": 3, "emptying_emphysema": 4}
