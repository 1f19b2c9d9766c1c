"""The digital chest knows its lobes on both breath-holds."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_chest import dice

from lungvq.anatomy import LOBES
from lungvq.phantom import make_phantom
from lungvq.segment import segment
from lungvq.segment.lobes import lobes_from_prior


# The remnant of a collapsed lung holds less than 0.1 L: with 4 mm voxels its Dice would tell of voxels.
@pytest.fixture(scope="module", params=[("emphysema", 4.0), ("collapsed-left", 3.0)], ids=lambda p: p[0])
def phantom(request):
    case, spacing = request.param
    return make_phantom(case, seed=11, spacing=spacing)


@pytest.mark.parametrize("breath", ["insp", "exp"])
def test_both_lungs_agree_with_the_truth(phantom, breath):
    ct = getattr(phantom, breath).reorient("SPL")
    lobes = getattr(phantom.truth, f"lobes_{breath}").reorient("SPL").array
    anatomy = segment(ct)
    left = np.isin(lobes, (LOBES["LUL"], LOBES["LLL"]))
    assert dice(anatomy.lungs.array == 1, left) > 0.98
    assert dice(anatomy.lungs.array == 2, (lobes > 0) & ~left) > 0.98
    codes = {f.code for f in anatomy.findings}
    assert ("LUNG_COLLAPSED" in codes) == (phantom.case == "collapsed-left")


def overlap_of_the_prior(phantom, lobe):
    truth = phantom.truth.lobes_insp.reorient("SPL")
    lungs = truth.like(np.where(truth.array == 0, 0, np.where(truth.array <= 2, 1, 2)).astype(np.uint8))
    return dice(lobes_from_prior(lungs).array == LOBES[lobe], truth.array == LOBES[lobe])


def test_the_prior_finds_most_of_each_lobe(phantom):
    for name in ("RUL", "RLL"):
        assert overlap_of_the_prior(phantom, name) > 0.75, name


def test_the_prior_finds_most_of_the_middle_lobe_in_the_mean(phantom):
    """One person's middle lobe may lie anywhere: the mean fissures cannot know."""
    people = [phantom, *(make_phantom(phantom.case, seed=seed, spacing=5.0) for seed in (10, 12, 13))]
    assert np.mean([overlap_of_the_prior(person, "RML") for person in people]) > 0.5
