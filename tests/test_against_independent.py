"""Saved embeddings of real images, judged by Onward and by other libraries: the same numbers."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onward.data import open_items
from onward.spaces import Embeddings, Space

SCRIPT = Path(__file__).parent.parent / "lab" / "check_against_independent.py"


@pytest.fixture(scope="module")
def independent():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module  # its values look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[SCRIPT.stem]


def pixels(directory, *, metric, levels, every=6, first=0):
    """Digits as their own vectors, in few shades of grey so that many distances are equal."""
    digits = open_items("digits")
    rows = list(range(first, len(digits), every))
    images = np.array([np.asarray(digits.open(row)).ravel() for row in rows])
    vectors = np.round(images / images.max() * (levels - 1)).astype(np.float32)
    space = Space("pixels", vectors.shape[1], metric)
    items = digits.select(rows)
    path = directory / "items.parquet"
    Embeddings(items.ids, vectors, space, items.labels).save(path)
    return Embeddings.load(path)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("levels", [2, 17])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_cmc_and_map_are_those_of_scikit_learn_and_ir_measures(
    tmp_path, independent, metric, levels, exclude_self
):
    items = pixels(tmp_path, metric=metric, levels=levels)
    checked = independent.check_retrieval(items, items, exclude_self=exclude_self, judged=60)
    assert [(one.name, one.library) for one in checked] == [
        ("map", "scikit-learn"),
        ("cmc@1", "SciPy"),
        ("cmc@5", "SciPy"),
        ("cmc@1", "ir-measures"),
        ("cmc@5", "ir-measures"),
        ("map", "ir-measures"),
    ]
    assert [one for one in checked if one.difference > 1e-12] == []
    assert 0.3 < checked[0].ours < 1


def test_queries_that_are_in_part_gallery_items_have_the_numbers_of_others(tmp_path, independent):
    gallery = pixels(tmp_path, metric="l2", levels=17)
    strangers = pixels(tmp_path, metric="l2", levels=17, every=30, first=1)
    both = Embeddings(
        gallery.ids[:50] + strangers.ids,
        np.vstack([gallery.vectors[:50] + 1, strangers.vectors]),
        gallery.space,
        np.concatenate([gallery.labels[:50], strangers.labels]),
    )
    checked = independent.check_retrieval(both, gallery, exclude_self=True, judged=80)
    assert [one for one in checked if one.difference > 1e-12] == []


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("levels", [2, 17])
def test_tar_at_far_is_that_of_scikit_learn(tmp_path, independent, metric, levels):
    items = pixels(tmp_path, metric=metric, levels=levels)
    checked = independent.check_verification(items, paired=250)
    assert [one.name for one in checked] == ["tar@0.0001", "tar@0.001", "tar@0.01"]
    assert [one for one in checked if one.difference > 1e-12] == []
    assert checked[-1].ours > 0.05


@pytest.mark.slow
def test_the_script_says_of_every_file_how_far_the_numbers_differ(tmp_path):
    items = pixels(tmp_path, metric="l2", levels=17)
    other = Embeddings(items.ids, items.vectors + 1, items.space, items.labels)
    other.save(tmp_path / "moved.parquet")
    for more in ((), ("--queries", tmp_path / "moved.parquet"), ("--keep-self",)):
        command = [sys.executable, SCRIPT, tmp_path, *more, "--judged", "20", "--paired", "99"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert [line.split(":")[0] for line in lines if "embeddings in" in line] == [
            "items.parquet",
            "moved.parquet",
        ]
        assert float(lines[-1].removeprefix("greatest difference: ")) < 1e-12
