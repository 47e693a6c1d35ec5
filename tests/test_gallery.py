"""What a gallery checks before it calls a store, and what it says of itself, in any store."""

import json

import numpy as np
import pytest
from upgrades import OLD, SIDE, embed, make_transformation, numbered

from onward.errors import EvaluationError, GalleryError, LabelMismatchError, SpaceMismatchError
from onward.evaluation import retrieval
from onward.gallery import RecordedRoutes, create_gallery, open_gallery
from onward.quantisation import fit_quantisation
from onward.spaces import Space
from onward.upgrading import Upgrade

NEW, IP, OTHER = Space("new@2", 5), Space("dot@3", 4, "ip"), Space("other@9", 4)


@pytest.fixture
def url(tmp_path):
    return f"memory:{tmp_path}"


@pytest.fixture
def gallery(url):
    return create_gallery(url, OLD, SIDE, serving=OLD, query_model="old-model")


def filled(gallery, ids=("a", "b", "c"), **options):
    gallery.add(embed(OLD, ids), embed(SIDE, ids), **options)
    return gallery


@pytest.fixture(params=["float16", "int8"])
def quantisation(request):
    return fit_quantisation(embed(SIDE, numbered(50), seed=9), request.param)


@pytest.fixture
def stored(url, quantisation):
    """A gallery with side-information in a smaller format, and what was put into it."""
    ids = numbered(5)
    given = embed(OLD, ids), quantisation.apply(embed(SIDE, ids))
    return create_gallery(url, OLD, quantisation.space, items=given), given


def test_a_gallery_whose_items_do_not_fit_is_not_created(url):
    items = (embed(OLD, "abc"), embed(SIDE, "cba"))
    with pytest.raises(GalleryError, match="the same items in different order"):
        create_gallery(url, OLD, SIDE, items=items)
    assert create_gallery(url, OLD, SIDE, items=items[:1]).count() == 3


def test_a_gallery_needs_a_space(url):
    with pytest.raises(GalleryError, match="a gallery needs a space"):
        create_gallery(url)


def test_the_space_that_serves_must_be_one_of_the_gallery(url):
    with pytest.raises(GalleryError, match=r"old@1 .* is to answer queries but is not among"):
        create_gallery(url, NEW, serving=OLD)


def test_a_space_given_twice_to_create_is_refused(url):
    with pytest.raises(GalleryError, match="old@1 was given twice"):
        create_gallery(url, OLD, OLD)


def test_the_first_space_serves_unless_another_is_named(url):
    description = create_gallery(url, SIDE, OLD).describe()
    assert description.serving == SIDE
    assert description.query_model is None


def test_spaces_whose_names_differ_in_signs_only_are_kept_apart(url):
    first, second, third = Space("a b", 2), Space("a-b", 2), Space("A.B", 2)
    gallery = create_gallery(url, first, second)
    gallery.add(embed(first, ["x"], 1), embed(second, ["x"], 2))
    gallery.add_space(third)
    np.testing.assert_array_equal(gallery.read(first).vectors, embed(first, ["x"], 1).vectors)
    np.testing.assert_array_equal(gallery.read(second).vectors, embed(second, ["x"], 2).vectors)
    assert gallery.count([third]) == 0


def test_refused_additions_say_what_does_not_fit(gallery):
    cases = [
        ((), None, "no embeddings were given"),
        ((embed(NEW, ["a"]),), None, r"has no space new@2 \(5, l2\); it has old@1 \(4, l2\), side"),
        ((embed(Space("old@1", 9), ["a"]),), None, r"knows the space old@1 with 4 dim.* have 9"),
        ((embed(OLD, ["a"]), embed(OLD, ["a"])), None, r"old@1 \(4, l2\) were given twice"),
        ((embed(OLD, ["a"]), embed(SIDE, ["b"])), None, "not of the same items: 'a', 'b' stand in"),
        ((embed(OLD, ["a", "b"]), embed(SIDE, ["b", "a"])), None, "different order.*align"),
        ((embed(OLD, ["a"]),), [{}, {}], "2 payloads for 1 items"),
        ((embed(OLD, ["a"]),), [{"x": b"1"}], "payload of item 'a' cannot be kept as JSON"),
        ((embed(OLD, ["a"]),), [{"x": float("nan")}], "payload of item 'a' cannot be kept as JSON"),
    ]
    for embeddings, payloads, words in cases:
        for verb in (gallery.add, gallery.update):
            with pytest.raises(GalleryError, match=words):
                verb(*embeddings, payloads=payloads)
    one, two = (embed(s, ["a"], labels=np.array([n])) for s, n in ((OLD, 1), (SIDE, 2)))
    with pytest.raises(
        LabelMismatchError, match=r"'a' is of class 1 .* of class 2 in those in sid"
    ):
        gallery.add(one, two)
    assert gallery.count() == 0


