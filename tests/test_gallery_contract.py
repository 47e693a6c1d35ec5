"""What every store must do, tried on each in the same words; `memory` is the specification."""

import json
from datetime import timedelta

import numpy as np
import pytest
from upgrades import OLD, SIDE, embed, make_transformation, numbered

from onward import retrieval
from onward.errors import EvaluationError, GalleryError, SpaceMismatchError
from onward.gallery import RecordedRoutes, create_gallery, open_gallery, scratch_gallery
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.upgrading import Upgrade

NEW = Space("new@2", 5)
COSINE, IP = Space("angle@3", 4, "cosine"), Space("dot@3", 4, "ip")
OTHER = Space("other@9", 4)
BIG_ENOUGH = 1000


@pytest.fixture
def gallery(url):
    return create_gallery(url, OLD, SIDE, serving=OLD, query_model="old-model")


def filled(gallery, ids=("a", "b", "c"), **options):
    gallery.add(embed(OLD, ids), embed(SIDE, ids), **options)
    return gallery


def everything(gallery, space):
    read = gallery.read(space)
    return dict(zip(read.ids, read.vectors.tolist(), strict=True))


def only_batch(batches):
    (batch,) = list(batches)
    return batch


def sorted_pending(gallery, needed=(OLD, SIDE), missing=NEW):
    return sorted(item for batch in gallery.scan(needed, without=[missing]) for item in batch.ids)


# Opening


def test_what_was_created_can_be_opened_and_holds_the_same(url, gallery):
    filled(gallery)
    again = open_gallery(url)
    assert again.url == gallery.url == url
    assert everything(again, OLD) == everything(gallery, OLD)
    assert again.describe().to_json() == gallery.describe().to_json()


def test_creating_over_a_gallery_is_refused_and_it_stays(url, gallery):
    filled(gallery)
    with pytest.raises(GalleryError, match="already"):
        create_gallery(url, NEW)
    assert open_gallery(url).ids() == ("a", "b", "c")


def test_a_gallery_is_created_with_its_items(url):
    ids = ("a", "b", "c")
    items = (embed(OLD, ids, labels=np.arange(3)), embed(SIDE, ids))
    gallery = create_gallery(url, OLD, SIDE, items=items, payloads=[{"at": item} for item in ids])
    assert gallery.ids([OLD, SIDE]) == ids
    np.testing.assert_array_equal(gallery.read(OLD).vectors, items[0].vectors)
    assert gallery.read(OLD).labels.tolist() == [0, 1, 2]
    assert gallery.payloads("b") == [{"at": "b"}]
    gallery.add(embed(OLD, ["late"]))
    with pytest.raises(GalleryError, match=r"1 of 1 items are in gallery .* already"):
        gallery.add(embed(OLD, ["a"]))


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
    first, second = Space("a b", 2), Space("a-b", 2)
    gallery = create_gallery(url, first, second)
    gallery.add(embed(first, ["x"], 1), embed(second, ["x"], 2))
    third = Space("A.B", 2)
    gallery.add_space(third)
    np.testing.assert_array_equal(gallery.read(first).vectors, embed(first, ["x"], 1).vectors)
    np.testing.assert_array_equal(gallery.read(second).vectors, embed(second, ["x"], 2).vectors)
    assert gallery.count([third]) == 0


@pytest.mark.parametrize(
    "name", ["id", "select", "größe", "9", "!", "a" * 300, "x__origin", "query-index"]
)
def test_any_name_of_a_space_will_do(url, name):
    space = Space(name, 2)
    gallery = create_gallery(url, space)
    gallery.add(embed(space, ["x"]))
    assert gallery.count([space]) == 1
    found = gallery.search(embed(space, ["q", "r"]), 1)
    assert [found.ids_of(row) for row in (0, 1)] == [["x"], ["x"]]


# Adding, reading, updating, deleting


