"""What an older Onward has stored is opened, searched, gone on with and completed by this one.

The older one is that of be6a8af. What it stored and what it said of that is in one archive, which
`stored/make.py` has made. And the other way round: what a newer one has stored is left alone.
"""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import lancedb
import numpy as np
import pytest
from safetensors.numpy import load_file

from onward import (
    Budget,
    EmbeddingModel,
    Embeddings,
    Space,
    Transformation,
    Upgrade,
    backfill,
    open_gallery,
    open_items,
)
from onward.errors import GalleryError, LabelMismatchError, UpgradeError
from onward.gallery.record import FORMAT, WITHOUT_PAIR
from onward.upgrading import embeddings_given

ARCHIVE = Path(__file__).parent / "stored" / "be6a8af.tar.xz"
OLD, SIDE = Space("old@1", 16), Space("side@1", 8)
NEW, THIRD = Space("new@2", 16), Space("third@3", 16, "cosine")
TRANSFORMATIONS = (
    "ridge",
    "ridge-side",
    "mlp",
    "mlp-side",
    "mlp-int8-side",
    "ensemble",
    "ensemble-side",
    "two-networks",
    "residual",
    "bottleneck",
    "to-third",
    "composed",
)
UNFINISHED = ("before", "half", "second")
CUT_OVER = ("cut-over", "backfilled")
DESCRIBED = ("rows", "spaces", "serving", "query_model", "since", "previous")
STATUS = ("started", "done", "to_do", "blocked", "verification", "serving", "paused", "previous")
GALLERIES = (*UNFINISHED, "verified", *CUT_OVER, "rolled-back", "completed")


class Stored:
    """The archive, unpacked."""

    def __init__(self, directory):
        self.directory = directory
        self.said = json.loads((directory / "said.json").read_text())
        self.numbers = load_file(directory / "numbers.safetensors")
        files = (directory / "embeddings").glob("*.parquet")
        self.embeddings = {path.stem: Embeddings.load(path) for path in files}

    def transformation(self, name):
        return Transformation.load(self.directory / "transformations" / name)

    def side_of(self, transformation):
        known = (one for one in self.embeddings.values() if one.space == transformation.side)
        return next(known, None)

    def copy(self, name, to):
        """The gallery, the upgrade of it, and what the older Onward said of both."""
        shutil.copytree(self.directory / "galleries" / name, to)
        said, gallery = self.said["galleries"][name], open_gallery(to)
        routes = (self.transformation(one) for one in said["transformations"])
        return gallery, Upgrade(gallery, *routes), said


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return Stored(directory)


def files_of(directory):
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def record_of(directory):
    table = lancedb.connect(directory).open_table("record")
    (row,) = table.search().where("number = 0").to_list()
    return json.loads(row["content"])


def write_newer_format(directory):
    table = lancedb.connect(directory).open_table("record")
    content = json.dumps(record_of(directory) | {"format": FORMAT + 1})
    table.update(where="number = 0", values={"content": content})


def assert_near(found, expected):
    """Each row within a millionth of its length: processors differ in how they sum."""
    apart = np.linalg.norm(found.astype(float) - expected, axis=1)
    assert (apart <= 1e-6 * np.linalg.norm(expected, axis=1)).all(), apart.max()


def search(stored, gallery):
    """What the five nearest items are of the items themselves, as queries of the model served."""
    return gallery.search(stored.embeddings[gallery.view().serving.name], 5)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_gives_the_numbers_that_it_gave(stored, name):
    h = stored.transformation(name)
    assert h.digest == stored.said["digests"][name]
    old, expected = stored.embeddings["old@1"], stored.numbers[f"transformations/{name}"]
    assert_near(h.apply(old, stored.side_of(h)).vectors, expected)


def test_every_stored_transformation_is_tested(stored):
    assert sorted(stored.said["digests"]) == sorted(TRANSFORMATIONS)
    assert sorted(stored.said["galleries"]) == sorted(GALLERIES)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_that_is_saved_again_is_the_same(stored, name, tmp_path):
    h = stored.transformation(name)
    h.save(tmp_path / "again")
    again = Transformation.load(tmp_path / "again")
    assert (again.digest, again.made_by) == (h.digest, h.made_by)
    old, side = stored.embeddings["old@1"], stored.side_of(h)
    np.testing.assert_array_equal(again.apply(old, side).vectors, h.apply(old, side).vectors)


def test_a_transformation_is_as_unsure_as_it_was(stored):
    h = stored.transformation("mlp-side")
    found = h.uncertainties(stored.embeddings["old@1"], stored.embeddings["side@1"])
    np.testing.assert_allclose(found, stored.numbers["uncertainties"], atol=1e-5)


@pytest.mark.slow
def test_a_trained_model_embeds_as_it_did(stored):
    model = EmbeddingModel.load(stored.directory / "models" / "trained")
    assert str(model.space) == stored.said["models"]["trained"]
    embeddings, codes = stored.embeddings["digits"], stored.embeddings["digits-int8"]
    found, side = model.embed_with_side(open_items("digits").select(range(len(embeddings))))
    assert (found.ids, found.space, side.space) == (embeddings.ids, embeddings.space, codes.space)
    np.testing.assert_allclose(found.vectors, embeddings.vectors, rtol=1e-4, atol=1e-5)
    assert np.abs(side.vectors - codes.vectors).max() <= 1  # what lies between two codes


