"""Other programs in place of our own registration: the same interface, and motion that is about right."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lungvq.errors import LungvqError, UsageError
from lungvq.register import RegisterOptions, register
from lungvq.register.backends import BACKENDS, affine, backend_named, elastix

MODULES = {"greedy": "picsl_greedy", "elastix": "itk"}


def errors(pair, result):
    """Distance of the found motion from the true one, mm, at every voxel of both lungs."""
    found = []
    for label in (1, 2):
        index, points = pair.inside(result.lungs.grid, label)
        motion = result.displacement.array[tuple(index.T)]
        found.append(np.linalg.norm(motion - (pair.phi(points, label) - points), axis=1))
    return np.concatenate(found)


def run(pair, backend):
    return register(
        pair.fixed,
        pair.moving,
        pair.fixed_lungs,
        pair.moving_lungs,
        options=RegisterOptions(backend=backend),
    )


@pytest.fixture(scope="module")
def straight(pair):
    return run(pair, "affine")


def test_the_extents_alone_are_an_affine_map(pair, straight):
    inside = straight.lungs.array == 1
    index = np.argwhere(inside).astype(float)
    motion = straight.displacement.array[inside]
    design = np.c_[index, np.ones(len(index))]
    rest = motion - design @ np.linalg.lstsq(design, motion, rcond=None)[0]
    assert np.abs(rest).max() < 1e-3
    assert 2 < errors(pair, straight).mean() < 8


def need(name):
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"{name} is not installed: pip install 'lungvq[bench]'")


def test_greedy_finds_the_motion(pair, straight):
    need("greedy")
    found = run(pair, "greedy")
    off = errors(pair, found)
    assert off.mean() < 0.7
    assert np.percentile(off, 95) < 2
    assert found.quality.overall.folded_percent == 0
    assert np.isfinite(found.displacement.array).all()


@pytest.mark.integration  # half a minute in a process of its own
def test_elastix_comes_nearer_in_its_first_steps(pair, straight):
    need("elastix")
    left = [
        lungs.like((lungs.array == 1).astype(np.uint8)) for lungs in (pair.fixed_lungs, pair.moving_lungs)
    ]
    few = RegisterOptions(backend=partial(elastix, iterations=(60, 5)))
    found = register(pair.fixed, pair.moving, *left, options=few)
    left_only = replace(pair, fixed_lungs=left[0])
    assert errors(left_only, found).mean() < 0.6 * errors(left_only, straight).mean()


def test_a_function_of_ones_own_is_a_backend(pair):
    def shifted(fixed, moving):
        motion = affine(fixed, moving)
        motion[0] += 5
        return motion

    own, straight = run(pair, shifted), run(pair, "affine")
    change = (own.displacement.array - straight.displacement.array)[straight.lungs.array > 0]
    np.testing.assert_allclose(change, np.broadcast_to([0, 0, 5], change.shape), atol=0.05)


def test_a_missing_extra_is_one_sentence(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "picsl_greedy", None)
    with pytest.raises(LungvqError, match="pip install picsl-greedy"):
        run(pair, "greedy")


def test_an_unknown_name_is_refused(pair):
    with pytest.raises(UsageError, match="greedy"):
        backend_named("grady")
    assert {"affine", *MODULES} == set(BACKENDS)
    with pytest.raises(UsageError, match="grady"):
        run(pair, "grady")
    assert replace(RegisterOptions(), backend="greedy") == RegisterOptions(backend="greedy")