def test_added_items_are_read_back_as_they_were(gallery):
    ids = ("b", "a", "it's", '"ü" and more')
    old, side = embed(OLD, ids, labels=np.array([1, 2, 3, 4])), embed(SIDE, ids)
    gallery.add(old, side)
    read = gallery.read(OLD)
    assert read.ids == tuple(sorted(ids))
    np.testing.assert_array_equal(read.vectors, old.align(sorted(ids)).vectors)
    np.testing.assert_array_equal(read.labels, old.align(sorted(ids)).labels)
    np.testing.assert_array_equal(gallery.read(SIDE, ids).vectors, side.vectors)
    assert gallery.read(OLD, ids[::-1]).ids == ids[::-1]


def test_labels_that_are_not_known_are_read_as_negative(gallery):
    gallery.add(embed(OLD, ["a"], labels=np.array([7])))
    gallery.add(embed(OLD, ["b"]))
    assert gallery.read(OLD).labels.tolist() == [7, -1]
    assert gallery.read(OLD, ["b"]).labels is None
    batch = only_batch(gallery.scan([OLD]))
    assert dict(zip(batch.ids, batch.labels, strict=True)) == {"a": 7, "b": None}


def test_payloads_are_json_and_come_back_in_the_order_asked_for(gallery):
    filled(gallery, payloads=[{"path": "1.png"}, {"row": 2, "of": ["x", None]}, {}])
    gallery.add(embed(OLD, ["d"]))
    assert gallery.payloads(["c", "d", "b"]) == [{}, None, {"row": 2, "of": ["x", None]}]
    with pytest.raises(GalleryError, match=r"1 of 2 items are not in gallery .*: 'zz'"):
        gallery.payloads(["a", "zz"])


def test_adding_nothing_adds_nothing(gallery):
    gallery.add(embed(OLD, []))
    assert gallery.count() == 0
    assert gallery.ids() == ()
    assert len(gallery.read(OLD)) == 0


def test_adding_an_id_that_is_there_names_it_and_writes_nothing(gallery):
    filled(gallery)
    with pytest.raises(GalleryError, match=r"1 of 3 items are in gallery .* already: 'b'"):
        gallery.add(embed(OLD, ["x", "b", "y"]))
    assert gallery.ids() == ("a", "b", "c")


def test_many_items_that_are_there_are_found_too(gallery):
    ids = numbered(BIG_ENOUGH * 5)
    gallery.add(embed(OLD, ids))
    with pytest.raises(GalleryError, match=r"5000 of 5001 .* 'item-0002' and 4,997 more"):
        gallery.add(embed(OLD, [*ids, "fresh"]))
    assert gallery.count() == len(ids)


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
        GalleryError, match=r"item 'a' is of class 1 .* of class 2 in those in side"
    ):
        gallery.add(one, two)
    assert gallery.count() == 0


def test_deleting_counts_what_was_there(gallery):
    filled(gallery)
    assert gallery.delete(["a", "a", "nobody", "it's"]) == 1
    assert gallery.delete(["a"]) == 0
    assert gallery.delete([]) == 0
    assert gallery.ids() == ("b", "c")


def test_many_items_are_deleted_at_once(gallery):
    ids = numbered(BIG_ENOUGH * 5)
    gallery.add(embed(OLD, ids))
    assert gallery.delete(ids[1:]) == len(ids) - 1
    assert gallery.ids() == ids[:1]


def test_an_update_clears_what_was_derived_and_makes_the_row_pending(gallery):
    filled(gallery, payloads=[{"n": n} for n in range(3)])
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD, SIDE], without=[NEW]))
    new = embed(NEW, batch.ids)
    assert gallery.write(new, batch.revisions, origin="upgraded") == 3
    changed = embed(OLD, ["b"], 5), embed(SIDE, ["b"], 5)
    gallery.update(*changed)
    assert sorted_pending(gallery) == ["b"]
    assert gallery.ids([NEW]) == ("a", "c")
    np.testing.assert_array_equal(gallery.read(OLD, ["b"]).vectors, changed[0].vectors)
    assert gallery.payloads(["b"]) == [{"n": 1}]
    gallery.update(embed(OLD, ["a"], 6, labels=np.array([3])), payloads=[{"n": 9}])
    assert gallery.ids([SIDE]) == ("b", "c")
    assert gallery.read(OLD, ["a"]).labels.tolist() == [3]
    assert gallery.payloads(["a"]) == [{"n": 9}]
    np.testing.assert_array_equal(gallery.read(NEW, ["c"]).vectors, new.align("c").vectors)


