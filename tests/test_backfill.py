"""A backfill of a gallery, on every store: its order, its budget, what it writes and what not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from onward.dense import Dense
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Upgrade

OLD, SIDE, NEW = Space("old@1", 3), Space("side@1", 2), Space("new@2", 2)

names = itertools.count()


def make_transformation():
    """Old vectors as they are, but the last number, which is how unsure h is."""
    weight = np.eye(2, 3, dtype=np.float32)
    given = linear(OLD, None, NEW, weight, np.zeros(2, np.float32), made_by={})
    unsure = Dense(np.array([[0, 1]], np.float32), np.zeros(1, np.float32), relu=False)
    return replace(given, uncertainty=unsure)


H = make_transformation()


@pytest.fixture(params=["memory", "lancedb"])
def url(request, tmp_path):
    return f"memory:b{next(names)}" if request.param == "memory" else str(tmp_path / "g.lance")


def items(unsure, space=OLD):
    """Items of which h is so unsure: `{"a": 0.5}`."""
    vectors = np.array([[7, number, 0] for number in unsure.values()], np.float32)
    return Embeddings(tuple(unsure), vectors[:, : space.dim], space)


def payloads_of(embeddings):
    return [{"path": f"{item}.png"} for item in embeddings.ids]


@pytest.fixture
def gallery(url):
    """Six upgraded items, most unsure first d, b, then a and c alike, then f, e."""
    old = items({"a": 2, "b": 4, "c": 2, "d": 5, "e": -1, "f": 0})
    gallery = create_gallery(url, OLD, SIDE, items=[old], payloads=payloads_of(old))
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    upgrade.run(batch_rows=4)
    return gallery


# What an upgrade leaves for it


def test_an_upgrade_stores_how_unsure_it_is_beside_each_vector(gallery):
    stored = {
        item: unsure
        for batch in gallery.scan([NEW])
        for item, unsure in zip(batch.ids, batch.uncertainties[NEW].tolist(), strict=True)
    }
    assert stored == {"a": 2, "b": 4, "c": 2, "d": 5, "e": -1, "f": 0}
    of_apply = H.uncertainties(gallery.read(OLD)).tolist()
    assert of_apply == [stored[item] for item in sorted(stored)]


def test_without_an_uncertainty_none_is_stored(url):
    gallery = create_gallery(url, OLD, items=[items({"a": 1})])
    upgrade = Upgrade(gallery, replace(H, uncertainty=None))
    upgrade.start()
    upgrade.run()
    (batch,) = gallery.scan([NEW])
    assert np.isnan(batch.uncertainties[NEW]).all()