def test_a_model_from_onnx_embeds_as_it_did(stored):
    model = EmbeddingModel.load(stored.directory / "models" / "onnx")
    assert str(model.space) == stored.said["models"]["onnx"]
    expected = stored.numbers["models/onnx"]
    found = model.embed(open_items("digits").select(range(len(expected))))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["old@1", "side@1"])
def test_embeddings_are_what_the_gallery_was_made_of(stored, name):
    given, rows = stored.embeddings[name], stored.numbers[f"before/{name}"]
    assert given.space in (OLD, SIDE)
    np.testing.assert_array_equal(given.vectors[: len(rows)], rows)
    assert given.labels is not None
    assert given.class_names is None


@pytest.mark.parametrize("name", GALLERIES)
def test_a_gallery_says_and_finds_what_it_did_and_reading_changes_no_file(stored, name, tmp_path):
    gallery, upgrade, said = stored.copy(name, tmp_path / "g.lance")
    before = files_of(tmp_path)
    now, was = gallery.describe().to_json(), said["described"]
    assert [now[key] for key in DESCRIBED] == [was[key] for key in DESCRIBED]
    now, was = upgrade.status().to_json(), said["status"]
    assert [now[key] for key in STATUS] == [was[key] for key in STATUS]
    assert gallery.state() == said["state"]
    assert gallery.journal() == said["journal"]
    for space in gallery.spaces():
        assert list(gallery.ids([space])) == said["ids"][space.name]
        stored_vectors = stored.numbers[f"{name}/{space.name}"]
        np.testing.assert_array_equal(gallery.read(space).vectors, stored_vectors)
    found = search(stored, gallery)
    assert [found.ids_of(row) for row in range(len(found))] == said["found"]
    np.testing.assert_allclose(found.distances, stored.numbers[f"{name}/distances"], rtol=1e-5)
    assert files_of(tmp_path) == before
    assert record_of(tmp_path / "g.lance")["format"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERIES)
def test_an_upgrade_goes_on_from_every_step_to_its_end(stored, name, tmp_path):
    gallery, upgrade, said = stored.copy(name, tmp_path / "g.lance")
    new, done = upgrade.transformation.new, said["status"]["done"]
    serving = gallery.view().serving
    upgrade.start()
    upgrade.resume()
    result = upgrade.run(batch_rows=8)
    assert (result.done, result.remaining) == (said["status"]["to_do"], 0)
    expected = stored.numbers[f"{name}/finished"]
    assert len(expected) == done + result.done
    assert_near(gallery.read(new).vectors, expected)
    assert upgrade.verify(sample_rows=None, leave_out=True).passed
    upgrade.cut_over(query_model="newest")
    assert gallery.view().query_model == "newest"
    if serving != new:
        assert gallery.view().previous == serving
        assert upgrade.roll_back().serving == serving
        assert upgrade.cut_over(query_model="newest").serving == new
    found = search(stored, gallery)
    assert (found.rows >= 0).all()
    completion = upgrade.complete(now=True)
    assert gallery.view().previous is None
    assert not set(completion.dropped) & {OLD, SIDE}
    assert record_of(tmp_path / "g.lance")["format"] == WITHOUT_PAIR
    numbers = [entry["number"] for entry in gallery.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert gallery.journal()[: len(said["journal"])] == said["journal"]


def test_a_verification_of_an_older_onward_opens_the_way_to_cut_over(stored, tmp_path):
    gallery, upgrade, _ = stored.copy("verified", tmp_path / "g.lance")
    assert upgrade.cut_over(query_model="new").serving == NEW
    assert gallery.journal()[-1]["verification"] == "passed"


def test_it_is_stale_once_rows_have_changed(stored, tmp_path):
    gallery, upgrade, said = stored.copy("verified", tmp_path / "g.lance")
    gallery.delete([said["ids"][OLD.name][0]])
    with pytest.raises(UpgradeError, match="rows have changed since its upgrade was verified"):
        upgrade.cut_over(query_model="new")


@pytest.mark.parametrize("name", CUT_OVER)
def test_what_an_older_onward_has_cut_over_is_rolled_back(stored, name, tmp_path):
    gallery, upgrade, _ = stored.copy(name, tmp_path / "g.lance")
    assert upgrade.roll_back().serving == OLD
    assert gallery.view().query_model == "old"
    assert len(search(stored, gallery)) == len(stored.embeddings["old@1"])


def test_what_an_older_onward_has_completed_cannot_be_rolled_back(stored, tmp_path):
    _, upgrade, _ = stored.copy("completed", tmp_path / "g.lance")
    with pytest.raises(GalleryError, match="has nothing to roll back to"):
        upgrade.roll_back()


def test_a_backfill_goes_on_where_an_older_onward_has_ended_it(stored, tmp_path):
    gallery, _, said = stored.copy("backfilled", tmp_path / "g.lance")
    embedded = gallery.count([NEW], origin="embedded")
    done = backfill(
        gallery, NEW, embeddings_given(stored.embeddings["new@2"]), budget=Budget(rows=4)
    )
    assert done.done == 4
    assert gallery.count([NEW], origin="embedded") == embedded + 4
    assert gallery.count([NEW]) == len(said["ids"][NEW.name])


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("half", "open", "map >= old/old was required, that is "),
        ("verified", "closed", "map >= 0.99 was required, that is 99.0 %, and "),
        ("second", None, "nothing can be predicted: 9 of the sample's 9 items"),
    ],
)
def test_the_status_says_what_the_gate_of_an_older_onward_said(
    stored, name, answer, says, tmp_path
):
    _, upgrade, said = stored.copy(name, tmp_path / "g.lance")
    was, gate = said["status"]["gate"], upgrade.status().gate
    assert gate.answer == answer == {True: "open", False: "closed", None: None}[was["met"]]
    assert gate.forced is was["forced"] is (answer == "closed")
    assert gate.says.startswith(says)