def test_reading_what_is_not_there_names_it(gallery):
    filled(gallery)
    gallery.add(embed(SIDE, ["s"]))
    with pytest.raises(GalleryError, match=r"1 of 2 items are not in gallery .*'zz'"):
        gallery.read(OLD, ["a", "zz"])
    with pytest.raises(GalleryError, match=r"1 of 2 items have no vector in old@1 .*: 's'"):
        gallery.read(OLD, ["a", "s"])
    with pytest.raises(GalleryError, match="has no space new@2"):
        gallery.read(NEW)


def test_some_items_are_chosen_by_a_seed_whatever_the_order(gallery):
    ids = numbered(50)
    for some in (ids[30:], ids[:30]):
        gallery.add(embed(OLD, some))
    gallery.add(embed(SIDE, ["side-only"]))
    chosen = gallery.sample([OLD], 10, seed=1)
    assert chosen == gallery.sample([OLD], 10, seed=1)
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(ids)
    assert set(chosen) != set(gallery.sample([OLD], 10, seed=2))
    assert sorted(gallery.sample([OLD], 99, seed=1)) == list(ids)
    scanned = [
        item for b in gallery.scan([OLD], ids=[*chosen, "zz"], batch_rows=4) for item in b.ids
    ]
    assert sorted(scanned) == sorted(chosen)


def test_a_space_of_the_same_name_but_other_dimensions_is_refused(gallery):
    with pytest.raises(GalleryError, match=r"knows the space side@1 with 3 dim.* these have 8"):
        gallery.add_space(Space("side@1", 8))
    words = "3 dimensions, the metric l2 and the format float32; these have 3, l2 and int8"
    with pytest.raises(GalleryError, match=words):
        gallery.add_space(Space("side@1", 3, "l2", "int8"))


def test_a_space_is_filled_by_one_transformation_only(gallery):
    gallery.add_space(NEW)
    gallery.add_space(NEW, made_by=RecordedRoutes("abcdef0123", NEW))
    gallery.add_space(NEW, made_by=RecordedRoutes("abcdef0123", NEW))
    gallery.add_space(NEW)
    with pytest.raises(GalleryError, match="made by the transformation abcdef01, not by 99999999"):
        gallery.add_space(NEW, made_by=RecordedRoutes("9999999999", NEW))
    assert gallery.view().record.transformations[NEW] == RecordedRoutes("abcdef0123", NEW)
    gallery.drop_space(NEW)
    gallery.add_space(NEW, made_by=RecordedRoutes("9999999999", NEW))
    assert gallery.view().record.transformations[NEW] == RecordedRoutes("9999999999", NEW)


def test_what_serves_or_is_needed_to_roll_back_cannot_be_dropped(gallery):
    with pytest.raises(GalleryError, match=r"old@1 .* answers the queries .* cannot be dropped"):
        gallery.drop_space(OLD)
    gallery.serve(SIDE, query_model="side-model")
    with pytest.raises(GalleryError, match=r"old@1 .* is what rolling back .* returns to"):
        gallery.drop_space(OLD)
    assert gallery.spaces() == (OLD, SIDE)


def test_writing_nothing_or_into_an_unknown_space(gallery):
    filled(gallery)
    none = np.empty(0, np.int64)
    assert gallery.write(embed(SIDE, []), none, origin="embedded") == 0
    with pytest.raises(GalleryError, match="has no space new@2"):
        gallery.write(embed(NEW, []), none, origin="embedded")


def test_writing_takes_one_revision_and_one_uncertainty_a_vector(gallery):
    filled(gallery).add_space(NEW)
    new, revisions = embed(NEW, "abc"), next(gallery.scan([OLD])).revisions
    with pytest.raises(GalleryError, match=r"uncertainty of shape \(2,\) for 3 vectors"):
        gallery.write(new, revisions, origin="upgraded", uncertainty=np.ones(2, np.float32))
    with pytest.raises(GalleryError, match=r"revisions of shape \(1,\) for 3 vectors"):
        gallery.write(new, revisions[:1], origin="upgraded")


def test_payloads_of_items_that_are_not_there_are_refused(gallery):
    with pytest.raises(GalleryError, match=r"1 of 2 items are not in gallery .*: 'zz'"):
        filled(gallery).payloads(["a", "zz"])


def test_an_upgrade_of_inner_products_is_verified_and_served(url):
    second = Space("dot@4", 3, "ip")
    items = embed(IP, numbered(40))
    gallery = create_gallery(url, IP, items=[items], query_model="first")
    h = make_transformation(IP, None, second)
    upgrade = Upgrade(gallery, h)
    upgrade.start()
    upgrade.run()
    assert upgrade.verify().passed
    upgrade.cut_over(query_model="second")
    moved = h.apply(items)
    found = gallery.search(moved, 5)
    expected = retrieval.search(moved, moved, 5, exclude_self=False)
    assert [found.ids_of(row) for row in range(40)] == [expected.ids_of(row) for row in range(40)]
    assert (found.distances < 0).any()


