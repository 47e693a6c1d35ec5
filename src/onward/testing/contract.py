"""What every store promises, each promise tried on its own; `memory` is the specification.

What `Gallery` checks before it calls a store is not tried here: it is the same for all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import GalleryError
from onward.evaluation import retrieval
from onward.evaluation.retrieval import Ranking, agreement
from onward.fusion import FusedEmbeddings, Fusion, Scale, Searchable
from onward.gallery import (
    Batch,
    Gallery,
    Place,
    RecordedRoutes,
    Share,
    create_gallery,
    open_gallery,
    scratch_gallery,
)
from onward.gallery.store import PairStore
from onward.labels import Labels
from onward.quantisation import Quantisation, fit_quantisation
from onward.spaces import Embeddings, Space

OLD, SIDE, NEW = Space("old@1", 4), Space("side@1", 3), Space("new@2", 5)
COSINE, IP = Space("angle@3", 4, "cosine"), Space("dot@3", 4, "ip")
PAIRS = [
    Fusion(old, new, weight, Scale(1.5, 0.5), Scale(0.5, 0.5))
    for old, new, weight in ((OLD, NEW, 0.5), (COSINE, NEW, 0.2), (IP, COSINE, 0.7))
]
NAMES = ("id", "select", "größe", "9", "!", "a" * 300, "x__origin", "query-index")
Where = str | Path | Place


def embed(
    space: Space, ids: Iterable[str], seed: int = 0, labels: Labels | None = None
) -> Embeddings:
    """Return made up embeddings of items, the same for the same seed."""
    named = tuple(ids)
    rng = np.random.default_rng([seed, *space.name.encode()])
    vectors = rng.standard_normal((len(named), space.dim)).astype(np.float32)
    return Embeddings(named, vectors, space, labels)


def numbered(count: int, name: str = "item") -> tuple[str, ...]:
    """Return ids that are numbered, in their order."""
    return tuple(f"{name}-{number:04d}" for number in range(count))


def filled(gallery: Gallery, **options: Any) -> Gallery:
    """Return the gallery with three items."""
    gallery.add(embed(OLD, "abc"), embed(SIDE, "abc"), **options)
    return gallery


def with_new(gallery: Gallery) -> tuple[Gallery, Batch]:
    """Return the gallery with three items and a new space, and the rows as they were read then."""
    filled(gallery).add_space(NEW)
    return gallery, only_batch(gallery, [OLD], without=[NEW])


def only_batch(gallery: Gallery, spaces: Sequence[Space], **options: Any) -> Batch:
    """Return the batch that a scan gives."""
    (batch,) = gallery.scan(spaces, **options)
    return batch


def everything(gallery: Gallery, space: Space) -> dict[str, list[float]]:
    """Return each item's vector in a space."""
    read = gallery.read(space)
    return dict(zip(read.ids, read.vectors.tolist(), strict=True))


def pending(gallery: Gallery, needed: Sequence[Space] = (OLD,)) -> list[str]:
    """Return the items that have what is needed and lack the new vector."""
    return sorted(item for batch in gallery.scan(needed, without=[NEW]) for item in batch.ids)


def ask(gallery: Gallery, queries: Searchable, k: int, **options: Any) -> Ranking:
    """Search in the space, or in the fused pair, that the queries are of."""
    if isinstance(queries, Embeddings):
        return gallery.search(queries, k, **options)
    return gallery.search(queries.new, k, queries_old=queries.old, **options)


def some_with_both(pair: Fusion) -> FusedEmbeddings:
    """Return 300 items, of which 20 lack one vector or the other; many are at the same place."""
    held = []
    for space, lacks in ((pair.old, range(10)), (pair.new, range(290, 300))):
        vectors = embed(space, numbered(300)).vectors.copy()
        vectors[40:75] = vectors[39]
        ids = [row for row in range(300) if row not in lacks]
        held.append(Embeddings(numbered(300), vectors, space).select(ids))
    return FusedEmbeddings(pair, *held)


def add_all(gallery: Gallery, items: FusedEmbeddings) -> None:
    """Add items with the vectors that each of them has."""
    old, new = frozenset(items.old.ids), frozenset(items.new.ids)
    gallery.add(*(one.align(sorted(old & new)) for one in (items.old, items.new)))
    gallery.add(items.old.align(sorted(old - new)))
    gallery.add(items.new.align(sorted(new - old)))