def test_items_are_added_to_a_gallery_whose_classes_have_no_names(stored, tmp_path):
    gallery, _, _ = stored.copy("before", tmp_path / "g.lance")
    vectors = stored.embeddings["old@1"].vectors[:1]
    gallery.add(Embeddings(("more",), vectors, OLD, np.array([3])))
    named = Embeddings(("named",), vectors, OLD, np.array([0]), {0: "owl"})
    with pytest.raises(LabelMismatchError):
        gallery.add(named)
    assert gallery.class_names() is None
    assert gallery.read(OLD, ["more"]).labels.tolist() == [3]


STEPS = {
    "describe": lambda upgrade, more: upgrade.gallery.describe(),
    "search": lambda upgrade, more: upgrade.gallery.search(more, 1),
    "add": lambda upgrade, more: upgrade.gallery.add(more),
    "update": lambda upgrade, more: upgrade.gallery.update(more),
    "delete": lambda upgrade, more: upgrade.gallery.delete(["item-000"]),
    "compact": lambda upgrade, more: upgrade.gallery.compact(),
    "build index": lambda upgrade, more: upgrade.gallery.build_index(OLD),
    "add space": lambda upgrade, more: upgrade.gallery.add_space(THIRD),
    "drop space": lambda upgrade, more: upgrade.gallery.drop_space(NEW),
    "write": lambda upgrade, more: upgrade.gallery.write(
        more, np.zeros(1, np.int64), origin="embedded"
    ),
    "serve": lambda upgrade, more: upgrade.gallery.serve(NEW, query_model="new"),
    "log": lambda upgrade, more: upgrade.gallery.log({"event": "by hand"}),
    "start": lambda upgrade, more: upgrade.start(),
    "run": lambda upgrade, more: upgrade.run(),
    "pause": lambda upgrade, more: upgrade.pause(),
    "abort": lambda upgrade, more: upgrade.abort(),
    "verify": lambda upgrade, more: upgrade.verify(),
    "cut over": lambda upgrade, more: upgrade.cut_over(query_model="new", force=True),
    "roll back": lambda upgrade, more: upgrade.roll_back(),
    "complete": lambda upgrade, more: upgrade.complete(now=True),
    "status": lambda upgrade, more: upgrade.status(),
    "backfill": lambda upgrade, more: backfill(
        upgrade.gallery, NEW, embeddings_given(more), budget=Budget(rows=1)
    ),
}


@pytest.fixture(scope="module")
def taken_over(stored, tmp_path_factory):
    """An upgrade whose gallery was opened before a newer Onward wrote to it, and the directory."""
    path = tmp_path_factory.mktemp("newer") / "g.lance"
    _, upgrade, _ = stored.copy("half", path)
    write_newer_format(path)
    return upgrade, path


@pytest.mark.parametrize("step", STEPS)
def test_a_gallery_of_a_newer_onward_is_refused_and_nothing_is_written(stored, step, taken_over):
    upgrade, path = taken_over
    more = Embeddings(("more",), stored.embeddings["old@1"].vectors[:1], OLD)
    before = files_of(path)
    words = f"has format {FORMAT + 1}, this Onward reads up to {FORMAT}; install a newer Onward"
    with pytest.raises(GalleryError, match=words):
        STEPS[step](upgrade, more)
    assert files_of(path) == before


def test_a_run_ends_when_a_newer_onward_takes_the_gallery_over(stored, tmp_path):
    path = tmp_path / "g.lance"
    gallery, upgrade, said = stored.copy("half", path)
    upgrade.resume()
    looks = []

    def stop():
        looks.append(gallery.count([OLD]))
        if len(looks) == 2:
            write_newer_format(path)
        return False

    with pytest.raises(GalleryError, match="install a newer Onward"):
        upgrade.run(batch_rows=4, stop=stop)
    assert len(looks) == 2
    items = lancedb.connect(path).open_table("items")
    filled = items.count_rows("new_2 IS NOT NULL")
    assert said["status"]["done"] <= filled <= said["status"]["done"] + 4
