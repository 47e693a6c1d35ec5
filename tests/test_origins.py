"""Origins travel: what was embedded and what was upgraded, from the gallery to the page."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, TO_SECOND, make_gallery, numbered

from onward.cli.app import app
from onward.gallery import open_gallery
from onward.spaces import Embeddings
from onward.upgrading import Upgrade

ROWS, CLASSES = 40, 5
LABELS = np.arange(ROWS) % CLASSES
EMBEDDED = numbered(ROWS)[::5]
"""A fifth of the items: those of the first class."""


def answer(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def true_new(ids):
    """What the new model makes of items: it tells their classes apart well."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(ROWS, SECOND.dim)) + 4 * np.eye(CLASSES, SECOND.dim)[LABELS]
    made = Embeddings(numbered(ROWS), vectors.astype(np.float32), SECOND, LABELS)
    return made.align(ids)


@pytest.fixture
def files(tmp_path):
    """A gallery of which a fifth was embedded by the new model, and its export."""
    gallery = make_gallery(str(tmp_path / "g.lance"), ROWS, LABELS)
    gallery.read(OLD).save(tmp_path / "old.parquet")
    upgrade = Upgrade(gallery, TO_SECOND)
    upgrade.start(sample=true_new(EMBEDDED), force=True)
    assert upgrade.run().remaining == 0
    true_new(numbered(ROWS)).save(tmp_path / "new.parquet")
    words = ["gallery", "export", gallery.url, tmp_path / "up.parquet", "--space", SECOND.name]
    exported = json.loads(answer(*words, "--json"))
    assert (exported["embedded"], exported["upgraded"]) == (len(EMBEDDED), ROWS - len(EMBEDDED))
    return tmp_path


def test_an_export_says_of_each_vector_how_it_came_to_be(files):
    table = pq.read_table(files / "up.parquet", columns=["id", "origin"]).to_pydict()
    origins = dict(zip(table["id"], table["origin"], strict=True))
    assert {item for item, origin in origins.items() if origin == "embedded"} == set(EMBEDDED)
    assert set(origins.values()) == {"embedded", "upgraded"}
    loaded = Embeddings.load(files / "up.parquet")
    assert dict(zip(loaded.ids, loaded.origins, strict=True)) == origins
    words = ["gallery", "export", files / "g.lance", files / "s.parquet", "--space", SIDE.name]
    assert "embedded  40" in answer(*words)
    assert Embeddings.load(files / "s.parquet").count_origins() == {"embedded": ROWS}


def test_a_gallery_and_a_transformation_say_how_their_vectors_came_to_be(files):
    gallery = open_gallery(str(files / "g.lance"))
    some = (EMBEDDED[1], numbered(ROWS)[1])
    assert gallery.read(SECOND, some).origins == ("embedded", "upgraded")
    made = TO_SECOND.apply(gallery.read(OLD, some), gallery.read(SIDE, some))
    assert made.origins == ("upgraded", "upgraded")


def test_info_counts_origins(files):
    assert "8 embedded and 32 upgraded" in answer("info", files / "up.parquet")
    told = json.loads(answer("info", files / "up.parquet", "--json"))
    assert told["origins"] == {"embedded": 8, "upgraded": 32}
    assert json.loads(answer("info", files / "new.parquet", "--json"))["origins"] == {
        "unknown": ROWS
    }