def check_search(
    gallery: Gallery, queries: Searchable, items: Searchable, k: int, *, exclude_self: bool
) -> None:
    """Compare what a search gives with the exact ranking."""
    found = ask(gallery, queries, k, exclude_self=exclude_self)
    expected = retrieval.search(queries, items, k, exclude_self=exclude_self)
    for row in range(len(queries)):
        assert found.ids_of(row) == expected.ids_of(row)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert found.exclude_self is exclude_self


class StoreContract:
    """All that a store must do: a subclass says by the fixture `place` where a gallery may be."""

    @pytest.fixture
    def place(self) -> Where:
        """Return where no gallery is yet, as `create_gallery` takes it; to be overridden."""
        raise NotImplementedError("give the fixture `place`: where a gallery may be created")

    @pytest.fixture
    def gallery(self, place: Where) -> Gallery:
        """Return an empty gallery with two spaces."""
        return create_gallery(place, OLD, SIDE, serving=OLD, query_model="old-model")

    @pytest.fixture(params=["float16", "int8"])
    def quantisation(self, request: pytest.FixtureRequest) -> Quantisation:
        """Return what brings side-information into a smaller number format."""
        return fit_quantisation(embed(SIDE, numbered(50), seed=9), request.param)

    # Creating and opening

    def test_what_was_created_can_be_opened_and_holds_the_same(
        self, place: Where, gallery: Gallery
    ) -> None:
        again, journal = open_gallery(place), filled(gallery).journal()
        assert again.url == gallery.url
        assert everything(again, OLD) == everything(gallery, OLD)
        assert again.describe().to_json() == gallery.describe().to_json()
        assert [entry["number"] for entry in journal] == [1]
        assert again.journal() == journal

    def test_creating_over_a_gallery_is_refused_and_it_stays(
        self, place: Where, gallery: Gallery
    ) -> None:
        filled(gallery)
        with pytest.raises(GalleryError):
            create_gallery(place, NEW)
        assert open_gallery(place).ids() == ("a", "b", "c")

    def test_a_gallery_is_created_with_its_items(self, place: Where) -> None:
        items = (embed(OLD, "abc", labels=np.arange(3)), embed(SIDE, "abc"))
        payloads = [{"at": item} for item in "abc"]
        gallery = create_gallery(place, OLD, SIDE, items=items, payloads=payloads)
        assert gallery.ids([OLD, SIDE]) == ("a", "b", "c")
        np.testing.assert_array_equal(gallery.read(OLD).vectors, items[0].vectors)
        np.testing.assert_array_equal(gallery.read(OLD).labels, [0, 1, 2])
        assert gallery.payloads("b") == [{"at": "b"}]
        with pytest.raises(GalleryError, match="1 of 1 items are in gallery"):
            gallery.add(embed(OLD, ["a"]))

    @pytest.mark.parametrize("name", NAMES)
    def test_any_name_of_a_space_will_do(self, place: Where, name: str) -> None:
        space = Space(name, 2)
        gallery = create_gallery(place, space, items=[embed(space, ["x"])])
        assert gallery.count([space]) == 1
        found = gallery.search(embed(space, ["q", "r"]), 1)
        assert [found.ids_of(row) for row in (0, 1)] == [["x"], ["x"]]

    def test_a_scratch_gallery_is_empty_and_apart(
        self, place: Where, quantisation: Quantisation
    ) -> None:
        items = embed(OLD, "abc")
        gallery = create_gallery(place, quantisation.space, OLD, serving=OLD, items=[items])
        with scratch_gallery(gallery) as scratch:
            assert scratch.spaces() == gallery.spaces()
            assert scratch.count() == 0
            scratch.add(embed(OLD, "xy"))
        assert gallery.ids() == items.ids

    # The record

    def test_a_record_is_replaced_only_by_the_one_that_comes_next(
        self, place: Where, gallery: Gallery
    ) -> None:
        store, record = gallery._store, gallery.view().record
        late = replace(record, revision=2, retired=("late",))
        assert store.change_record(replace(record, revision=2), {"number": 2, "event": "note"})
        assert not store.change_record(late, {"number": 2, "event": "late"})
        again = open_gallery(place)
        assert again.view().record.revision == 2
        assert again.view().record.retired == ()
        assert [entry["event"] for entry in again.journal()] == ["create", "note"]

    # Spaces

    def test_adding_a_space_is_cheap_to_repeat_and_leaves_every_row_empty(
        self, gallery: Gallery
    ) -> None:
        filled(gallery)
        gallery.add_space(NEW)
        gallery.add_space(NEW)
        assert gallery.count([NEW]) == 0
        assert [entry["event"] for entry in gallery.journal()] == ["create", "add space"]

    def test_a_dropped_space_comes_back_empty(self, gallery: Gallery) -> None:
        filled(gallery)
        gallery.drop_space(SIDE)
        gallery.drop_space(SIDE)
        with pytest.raises(GalleryError, match="has no space side@1"):
            gallery.count([SIDE])
        gallery.add_space(SIDE)
        assert gallery.count([SIDE]) == 0
        assert gallery.count([OLD], [SIDE]) == 3

    @pytest.mark.parametrize("verb", ["add", "update"])
    def test_vectors_of_a_space_that_is_dropped_meanwhile_are_refused_as_a_whole(
        self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        filled(gallery).add_space(NEW)
        record = gallery._store.read_record()
        gallery.drop_space(NEW)
        monkeypatch.setattr(gallery._store, "read_record", lambda: record)
        before, ids = everything(gallery, OLD), ["late"] if verb == "add" else ["a"]
        with pytest.raises(GalleryError, match="column new_2"):
            getattr(gallery, verb)(embed(OLD, ids, 7), embed(NEW, ids))
        assert everything(gallery, OLD) == before

    # Adding, updating, deleting, reading

    def test_added_items_are_read_back_as_they_were(self, gallery: Gallery) -> None:
        ids = ("b", "a", "it's", '"ü" and more')
        old, side = embed(OLD, ids, labels=np.array([1, 2, 3, 4])), embed(SIDE, ids)
        gallery.add(old, side)
        read = gallery.read(OLD)
        assert read.ids == tuple(sorted(ids))
        expected = old.align(sorted(ids))
        np.testing.assert_array_equal(read.vectors, expected.vectors)
        np.testing.assert_array_equal(read.labels, expected.labels)
        np.testing.assert_array_equal(gallery.read(SIDE, ids).vectors, side.vectors)
        assert gallery.read(OLD, ids[::-1]).ids == ids[::-1]

    def test_labels_that_are_not_known_are_read_as_negative(self, gallery: Gallery) -> None:
        gallery.add(embed(OLD, ["a"], labels=np.array([7])))
        gallery.add(embed(OLD, ["b"]))
        np.testing.assert_array_equal(gallery.read(OLD).labels, [7, -1])
        assert gallery.read(OLD, ["b"]).labels is None
        batch = only_batch(gallery, [OLD])
        assert dict(zip(batch.ids, batch.labels, strict=True)) == {"a": 7, "b": None}

    def test_payloads_are_json_and_come_back_in_the_order_asked_for(self, gallery: Gallery) -> None:
        filled(gallery, payloads=[{"path": "1.png"}, {"row": 2, "of": ["x", None]}, {}])
        gallery.add(embed(OLD, ["d"]))
        assert gallery.payloads(["c", "d", "b"]) == [{}, None, {"row": 2, "of": ["x", None]}]

    def test_adding_nothing_adds_nothing(self, gallery: Gallery) -> None:
        gallery.add(embed(OLD, []))
        assert gallery.count() == 0
        assert gallery.ids() == ()
        assert len(gallery.read(OLD)) == 0

    def test_adding_an_id_that_is_there_names_it_and_writes_nothing(self, gallery: Gallery) -> None:
        filled(gallery)
        with pytest.raises(GalleryError, match=r"1 of 3 items are in gallery .* already: 'b'"):
            gallery.add(embed(OLD, ["x", "b", "y"]))
        assert gallery.ids() == ("a", "b", "c")

    def test_many_items_are_found_and_deleted_at_once(self, gallery: Gallery) -> None:
        ids = numbered(5000)
        gallery.add(embed(OLD, ids))
        with pytest.raises(GalleryError, match=r"5000 of 5001 .* 'item-0002' and 4,997 more"):
            gallery.add(embed(OLD, [*ids, "fresh"]))
        assert gallery.count() == len(ids)
        assert gallery.delete(ids[1:]) == len(ids) - 1
        assert gallery.ids() == ids[:1]

    def test_deleting_counts_what_was_there(self, gallery: Gallery) -> None:
        filled(gallery)
        assert gallery.delete(["a", "a", "nobody", "it's"]) == 1
        assert gallery.delete(["a"]) == 0
        assert gallery.delete([]) == 0
        assert gallery.ids() == ("b", "c")

    def test_an_update_clears_what_was_derived_and_makes_the_row_pending(
        self, gallery: Gallery
    ) -> None:
        filled(gallery, payloads=[{"n": n} for n in range(3)])
        gallery.add_space(NEW)
        batch = only_batch(gallery, [OLD, SIDE], without=[NEW])
        new = embed(NEW, batch.ids)
        assert gallery.write(new, batch.revisions, origin="upgraded") == 3
        changed = embed(OLD, ["b"], 5), embed(SIDE, ["b"], 5)
        gallery.update(*changed)
        assert pending(gallery, [OLD, SIDE]) == ["b"]
        assert gallery.ids([NEW]) == ("a", "c")
        np.testing.assert_array_equal(gallery.read(OLD, ["b"]).vectors, changed[0].vectors)
        assert gallery.payloads(["b"]) == [{"n": 1}]
        gallery.update(embed(OLD, ["a"], 6, labels=np.array([3])), payloads=[{"n": 9}])
        assert gallery.ids([SIDE]) == ("b", "c")
        np.testing.assert_array_equal(gallery.read(OLD, ["a"]).labels, [3])
        assert gallery.payloads(["a"]) == [{"n": 9}]
        np.testing.assert_array_equal(gallery.read(NEW, ["c"]).vectors, new.align("c").vectors)

    def test_updating_an_unknown_id_names_it_and_writes_nothing(self, gallery: Gallery) -> None:
        before = everything(filled(gallery), OLD)
        with pytest.raises(GalleryError, match=r"1 of 2 items are not in gallery .*: 'zz'"):
            gallery.update(embed(OLD, ["a", "zz"], 9))
        assert everything(gallery, OLD) == before

    # What is pending, and writing

    def test_pending_are_the_rows_that_have_what_is_needed_and_lack_the_new(
        self, gallery: Gallery
    ) -> None:
        filled(gallery)
        gallery.add(embed(OLD, ["no-side"]))
        gallery.add(embed(SIDE, ["no-old"]))
        gallery.add_space(NEW)
        gallery.add(embed(OLD, ["native"]), embed(SIDE, ["native"]), embed(NEW, ["native"]))
        assert pending(gallery, [OLD, SIDE]) == ["a", "b", "c"]
        assert gallery.count([OLD, SIDE], [NEW]) == 3
        assert gallery.count([OLD], [NEW]) == 4
        assert gallery.count([NEW], origin="embedded") == 1
        assert gallery.count([NEW], origin="upgraded") == 0
        assert gallery.ids([SIDE], [OLD]) == ("no-old",)
        assert gallery.ids(limit=2) == ("a", "b")
        batch = only_batch(gallery, [OLD, SIDE], without=[NEW])
        np.testing.assert_array_equal(batch.vectors[SIDE], gallery.read(SIDE, batch.ids).vectors)
        assert batch.origins[OLD] == ("embedded",) * 3

    def test_batches_are_of_the_size_asked_for_and_hold_each_row_once(
        self, gallery: Gallery
    ) -> None:
        ids = numbered(10)
        for some in (ids[:3], ids[3:4], ids[4:]):
            gallery.add(embed(OLD, some))
        gallery.add(embed(SIDE, ["side-only"]))
        batches = list(gallery.scan([OLD], batch_rows=4))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert sorted(item for batch in batches for item in batch.ids) == list(ids)
        asked = [*ids[2:9], "side-only", "nobody"]
        chosen = [item for b in gallery.scan([OLD], ids=asked, batch_rows=4) for item in b.ids]
        assert sorted(chosen) == list(ids[2:9])

    def test_shares_split_the_rows_between_workers(self, place: Where, gallery: Gallery) -> None:
        gallery.add(embed(OLD, numbered(60)))
        found = []
        for share in (Share(number, 3) for number in range(3)):
            batches = gallery.scan([OLD], batch_rows=20, share=share)
            ids = [item for batch in batches for item in batch.ids]
            assert ids == [item for item in ids if share.holds(item)]
            found += ids
        assert sorted(found) == list(numbered(60))
        with gallery.working_on(OLD) as mine, open_gallery(place).working_on(OLD) as theirs:
            assert {mine(), theirs()} in ({Share(0, 2), Share(1, 2)}, {Share()})
        with gallery.working_on(OLD) as mine:
            assert mine() == Share()

    def test_rows_written_while_the_pending_are_read_come_once(self, gallery: Gallery) -> None:
        ids = numbered(20)
        gallery.add(embed(OLD, ids))
        gallery.add_space(NEW)
        seen: list[str] = []
        for batch in gallery.scan([OLD], without=[NEW], batch_rows=3):
            seen += batch.ids
            written = gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded")
            assert written == len(batch)
        assert sorted(seen) == list(ids)
        assert gallery.count([NEW]) == 20
        assert pending(gallery) == []

    def test_writing_fills_only_its_own_field_and_can_be_repeated(self, gallery: Gallery) -> None:
        _, batch = with_new(gallery)
        before = everything(gallery, OLD), everything(gallery, SIDE)
        new = embed(NEW, batch.ids)
        for _ in range(2):
            assert gallery.write(new, batch.revisions, origin="upgraded") == 3
            assert (everything(gallery, OLD), everything(gallery, SIDE)) == before
            np.testing.assert_array_equal(gallery.read(NEW, batch.ids).vectors, new.vectors)
        counts = gallery.view().counts[NEW]
        assert (counts.embedded, counts.upgraded) == (0, 3)

    def test_a_row_deleted_since_it_was_read_is_not_born_again(self, gallery: Gallery) -> None:
        _, batch = with_new(gallery)
        gallery.delete(["b"])
        assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 2
        assert gallery.ids() == ("a", "c")

    def test_a_row_changed_since_it_was_read_is_left_alone(self, gallery: Gallery) -> None:
        _, batch = with_new(gallery)
        gallery.update(embed(OLD, ["b"], 5))
        gallery.delete(["c"])
        gallery.add(embed(OLD, ["c"], 6))
        assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 1
        assert gallery.ids([NEW]) == ("a",)
        assert pending(gallery) == ["b", "c"]

    def test_what_a_model_has_embedded_is_never_overwritten_by_writing(
        self, gallery: Gallery
    ) -> None:
        _, batch = with_new(gallery)
        upgraded, embedded = embed(NEW, batch.ids, 1), embed(NEW, batch.ids, 2)
        gallery.write(upgraded, batch.revisions, origin="upgraded")
        chosen = embedded.select([0])
        assert gallery.write(chosen, batch.revisions[:1], origin="embedded") == 1
        assert gallery.write(upgraded, batch.revisions, origin="upgraded") == 2
        np.testing.assert_array_equal(gallery.read(NEW, chosen.ids).vectors, chosen.vectors)
        assert gallery.write(embed(OLD, batch.ids, 3), batch.revisions, origin="upgraded") == 0
        counts = gallery.view().counts[NEW]
        assert (counts.embedded, counts.upgraded, counts.filled) == (1, 2, 3)

    def test_writing_takes_an_uncertainty_for_each_vector(self, gallery: Gallery) -> None:
        _, batch = with_new(gallery)
        unsure, new = np.array([0.5, 1.5, 2.5], np.float32), embed(NEW, batch.ids)
        assert gallery.write(new, batch.revisions, origin="upgraded", uncertainty=unsure) == 3
        batch = only_batch(gallery, [OLD, NEW])
        assert batch.uncertainties[NEW].tolist() == [unsure[new.ids.index(i)] for i in batch.ids]
        assert np.isnan(batch.uncertainties[OLD]).all()

    def test_what_is_filled_in_parts_and_what_is_left_are_all_rows(self, gallery: Gallery) -> None:
        routes = RecordedRoutes("1" * 64, NEW)
        filled(gallery).add_space(NEW, made_by=routes)
        expected = embed(NEW, "abc")

        def derive(batch: Batch) -> tuple[Embeddings, None]:
            return expected.align(batch.ids), None

        written = sum(gallery.fill(NEW, [OLD], derive, batch_rows=2, made_by=routes.digest))
        assert gallery.count([NEW], origin="upgraded") == written
        for batch in gallery.scan([OLD], without=[NEW]):
            vectors, _ = derive(batch)
            written += gallery.write(vectors, batch.revisions, origin="upgraded")
        assert written == 3
        np.testing.assert_array_equal(gallery.read(NEW).vectors, expected.vectors)

    def test_the_state_changes_with_the_rows_and_only_with_them(self, gallery: Gallery) -> None:
        states = [filled(gallery).state()]
        gallery.log({"event": "note"})
        gallery.serve(SIDE, query_model="x")
        assert gallery.state() == states[0]
        gallery.add_space(NEW)
        for step in self.writes(gallery):
            step()
            states.append(gallery.state())
        assert len(set(states)) == len(states)

    def test_the_version_differs_after_every_write_and_after_nothing_else(
        self, place: Where, gallery: Gallery
    ) -> None:
        versions = [filled(gallery).version()]
        first: Callable[[], Any] = lambda: gallery.add_space(NEW)  # noqa: E731
        last: Callable[[], Any] = lambda: gallery.drop_space(NEW)  # noqa: E731
        for step in (first, *self.writes(gallery), last):
            step()
            versions.append(gallery.version())
            gallery.log({"event": "note"})
            gallery.delete(["nobody"])
            gallery.build_index(OLD)
            gallery.compact()
            gallery.compact(keep=timedelta(0))
            assert gallery.version() == versions[-1]
            assert open_gallery(place).version() == versions[-1]
        assert len(set(versions)) == len(versions)

    def writes(self, gallery: Gallery) -> list[Callable[[], Any]]:
        """Return writes of each kind into rows."""
        batch = only_batch(gallery, [OLD])
        first, revision = batch.ids[:1], batch.revisions[:1]
        changed, gone = (item for item in batch.ids if item not in first)
        return [
            lambda: gallery.write(embed(NEW, first), revision, origin="upgraded"),
            lambda: gallery.update(embed(OLD, [changed], 5)),
            lambda: gallery.delete([gone]),
            lambda: gallery.add(embed(OLD, [gone]), embed(SIDE, [gone])),
        ]

    def test_writing_a_vector_takes_at_least_its_own_bytes(self, gallery: Gallery) -> None:
        assert gallery.bytes_of_writing(NEW) >= 4 * NEW.dim
        filled(gallery)
        assert gallery.bytes_of_writing(NEW) >= 4 * NEW.dim

    # Answering queries

    @pytest.mark.parametrize("space", [OLD, COSINE, IP], ids=str)
    @pytest.mark.parametrize("exclude_self", [False, True])
    @pytest.mark.parametrize("k", [1, 7, 400])
    def test_search_gives_the_exact_ranking_with_ties_by_id(
        self, place: Where, space: Space, exclude_self: bool, k: int
    ) -> None:
        items = embed(space, numbered(300))
        vectors = items.vectors.copy()
        vectors[40:75] = vectors[39]  # many at the same place
        vectors[100:110] = vectors[99] * np.float32(2)
        items = Embeddings(items.ids, vectors, space)
        shuffled = items.select(np.random.default_rng(1).permutation(300))
        gallery = create_gallery(place, space, SIDE, items=[shuffled.select(range(200))])
        gallery.add(shuffled.select(range(200, 300)))
        gallery.add(embed(SIDE, ["elsewhere"]))
        gone = [7, *range(200, 240)]
        gallery.delete(items.ids[row] for row in gone)
        held = items.select([row for row in range(300) if row not in gone])
        queries = items.select([3, 45, 99, 120, 40])
        check_search(gallery, queries, held, k, exclude_self=exclude_self)

    @pytest.mark.parametrize("space", [OLD, IP], ids=str)
    def test_an_index_is_used_for_approximate_search_only(self, place: Where, space: Space) -> None:
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((1000, 4)) * rng.uniform(0.5, 2, (1000, 1))
        items = Embeddings(numbered(1000), vectors.astype(np.float32), space)
        gallery = create_gallery(place, space, items=[items])
        gallery.build_index(space)
        far = np.array([[9, 9, 9, 9]], np.float32)
        gallery.add(Embeddings(("late",), far, space))
        queries = Embeddings(("q", "r"), far * np.array([[1], [0.9]], np.float32), space)
        items = gallery.read(space)
        check_search(gallery, queries, items, 10, exclude_self=False)
        near = gallery.search(queries, 10, approximate=True)
        expected = retrieval.search(queries, items, 10, exclude_self=False)
        for row in (0, 1):
            assert near.ids_of(row)[0] == "late"
            assert len(set(near.ids_of(row)) & set(expected.ids_of(row))) >= 7
        np.testing.assert_array_equal(near.distances[:, 0], expected.distances[:, 0])

    @pytest.mark.parametrize("pair", PAIRS, ids=str)
    @pytest.mark.parametrize("exclude_self", [False, True])
    def test_a_fused_pair_is_searched_as_by_brute_force_over_both_spaces(
        self, place: Where, pair: Fusion, exclude_self: bool
    ) -> None:
        gallery, items = create_gallery(place, pair.old, pair.new), some_with_both(pair)
        add_all(gallery, items)
        gallery.serve(pair, query_model="new", old_query_model="old")
        gone = {*items.ids[45:50], items.ids[100]}
        gallery.delete(gone)
        held = items.select([item not in gone for item in items.ids])
        queries = items.align(numbered(300)[row] for row in (20, 45, 99, 120, 40))
        for k in (1, 7, 60, 400):
            check_search(gallery, queries, held, k, exclude_self=exclude_self)

    def test_what_is_served_is_a_pair_until_that_is_rolled_back(
        self, place: Where, gallery: Gallery
    ) -> None:
        filled(gallery).add_space(NEW)
        gallery.serve(PAIRS[0], query_model="new", old_query_model="old")
        again = open_gallery(place).view()
        served = again.record.serving
        assert (again.fusion, served.query_model) == (PAIRS[0], "new")
        assert served.old_query_model == "old"
        gallery.roll_back()
        assert (open_gallery(place).view().fusion, gallery.view().serving) == (None, OLD)

    def test_indexes_of_both_spaces_of_a_pair_are_used_for_approximate_search_only(
        self, place: Where
    ) -> None:
        pair, ids = PAIRS[0], numbered(1000)
        gallery = create_gallery(place, pair.old, pair.new)
        gallery.add(embed(pair.old, ids), embed(pair.new, ids))
        for space in (pair.old, pair.new):
            gallery.build_index(space)
        late = [np.full((1, space.dim), 9, np.float32) for space in (pair.old, pair.new)]
        near_both = [Embeddings(("late",), *one) for one in zip(late, (OLD, NEW), strict=True)]
        gallery.add(*near_both)
        gallery.add(Embeddings(("by old",), late[0], pair.old))
        gallery.add(Embeddings(("by new",), late[1], pair.new))
        gallery.serve(pair, query_model="new", old_query_model="old")
        asked = [
            Embeddings(("q", "by old"), np.repeat(one.vectors, 2, 0), one.space)
            for one in near_both
        ]
        queries = FusedEmbeddings(pair, *asked)
        items = FusedEmbeddings(pair, gallery.read(pair.old), gallery.read(pair.new))
        check_search(gallery, queries, items, 10, exclude_self=False)
        near = ask(gallery, queries, 10, approximate=True, exclude_self=True)
        expected = retrieval.search(queries, items, 10, exclude_self=True)
        assert {*near.ids_of(0)[:3]} == {"late", "by old", "by new"}
        assert {*near.ids_of(1)[:2]} == {"late", "by new"}
        assert (agreement(near, expected) >= 0.7).all()
        every = retrieval.search(queries, items, len(items), exclude_self=True)
        for row in (0, 1):
            exact = dict(zip(*every.nearest(row), strict=True))
            assert [exact[item] for item in near.ids_of(row)] == near.nearest(row)[1].tolist()

    def test_what_is_near_in_a_pair_comes_with_the_vectors_of_both_spaces(
        self, place: Where
    ) -> None:
        pair = PAIRS[0]
        gallery, items = create_gallery(place, pair.old, pair.new), some_with_both(pair)
        add_all(gallery, items)
        if not isinstance(gallery._store, PairStore):
            pytest.skip("the store does not say what is near in a pair; Onward reads it by ids")
        for space in (pair.old, pair.new):
            gallery.build_index(space)
        record, queries = gallery.view().record, items.align(items.ids[50:53])
        fields = record.field_of(pair.old), record.field_of(pair.new)
        near = gallery._store.near(fields, queries, 20)
        assert near is not None
        for found, held in ((near.items.old, items.old), (near.items.new, items.new)):
            assert set(found.ids) <= set(held.ids)
            np.testing.assert_array_equal(found.vectors, held.align(found.ids).vectors)
        ids = set(near.items.ids)
        assert ids & set(items.new.ids) == set(near.items.new.ids)
        assert ids & set(items.old.ids) == set(near.items.old.ids)
        for at, rows in enumerate(near.rows):
            assert len(set(rows)) == len(rows) >= 20
            assert queries.ids[at] in {near.items.ids[row] for row in rows}

    def test_rows_without_a_vector_in_the_space_do_not_come_back(self, gallery: Gallery) -> None:
        filled(gallery)
        gallery.add(embed(SIDE, ["side-only"]))
        ranking = gallery.search(embed(OLD, ["q", "a"]), 10)
        assert all(sorted(ranking.ids_of(row)) == ["a", "b", "c"] for row in (0, 1))
        own = gallery.search(embed(OLD, ["q", "a"]), 10, exclude_self=True)
        assert own.ids_of(1) == [item for item in ranking.ids_of(1) if item != "a"]
        assert own.rows[1, -1] == -1
        assert np.isinf(own.distances[1, -1])

    def test_an_empty_gallery_and_no_queries_give_empty_rankings(self, gallery: Gallery) -> None:
        assert gallery.search(embed(OLD, ["q"]), 3).ids_of(0) == []
        assert len(filled(gallery).search(embed(OLD, []), 3)) == 0

    @pytest.mark.parametrize("k", [10**12, 10**20])
    def test_asking_for_more_than_there_is_gives_all_there_is(
        self, gallery: Gallery, k: int
    ) -> None:
        ranking = filled(gallery).search(embed(OLD, ["q", "a"]), k)
        assert [sorted(ranking.ids_of(row)) for row in (0, 1)] == [["a", "b", "c"]] * 2

    # Number formats

    def test_side_information_in_a_smaller_format_is_read_as_it_was(
        self, place: Where, quantisation: Quantisation
    ) -> None:
        ids = numbered(5)
        side = quantisation.apply(embed(SIDE, ids))
        gallery = create_gallery(place, OLD, side.space, items=[embed(OLD, ids), side])
        late = quantisation.apply(embed(SIDE, ["late"]))
        gallery.add(embed(OLD, ["late"]), late)
        again = open_gallery(place)
        assert again.spaces() == (OLD, side.space)
        assert again.bytes_of_writing(side.space) >= side.space.bytes
        np.testing.assert_array_equal(again.read(side.space, ids).vectors, side.vectors)
        np.testing.assert_array_equal(again.read(side.space, ["late"]).vectors, late.vectors)
        batch = only_batch(again, [OLD, side.space])
        assert {vectors.dtype for vectors in batch.vectors.values()} == {np.dtype(np.float32)}
        changed = quantisation.apply(embed(SIDE, ids[:2], seed=4))
        gallery.update(embed(OLD, ids[:2], seed=4), changed)
        np.testing.assert_array_equal(again.read(side.space, ids[:2]).vectors, changed.vectors)

    def test_a_space_of_a_smaller_format_is_added_later_and_written_to(
        self, gallery: Gallery, quantisation: Quantisation
    ) -> None:
        side = quantisation.apply(embed(SIDE, ("a", "b", "c")))
        filled(gallery).add_space(side.space)
        assert gallery.count([side.space]) == 0
        batch = only_batch(gallery, [OLD], without=[side.space])
        given = side.align(batch.ids)
        assert gallery.write(given, batch.revisions, origin="embedded") == 3
        assert gallery.write(given, batch.revisions, origin="embedded") == 0
        np.testing.assert_array_equal(gallery.read(side.space).vectors, side.vectors)