def test_search_answers_only_from_the_serving_space(gallery):
    filled(gallery)
    with pytest.raises(
        SpaceMismatchError,
        match=r"in other@9 .* answers from old@1 .*Upgrade the gallery from old@1 to other@9 first",
    ):
        gallery.search(embed(OTHER, ["q"]), 1)
    with pytest.raises(SpaceMismatchError, match=r"3 of 3 rows .*cut over.*allow_unserved"):
        gallery.search(embed(SIDE, ["q"]), 1)
    assert len(gallery.search(embed(SIDE, ["q"]), 2, allow_unserved=True).ids_of(0)) == 2
    with pytest.raises(SpaceMismatchError, match="Upgrade the gallery"):
        gallery.search(embed(OTHER, ["q"]), 1, allow_unserved=True)
    with pytest.raises(EvaluationError, match=r"k is 0, .*number of nearest items"):
        gallery.search(embed(OLD, ["q"]), 0)


def test_serving_changes_space_and_query_model_together_and_can_be_taken_back(gallery):
    filled(gallery)
    gallery.serve(SIDE, query_model="side-model")
    description = gallery.describe()
    assert (description.serving, description.query_model) == (SIDE, "side-model")
    previous = description.record.previous
    assert (previous.space, previous.query_model) == (OLD, "old-model")
    gallery.serve(SIDE, query_model="side-model")
    gallery.serve(SIDE, query_model="side-model-2")
    assert gallery.view().record.previous == previous
    gallery.search(embed(SIDE, ["q"]), 1)
    assert gallery.roll_back() == OLD
    description = gallery.describe()
    assert (description.serving, description.query_model) == (OLD, "old-model")
    assert description.previous is None
    with pytest.raises(GalleryError, match="has nothing to roll back to: no space has served"):
        gallery.roll_back()
    with pytest.raises(GalleryError, match="has no space new@2"):
        gallery.serve(NEW, query_model="x")


def test_every_change_of_the_record_is_in_the_journal(url, gallery):
    gallery.add_space(NEW)
    gallery.add_space(NEW, made_by=RecordedRoutes("abc", NEW))
    gallery.serve(SIDE, query_model="m")
    gallery.log({"event": "verified", "rows": 3})
    gallery.roll_back()
    gallery.drop_space(NEW)
    journal = open_gallery(url).journal()
    events = ["create", "add space", "start upgrade", "serve", "verified", "roll back"]
    events += ["drop space"]
    assert [entry["event"] for entry in journal] == events
    assert [entry["number"] for entry in journal] == [1, 2, 3, 4, 5, 6, 7]
    assert journal[4]["rows"] == 3
    assert all(entry["time"].endswith("+00:00") for entry in journal)
    assert json.loads(json.dumps(journal)) == journal


def test_the_description_prints_itself_as_a_table_and_as_json(gallery):
    filled(gallery)
    gallery.serve(SIDE, query_model="side-model")
    description = gallery.describe()
    printed = str(description).splitlines()
    assert "3 rows, queries embedded by model side-model" in printed[0]
    head = ["space", "dim", "metric", "format", "bytes", "filled", "embedded", "upgraded"]
    assert printed[1].split() == head
    assert printed[2].split()[:8] == ["old@1", "4", "l2", "float32", "16", "3", "3", "0"]
    assert printed[2].endswith("rolling back returns here")
    assert printed[3].endswith("serving")
    written = json.loads(json.dumps(description.to_json()))
    assert written["rows"] == 3
    assert written["serving"] == SIDE.to_json()
    assert written["previous"] == {
        "space": OLD.to_json(),
        "query_model": "old-model",
        "since": None,
    }
    assert [one["filled"] for one in written["spaces"]] == [3, 3]
    assert [(one["format"], one["bytes"]) for one in written["spaces"]] == [
        ("float32", 16),
        ("float32", 12),
    ]


def test_a_description_tells_formats_and_the_bytes_of_a_vector(stored, quantisation):
    gallery, (_, side) = stored
    assert gallery.bytes_of_writing(side.space) >= side.space.bytes
    described = gallery.describe()
    form, size = {"float16": ("float16", 6), "int8": ("int8", 3)}[quantisation.format]
    assert str(described).splitlines()[3].split()[3:5] == [form, str(size)]
    told = described.to_json()["spaces"][1]
    assert (told["format"], told["bytes"]) == (form, size)


def test_a_space_of_a_smaller_format_never_answers_queries(url, stored):
    gallery, (_, side) = stored
    words = rf"cannot answer queries of gallery .* stored as {side.space.format}, which is for side"
    for refused in (
        lambda: gallery.serve(side.space, query_model=None),
        lambda: gallery.search(side, 1),
        lambda: gallery.search(side, 1, allow_unserved=True),
        lambda: gallery.build_index(side.space),
        lambda: create_gallery(f"{url}-2", side.space, OLD),
    ):
        with pytest.raises(GalleryError, match=words):
            refused()
    assert gallery.search(embed(OLD, side.ids), 1).rows.shape == (5, 1)
