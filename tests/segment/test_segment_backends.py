"""Other programs behind the interface, played by small modules with their calls; and their weights.

The programs themselves need torch and are not run here.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
import zipfile
from dataclasses import replace
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from lungvq import io
from lungvq.errors import InputError, LungvqError, NetworkError, UsageError
from lungvq.segment import backends
from lungvq.segment.backends import BACKENDS, Weights, backend_named, fetch, models_folder
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -40], [0, 2.5, 0, -30], [3.0, 0, 0, 5], [0, 0, 0, 1]])


def installed(monkeypatch, name, **members):
    """A module that can be found and imported, with these members."""
    module = types.ModuleType(name)
    module.__dict__.update(members)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def ct():
    array = np.full((6, 8, 10), -1000, np.int16)
    array[2:5, 3:7, 1:4] = -800  # the patient's right
    array[2:5, 3:7, 6:9] = -850
    return Volume(array, AFFINE)


def lungmask_plays(monkeypatch, asked):
    class LMInferer:
        def __init__(self, modelname, modelpath, fillmodel=None, fillmodel_path=None, tqdm_disable=False):
            asked.append((modelname, modelpath, fillmodel, fillmodel_path))
            self.lobes = modelname == "LTRCLobes"

        def apply(self, image):
            print("loading")
            assert isinstance(image, np.ndarray)
            right, left = image == -800, image == -850
            if self.lobes:
                upper = np.arange(len(image))[:, None, None] >= 3
                return np.select([left & upper, left, right & upper, right], [1, 2, 3, 5], 0).astype(np.uint8)
            return np.select([right, left], [1, 2], 0).astype(np.uint8)

    installed(monkeypatch, "lungmask", LMInferer=LMInferer)


def test_lungmask_calls_right_1_and_we_do_not(monkeypatch, ct, tmp_path, capsys):
    asked = []
    lungmask_plays(monkeypatch, asked)
    lungs = BACKENDS["lungmask"].lungs(ct, tmp_path)
    assert np.array_equal(lungs.array == 1, ct.array == -850)
    assert np.array_equal(lungs.array == 2, ct.array == -800)
    lobes = BACKENDS["lungmask"].lobes(ct, tmp_path)
    assert (lobes.array[4, 5, 7], lobes.array[2, 5, 7], lobes.array[4, 5, 2], lobes.array[2, 5, 2]) == (
        1,
        2,
        3,
        5,
    )
    folder = tmp_path / "lungmask"
    assert asked[0] == ("R231", str(folder / "unet_r231-d5d2fc3d.pth"), None, None)
    assert asked[1][1:] == (
        str(folder / "unet_ltrclobes-3a07043d.pth"),
        "R231",
        str(folder / "unet_r231-d5d2fc3d.pth"),
    )
    assert capsys.readouterr().out == ""


def test_totalsegmentator_gets_a_file_and_tells_nobody(monkeypatch, ct, tmp_path):
    names = {10: "lung_upper_lobe_left", 11: "lung_lower_lobe_left", 12: "lung_upper_lobe_right"}
    names |= {13: "lung_middle_lobe_right", 14: "lung_lower_lobe_right", 1: "spleen"}
    seen = {}

    def play(scan, labels, *, ml, task, roi_subset, quiet):
        seen.update(home=os.environ["TOTALSEG_HOME_DIR"], roi=roi_subset, task=task, ml=ml)
        python_api.download_pretrained_weights(291)
        volume = io.read_volume(scan).reorient("SPL")
        found = np.select([volume.array == -850, volume.array == -800], [11, 12], 0).astype(np.uint8)
        io.write(volume.like(found).reorient("RAS"), labels)

    def download(task_id):
        raise AssertionError("it would go to the network")

    package = installed(monkeypatch, "totalsegmentator")
    package.__path__ = []
    python_api = installed(
        monkeypatch,
        "totalsegmentator.python_api",
        totalsegmentator=play,
        download_pretrained_weights=download,
    )
    package.python_api = python_api
    installed(monkeypatch, "totalsegmentator.map_to_binary", class_map={"total": names})
    (tmp_path / "totalsegmentator").mkdir()
    lobes = BACKENDS["totalsegmentator"].lobes(ct, tmp_path)
    assert np.array_equal(lobes.array == 2, ct.array == -850)
    assert np.array_equal(lobes.array == 3, ct.array == -800)
    assert (seen["task"], seen["ml"], len(seen["roi"])) == ("total", True, 5)
    assert seen["home"] == str(tmp_path / "totalsegmentator")
    assert "TOTALSEG_HOME_DIR" not in os.environ
    assert (
        json.loads((tmp_path / "totalsegmentator" / "config.json").read_text())["send_usage_stats"] is False
    )
    lungs = BACKENDS["totalsegmentator"].lungs(ct, tmp_path)
    assert set(np.unique(lungs.array)) == {0, 1, 2}


def test_a_program_that_fails_is_one_sentence(monkeypatch, ct, tmp_path):
    def fails(**settings):
        print("CUDA out of memory")
        raise RuntimeError("no room")

    installed(monkeypatch, "lungmask", LMInferer=fails)
    with pytest.raises(LungvqError, match=r"has failed: no room \(it said: CUDA out of memory\)"):
        BACKENDS["lungmask"].lungs(ct, tmp_path)


def test_what_is_not_there_is_named_with_the_way_out(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="expected of lungvq, lungmask, totalsegmentator"):
        backend_named("nnunet")
    missing = replace(BACKENDS["lungmask"], module="a_module_that_nobody_has")
    with pytest.raises(LungvqError, match=r"pip install 'lungvq\[ai\]'"):
        missing.checked(tmp_path)
    installed(monkeypatch, "lungmask")
    with pytest.raises(InputError, match="lungvq models fetch lungmask"):
        BACKENDS["lungmask"].checked(tmp_path)


def test_weights_are_copied_checked_and_watched(monkeypatch, tmp_path):
    installed(monkeypatch, "lungmask")
    source, models = tmp_path / "source", tmp_path / "models"
    (source / "Dataset").mkdir(parents=True)
    (source / "net.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with zipfile.ZipFile(source / "Dataset.zip", "w") as archive:
        archive.writestr("Dataset/plans.json", "{}")
        archive.writestr("Dataset/fold_0/final.pth", "more")
    ours = replace(
        BACKENDS["lungmask"],
        weights=(
            Weights("lm/net.pth", "https://example.org/net.pth", digest[:8]),
            Weights("ts/Dataset", "https://example.org/Dataset.zip"),
        ),
    )
    told = []
    fetch(ours, models, source=source, tell=told.append)
    assert digest in told[1]
    assert (models / "ts" / "Dataset" / "fold_0" / "final.pth").read_text() == "more"
    assert ours.checked(models) is ours
    fetch(ours, models, source=source)  # again, over what is there
    (models / "ts" / "Dataset" / "plans.json").write_text("{ }")
    with pytest.raises(InputError, match="is not what was fetched"):
        ours.checked(models)
    (source / "net.pth").write_bytes(b"other weights")
    with pytest.raises(InputError, match=f"begins with {digest[:8]}"):
        fetch(ours, models, source=source)
    with pytest.raises(
        InputError, match=r"holds no net.pth; its publisher has it at https://example.org/net.pth"
    ):
        fetch(ours, models, source=models)


def test_no_network_is_told(monkeypatch, tmp_path):
    def unreachable(url, timeout):
        raise backends.URLError("no route to host")

    monkeypatch.setattr(backends, "urlopen", unreachable)
    with pytest.raises(NetworkError, match="cannot be downloaded: no route to host"):
        fetch(BACKENDS["lungmask"], tmp_path)


def test_where_models_are(monkeypatch, tmp_path):
    monkeypatch.delenv("LUNGVQ_MODELS", raising=False)
    assert models_folder().parts[-2:] == ("lungvq", "models")
    monkeypatch.setenv("LUNGVQ_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    assert models_folder(tmp_path / "a") == tmp_path / "a"