def test_updating_an_unknown_id_names_it_and_writes_nothing(gallery):
    before = everything(filled(gallery), OLD)
    with pytest.raises(GalleryError, match=r"1 of 2 items are not in gallery .*: 'zz'. Nothing"):
        gallery.update(embed(OLD, ["a", "zz"], 9))
    assert everything(gallery, OLD) == before


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


# Spaces


def test_adding_a_space_is_cheap_to_repeat_and_leaves_every_row_empty(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    gallery.add_space(NEW)
    assert gallery.count([NEW]) == 0
    assert [entry["event"] for entry in gallery.journal()] == ["create", "add space"]


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
    assert gallery.describe().transformations[NEW] == RecordedRoutes("abcdef0123", NEW)
    gallery.drop_space(NEW)
    gallery.add_space(NEW, made_by=RecordedRoutes("9999999999", NEW))
    assert gallery.describe().transformations[NEW] == RecordedRoutes("9999999999", NEW)


def test_a_dropped_space_comes_back_empty(gallery):
    filled(gallery)
    gallery.drop_space(SIDE)
    gallery.drop_space(SIDE)
    with pytest.raises(GalleryError, match="has no space side@1"):
        gallery.count([SIDE])
    gallery.add_space(SIDE)
    assert gallery.count([SIDE]) == 0
    assert gallery.count([OLD], [SIDE]) == 3


def test_what_serves_or_is_needed_to_roll_back_cannot_be_dropped(gallery):
    with pytest.raises(GalleryError, match=r"old@1 .* answers the queries .* cannot be dropped"):
        gallery.drop_space(OLD)
    gallery.serve(SIDE, query_model="side-model")
    with pytest.raises(GalleryError, match=r"old@1 .* is what rolling back .* returns to"):
        gallery.drop_space(OLD)
    assert gallery.describe().spaces.keys() == {OLD, SIDE}


# What is pending, and writing


def test_pending_are_the_rows_that_have_what_is_needed_and_lack_the_new(gallery):
    filled(gallery)
    gallery.add(embed(OLD, ["no-side"]))
    gallery.add(embed(SIDE, ["no-old"]))
    gallery.add_space(NEW)
    gallery.add(embed(OLD, ["native"]), embed(SIDE, ["native"]), embed(NEW, ["native"]))
    assert sorted_pending(gallery) == ["a", "b", "c"]
    assert gallery.count([OLD, SIDE], [NEW]) == 3
    assert gallery.count([OLD], [NEW]) == 4
    assert gallery.ids([SIDE], [OLD]) == ("no-old",)
    assert gallery.ids(limit=2) == ("a", "b")
    batch = only_batch(gallery.scan([OLD, SIDE], without=[NEW]))
    np.testing.assert_array_equal(batch.vectors[SIDE], gallery.read(SIDE, batch.ids).vectors)
    assert batch.origins[OLD] == ("embedded",) * 3


def test_batches_are_of_the_size_asked_for_and_hold_each_row_once(gallery):
    ids = numbered(10)
    for some in (ids[:3], ids[3:4], ids[4:]):
        gallery.add(embed(OLD, some))
    gallery.add_space(NEW)
    batches = list(gallery.scan([OLD], without=[NEW], batch_rows=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(item for batch in batches for item in batch.ids) == list(ids)
    with pytest.raises(GalleryError, match="batches of 0 rows"):
        gallery.scan([OLD], without=[NEW], batch_rows=0)


def test_rows_written_while_the_pending_are_read_come_once(gallery):
    ids = numbered(20)
    gallery.add(embed(OLD, ids))
    gallery.add_space(NEW)
    seen = []
    for batch in gallery.scan([OLD], without=[NEW], batch_rows=3):
        seen += batch.ids
        assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == len(
            batch
        )
    assert sorted(seen) == list(ids)
    assert gallery.count([NEW]) == 20
    assert sorted_pending(gallery, [OLD]) == []


def test_writing_fills_only_its_own_field_and_can_be_repeated(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    before = everything(gallery, OLD), everything(gallery, SIDE)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    new = embed(NEW, batch.ids)
    for _ in range(2):
        assert gallery.write(new, batch.revisions, origin="upgraded") == 3
        assert (everything(gallery, OLD), everything(gallery, SIDE)) == before
        np.testing.assert_array_equal(gallery.read(NEW, batch.ids).vectors, new.vectors)
    counts = gallery.describe().spaces[NEW]
    assert (counts.embedded, counts.upgraded) == (0, 3)


def test_a_row_deleted_since_it_was_read_is_not_born_again(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    gallery.delete(["b"])
    assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 2
    assert gallery.ids() == ("a", "c")


def test_a_row_changed_since_it_was_read_is_left_alone(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    gallery.update(embed(OLD, ["b"], 5))
    gallery.delete(["c"])
    gallery.add(embed(OLD, ["c"], 6))
    assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 1
    assert gallery.ids([NEW]) == ("a",)
    assert sorted_pending(gallery, [OLD]) == ["b", "c"]


def test_what_a_model_has_embedded_is_never_overwritten_by_writing(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    upgraded, embedded = embed(NEW, batch.ids, 1), embed(NEW, batch.ids, 2)
    gallery.write(upgraded, batch.revisions, origin="upgraded")
    chosen = embedded.select([0])
    assert gallery.write(chosen, batch.revisions[:1], origin="embedded") == 1
    assert gallery.write(upgraded, batch.revisions, origin="upgraded") == 2
    np.testing.assert_array_equal(gallery.read(NEW, chosen.ids).vectors, chosen.vectors)
    assert gallery.write(embed(OLD, batch.ids, 3), batch.revisions, origin="upgraded") == 0
    counts = gallery.describe().spaces[NEW]
    assert (counts.embedded, counts.upgraded, counts.filled) == (1, 2, 3)


def test_writing_takes_an_uncertainty_for_each_vector(gallery):
    filled(gallery)
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    unsure = np.array([0.5, 1.5, 2.5], np.float32)
    new = embed(NEW, batch.ids)
    assert gallery.write(new, batch.revisions, origin="upgraded", uncertainty=unsure) == 3
    batch = only_batch(gallery.scan([OLD, NEW]))
    assert batch.uncertainties[NEW].tolist() == [unsure[new.ids.index(i)] for i in batch.ids]
    assert np.isnan(batch.uncertainties[OLD]).all()
    with pytest.raises(GalleryError, match=r"uncertainty of shape \(2,\) for 3 vectors"):
        gallery.write(new, batch.revisions, origin="upgraded", uncertainty=unsure[:2])
    with pytest.raises(GalleryError, match=r"revisions of shape \(1,\) for 3 vectors"):
        gallery.write(new, batch.revisions[:1], origin="upgraded")


def test_writing_nothing_or_into_an_unknown_space(gallery):
    filled(gallery)
    none = np.empty(0, np.int64)
    assert gallery.write(embed(SIDE, []), none, origin="embedded") == 0
    with pytest.raises(GalleryError, match="has no space new@2"):
        gallery.write(embed(NEW, []), none, origin="embedded")


def test_the_state_changes_with_the_rows_and_only_with_them(gallery):
    states = [filled(gallery).state()]
    gallery.log({"event": "note"})
    gallery.serve(SIDE, query_model="x")
    assert gallery.state() == states[0]
    gallery.add_space(NEW)
    batch = only_batch(gallery.scan([OLD], without=[NEW]))
    steps = [
        lambda: gallery.write(embed(NEW, ["a"]), batch.revisions[:1], origin="upgraded"),
        lambda: gallery.update(embed(OLD, ["b"], 5)),
        lambda: gallery.delete(["c"]),
        lambda: gallery.add(embed(OLD, ["c"]), embed(SIDE, ["c"])),
    ]
    for step in steps:
        step()
        states.append(gallery.state())
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("verb", ["add", "update"])
def test_vectors_of_a_space_that_is_dropped_meanwhile_are_refused_as_a_whole(
    gallery, monkeypatch, verb
):
    filled(gallery).add_space(NEW)
    record = gallery._store.read_record()
    gallery.drop_space(NEW)
    monkeypatch.setattr(gallery._store, "read_record", lambda: record)
    before, ids = everything(gallery, OLD), ["late"] if verb == "add" else ["a"]
    with pytest.raises(GalleryError, match="column new_2"):
        getattr(gallery, verb)(embed(OLD, ids, 7), embed(NEW, ids))
    assert everything(gallery, OLD) == before


def test_the_version_differs_after_every_write_and_after_nothing_else(gallery):
    versions = [filled(gallery).version()]
    batch = only_batch(gallery.scan([OLD]))
    steps = [
        lambda: gallery.add_space(NEW),
        lambda: gallery.write(embed(NEW, ["a"]), batch.revisions[:1], origin="upgraded"),
        lambda: gallery.write(embed(NEW, ["a"], 9), batch.revisions[:1], origin="upgraded"),
        lambda: gallery.update(embed(OLD, ["b"], 5)),
        lambda: gallery.delete(["c"]),
        lambda: gallery.add(embed(OLD, ["c"]), embed(SIDE, ["c"])),
        lambda: gallery.drop_space(NEW),
    ]
    for step in steps:
        step()
        versions.append(gallery.version())
        gallery.log({"event": "note"})
        gallery.delete(["nobody"])
        gallery.build_index(OLD)
        gallery.compact()
        gallery.compact(keep=timedelta(0))
        assert gallery.version() == versions[-1]
        assert open_gallery(gallery.url).version() == versions[-1]
    assert len(set(versions)) == len(versions)


# Answering queries


@pytest.mark.parametrize("space", [OLD, COSINE, IP], ids=str)
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("k", [1, 7, 400])
def test_search_gives_the_exact_ranking_with_ties_by_id(url, space, exclude_self, k):
    gallery = create_gallery(url, space)
    items = embed(space, numbered(300))
    vectors = items.vectors.copy()
    vectors[40:75] = vectors[39]  # many at the same place
    vectors[100:110] = vectors[99] * np.float32(2)
    items = Embeddings(items.ids, vectors, space)
    gallery.add(items.select(np.random.default_rng(1).permutation(300)))
    queries = items.select([3, 45, 99, 120, 40])
    found = gallery.search(queries, k, exclude_self=exclude_self)
    expected = retrieval.search(queries, items, k, exclude_self=exclude_self)
    assert [found.ids_of(row) for row in range(5)] == [expected.ids_of(row) for row in range(5)]
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert found.exclude_self is exclude_self


IP_KINDS = {
    "usual": lambda rng: rng.standard_normal((200, 4)) * rng.uniform(0.2, 4, (200, 1)),
    "whole-numbers": lambda rng: rng.integers(-2, 3, (200, 4)),
    "tiny": lambda rng: rng.standard_normal((200, 4)) * 1e-25,
    "huge": lambda rng: rng.standard_normal((200, 4)) * 5e37,
    "of-all-lengths": lambda rng: (
        rng.standard_normal((200, 4)) * 10.0 ** rng.integers(-44, 38, (200, 1))
    ),
}


@pytest.mark.parametrize("kind", IP_KINDS)
def test_inner_products_of_any_length_are_searched_exactly(url, kind):
    vectors = IP_KINDS[kind](np.random.default_rng(0)).astype(np.float32)
    vectors[7] = 0
    items = Embeddings(numbered(200), vectors, IP)
    gallery = create_gallery(url, IP, OLD, items=[items.select(range(150))])
    gallery.add(items.select(range(150, 200)))
    gallery.add(embed(OLD, ["no-inner-product"]))
    gallery.delete(items.ids[20:40])
    held = items.select([*range(20), *range(40, 200)])
    queries = items.select([0, 7, 21, 150, 199])
    for k, exclude_self in ((1, False), (30, True), (180, False), (500, True)):
        found = gallery.search(queries, k, exclude_self=exclude_self)
        expected = retrieval.search(queries, held, k, exclude_self=exclude_self)
        for row in range(len(queries)):
            assert found.ids_of(row) == expected.ids_of(row)
        np.testing.assert_array_equal(found.distances, expected.distances)


def test_an_index_of_inner_products_is_used_for_approximate_search_only(url):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((BIG_ENOUGH, 4)) * rng.uniform(0.5, 2, (BIG_ENOUGH, 1))
    items = Embeddings(numbered(BIG_ENOUGH), vectors.astype(np.float32), IP)
    gallery = create_gallery(url, IP, items=[items])
    gallery.build_index(IP)
    gallery.add(Embeddings(("late",), np.array([[9, 9, 9, 9]], np.float32), IP))
    items = gallery.read(IP)
    queries = Embeddings(("q", "r"), np.array([[1, 2, 1, 1], [1, 0, 1, 0]], np.float32), IP)
    expected = retrieval.search(queries, items, 10, exclude_self=False)
    exact = gallery.search(queries, 10)
    near = gallery.search(queries, 10, approximate=True)
    for row in (0, 1):
        assert exact.ids_of(row) == expected.ids_of(row)
        assert near.ids_of(row)[0] == "late"
        assert len(set(near.ids_of(row)) & set(expected.ids_of(row))) >= 7
    assert near.distances[:, 0].tolist() == [-45, -18]


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


def test_rows_without_a_vector_in_the_space_do_not_come_back(gallery):
    filled(gallery)
    gallery.add(embed(SIDE, ["side-only"]))
    ranking = gallery.search(embed(OLD, ["q", "a"]), 10)
    assert all(sorted(ranking.ids_of(row)) == ["a", "b", "c"] for row in (0, 1))
    own = gallery.search(embed(OLD, ["q", "a"]), 10, exclude_self=True)
    assert own.ids_of(1) == [item for item in ranking.ids_of(1) if item != "a"]
    assert own.rows[1, -1] == -1
    assert np.isinf(own.distances[1, -1])


def test_an_empty_gallery_and_no_queries_give_empty_rankings(gallery):
    assert gallery.search(embed(OLD, ["q"]), 3).ids_of(0) == []
    assert len(filled(gallery).search(embed(OLD, []), 3)) == 0


@pytest.mark.parametrize("k", [10**12, 10**20])
def test_asking_for_more_than_there_is_gives_all_there_is(gallery, k):
    ranking = filled(gallery).search(embed(OLD, ["q", "a"]), k)
    assert [sorted(ranking.ids_of(row)) for row in (0, 1)] == [["a", "b", "c"]] * 2


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
    with pytest.raises(EvaluationError, match="nearest 0 items"):
        gallery.search(embed(OLD, ["q"]), 0)


def test_an_index_is_used_for_approximate_search_only(gallery):
    ids = numbered(BIG_ENOUGH)
    gallery.add(embed(OLD, ids))
    gallery.build_index(OLD)
    gallery.add(embed(OLD, ["late"], 3))
    queries = gallery.read(OLD, ["late", ids[5]])
    near = gallery.search(queries, 3, approximate=True)
    assert [near.ids_of(row)[0] for row in (0, 1)] == ["late", ids[5]]
    assert near.distances[:, 0].tolist() == [0, 0]
    exact = gallery.search(queries, 3)
    expected = retrieval.search(queries, gallery.read(OLD), 3, exclude_self=False)
    assert [exact.ids_of(row) for row in (0, 1)] == [expected.ids_of(row) for row in (0, 1)]


# Serving, rolling back, the journal


def test_serving_changes_space_and_query_model_together_and_can_be_taken_back(gallery):
    filled(gallery)
    gallery.serve(SIDE, query_model="side-model")
    description = gallery.describe()
    assert (description.serving, description.query_model) == (SIDE, "side-model")
    assert (description.previous.space, description.previous.query_model) == (OLD, "old-model")
    gallery.serve(SIDE, query_model="side-model")
    gallery.serve(SIDE, query_model="side-model-2")
    assert gallery.describe().previous == description.previous
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


def test_writing_a_vector_takes_at_least_its_own_bytes(gallery):
    assert gallery.bytes_of_writing(NEW) >= 4 * NEW.dim
    filled(gallery)
    assert gallery.bytes_of_writing(NEW) >= 4 * NEW.dim


# Number formats


@pytest.fixture(params=["float16", "int8"])
def quantisation(request):
    return fit_quantisation(embed(SIDE, numbered(50), seed=9), request.param)


@pytest.fixture
def stored(url, quantisation):
    """A gallery with side-information in a smaller format, and what was put into it."""
    ids = numbered(5)
    given = embed(OLD, ids), quantisation.apply(embed(SIDE, ids))
    return create_gallery(url, OLD, quantisation.space, items=given), given


def test_side_information_in_a_smaller_format_is_read_as_it_was(url, stored, quantisation):
    gallery, (_, side) = stored
    gallery.add(embed(OLD, ["late"]), late := quantisation.apply(embed(SIDE, ["late"])))
    again = open_gallery(url)
    assert again.spaces() == (OLD, quantisation.space)
    np.testing.assert_array_equal(again.read(side.space, side.ids).vectors, side.vectors)
    np.testing.assert_array_equal(again.read(side.space, ["late"]).vectors, late.vectors)
    batch = only_batch(again.scan([OLD, side.space]))
    assert {vectors.dtype for vectors in batch.vectors.values()} == {np.dtype(np.float32)}


def test_an_upgrade_reads_a_smaller_format_and_leaves_it_as_it_is(stored, quantisation):
    gallery, (_, side) = stored
    before = everything(gallery, side.space)
    gallery.add_space(NEW)
    for batch in gallery.scan([OLD, side.space], without=[NEW]):
        old = embed(NEW, batch.ids)
        assert gallery.write(old, batch.revisions, origin="upgraded") == 5
    assert everything(gallery, side.space) == before
    changed = quantisation.apply(embed(SIDE, side.ids[:2], seed=4))
    gallery.update(embed(OLD, changed.ids, seed=4), changed)
    np.testing.assert_array_equal(gallery.read(side.space, changed.ids).vectors, changed.vectors)
    assert sorted_pending(gallery, [OLD, side.space]) == list(changed.ids)


def test_a_space_of_a_smaller_format_is_added_later_and_written_to(gallery, quantisation):
    side = quantisation.apply(embed(SIDE, ("a", "b", "c")))
    filled(gallery).add_space(side.space)
    assert gallery.count([side.space]) == 0
    batch = only_batch(gallery.scan([OLD], without=[side.space]))
    given = side.align(batch.ids)
    assert gallery.write(given, batch.revisions, origin="embedded") == 3
    assert gallery.write(given, batch.revisions, origin="embedded") == 0
    np.testing.assert_array_equal(gallery.read(side.space).vectors, side.vectors)


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


def test_a_scratch_gallery_takes_the_same_formats(url, quantisation):
    gallery = create_gallery(url, quantisation.space, OLD, serving=OLD)
    with scratch_gallery(gallery) as scratch:
        assert scratch.spaces() == gallery.spaces()
