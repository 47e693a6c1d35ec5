"""`onward gallery write`: vectors for items that are there."""

import json

import numpy as np
import pytest
from commands import run

from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space

OLD, SIDE = Space("old@1", 3), Space("side@1", 2)
IDS = ("a", "b", "c")


def vectors(ids, space, scale=1.0):
    rows = np.arange(len(ids) * space.dim, dtype=np.float32).reshape(len(ids), space.dim)
    return Embeddings(ids, scale * (rows + 1), space)


@pytest.fixture
def gallery(tmp_path):
    url = str(tmp_path / "shop.lance")
    create_gallery(url, OLD, items=[vectors(IDS, OLD)])
    return url


def test_side_information_made_later_is_written_into_items_that_are_there(gallery, tmp_path):
    side = vectors(("c", "a"), SIDE)
    side.save(tmp_path / "side.parquet")
    said = run("gallery", "write", gallery, tmp_path / "side.parquet", "--json")
    assert [one["filled"] for one in json.loads(said.stdout)["spaces"]] == [3, 2]
    assert "2 of 2 vectors in side@1 were written" in said.stderr
    np.testing.assert_array_equal(open_gallery(gallery).read(SIDE, side.ids).vectors, side.vectors)


def test_what_is_there_stays_and_what_is_not_in_the_gallery_is_counted(gallery, tmp_path):
    first, again = vectors(("a",), SIDE), vectors(("a", "b", "x"), SIDE, scale=2.0)
    for name, given in {"first": first, "again": again}.items():
        given.save(tmp_path / f"{name}.parquet")
    run("gallery", "write", gallery, tmp_path / "first.parquet")
    said = run("gallery", "write", gallery, tmp_path / "again.parquet", code=1)
    assert "1 of 3 vectors in side@1 were written; 1 items have one, 1 are not" in said.stderr
    opened = open_gallery(gallery)
    np.testing.assert_array_equal(opened.read(SIDE, ["a"]).vectors, first.vectors)
    np.testing.assert_array_equal(opened.read(SIDE, ["b"]).vectors, again.vectors[1:2])
    assert opened.ids() == IDS
