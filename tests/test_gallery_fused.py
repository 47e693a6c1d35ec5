"""A gallery that answers from a fused pair: as brute force does, in both stores, and refusals."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.errors import ConfigurationError, EmbeddingsError, GalleryError, SpaceMismatchError
from onward.evaluation import retrieval
from onward.fusion import FusedEmbeddings, Fusion, Scale, fuse
from onward.gallery import create_gallery, fused, open_gallery
from onward.gallery.store import PairStore
from onward.spaces import Embeddings, Space

NAMES = (f"memory:fused-{number}" for number in itertools.count())
ROWS = 400
FEW = {
    "max_examples": 15,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
METRICS = st.sampled_from(["l2", "cosine", "ip"])


def make_pair(old="l2", new="l2", weight=0.5):
    spaces = Space("old@1", 4, old), Space("new@2", 6, new)
    return Fusion(*spaces, weight, Scale(4.0, 0.5), Scale(2.0, 1.0))


def make(space, ids, rng, kind="plain"):
    vectors = rng.normal(size=(len(ids), space.dim)).astype(np.float32)
    if kind == "grid":  # many at the same place
        vectors = np.round(vectors)
    if kind == "equal":
        vectors[:] = 1
    if kind == "one far":  # what is nearest in one space is farthest in the other
        vectors *= np.linspace(-1, 1, len(ids), dtype=np.float32)[:, None] * 100
    vectors[~vectors.any(axis=1)] = 1
    return Embeddings(tuple(ids), vectors, space)


def filled(url, pair, seed=0, *, kinds=("plain", "plain"), alone=(0, 0)):
    """Return a gallery with both vectors of its items but of some, and these vectors."""
    rng = np.random.default_rng(seed)
    ids = [f"i{n:03}" for n in rng.permutation(ROWS)]
    old = make(pair.old, ids[: ROWS - alone[1]], rng, kinds[0])
    new = make(pair.new, ids[alone[0] :], rng, kinds[1])
    gallery = create_gallery(url, pair.old, pair.new)
    both = frozenset(old.ids) & frozenset(new.ids)
    parts = [([item in both for item in one.ids], one) for one in (old, new)]
    gallery.add(*(one.select(rows).align(sorted(both)) for rows, one in parts))
    for rows, one in parts:
        rest = one.select([not there for there in rows])
        if len(rest):
            gallery.add(rest)
    return gallery, FusedEmbeddings(pair, old, new)


def asked(pair, seed=1, count=5, of=None):
    """Return queries by both models; of some items, if these are given."""
    rng = np.random.default_rng(seed)
    if of is not None:
        both = [item for item in of.old.ids if item in set(of.new.ids)][:count]
        return of.align(both)
    ids = [f"q{n}" for n in range(count)]
    return fuse(pair, make(pair.old, ids, rng), make(pair.new, ids, rng), "queries")


def search(gallery, queries, k, **options):
    return gallery.search(queries.new, k, queries_old=queries.old, **options)


def answers(ranking):
    return [ranking.nearest(row)[0] for row in range(len(ranking))]


def fill_old(gallery, old, new):
    (batch,) = open_gallery(gallery.url).scan([new.space])
    gallery.write(old.align(batch.ids), batch.revisions, origin="embedded")


def clear_old(gallery, old, new):
    gallery.update(new)


@pytest.fixture(params=["memory", "lancedb"])
def url(request, tmp_path):
    return next(NAMES) if request.param == "memory" else str(tmp_path / "g.lance")


@pytest.mark.slow
@settings(**FEW)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(
        st.tuples(METRICS, METRICS),
        st.tuples(*[st.sampled_from(["plain", "grid", "equal", "one far"])] * 2),
        st.sampled_from([(0, 0), (30, 0), (0, 30), (50, 50)]),
    ),
    wanted=st.sampled_from([(1, False), (10, True), (60, False), (ROWS + 5, True)]),
)
def test_an_exact_search_is_what_brute_force_finds(tmp_path_factory, seed, shape, wanted):
    (metrics, kinds, alone), (k, exclude_self) = shape, wanted
    pair = make_pair(*metrics, 0.3)
    places = next(NAMES), str(tmp_path_factory.mktemp("fused") / "g.lance")
    for place in places:
        gallery, held = filled(place, pair, seed, kinds=kinds, alone=alone)
        gallery.serve(pair, query_model="b", old_query_model="a")
        queries = asked(pair, of=held if exclude_self else None)
        found = search(gallery, queries, k, exclude_self=exclude_self)
        brute = retrieval.search(queries, held, k, exclude_self=exclude_self)
        assert answers(found) == answers(brute)
        for row in range(len(found)):
            np.testing.assert_array_equal(found.nearest(row)[1], brute.nearest(row)[1])


@pytest.mark.parametrize("tries", [1, 3, 9])
def test_few_candidates_are_enough_or_all_is_compared(url, monkeypatch, tries):
    pair = make_pair(weight=0.5)
    for name, value in {"LEAST_CANDIDATES": 2, "CANDIDATES": 1, "TRIES": tries}.items():
        monkeypatch.setattr(fused, name, value)
    compared, everything = [], fused.PairSearch._everything
    monkeypatch.setattr(
        fused.PairSearch, "_everything", lambda one: compared.append(1) or everything(one)
    )
    gallery, held = filled(url, pair, kinds=("plain", "one far"))
    gallery.serve(pair, query_model=None)
    queries = asked(pair, count=20)
    found = search(gallery, queries, 10)
    assert answers(found) == answers(retrieval.search(queries, held, 10, exclude_self=False))
    assert bool(compared) == (tries == 1)  # ten candidates of each space prove too little


@pytest.mark.parametrize(("change", "at"), [(fill_old, 2), (fill_old, 3), (clear_old, 4)])
def test_rows_that_change_while_all_is_compared_are_found(url, monkeypatch, change, at):
    monkeypatch.setattr(fused, "TRIES", 0)
    pair = make_pair()
    gallery = create_gallery(url, pair.old, pair.new)
    old, new = (make(one, ("a", "b"), np.random.default_rng(0)) for one in (pair.old, pair.new))
    gallery.add(new, *([] if change is fill_old else [old]))
    gallery.serve(pair, query_model=None)
    scan, scans = gallery._store.scan, itertools.count(1)

    def disturbed(wanted):
        if next(scans) == at:
            change(gallery, old, new)
        return scan(wanted)

    monkeypatch.setattr(gallery._store, "scan", disturbed)
    found = search(gallery, asked(pair), 5)
    assert [sorted(ids) for ids in answers(found)] == [["a", "b"]] * 5
    assert next(scans) > at


def test_a_row_that_gets_its_old_vector_between_the_two_spaces_is_found(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_CANDIDATES", 2)
    monkeypatch.setattr(fused, "CANDIDATES", 2)
    old, new = Space("old@1", 1), Space("new@2", 1)
    pair = Fusion(old, new, 0.5, Scale(1.0, 0.0), Scale(1.0, 0.0))

    def at(space, **places):
        vectors = np.array([[one] for one in places.values()], np.float32)
        return Embeddings(tuple(places), vectors, space)

    gallery = create_gallery(next(NAMES), old, new)
    gallery.add(at(old, near=4, then=4.1, far=9), at(new, near=1, then=1.1, far=9))
    gallery.add(at(new, alone=2))  # fused at 4, and at 2 once it has its old vector; near at 8.5
    gallery.serve(pair, query_model=None)
    search_one = gallery._store.search

    def disturbed(of, *given, **options):
        found = search_one(of, *given, **options)
        if of.space == old:
            for batch in gallery.scan([new], without=[old]):
                gallery.write(at(old, alone=0), batch.revisions, origin="embedded")
        return found

    monkeypatch.setattr(gallery._store, "search", disturbed)
    found = gallery.search(at(new, q=0), 1, queries_old=at(old, q=0))
    assert found.ids_of(0) == ["alone"]


@pytest.mark.parametrize("indexed", [(), ("old",), ("old", "new")], ids=str)
@pytest.mark.parametrize("k", [5, ROWS + 5])
def test_an_approximate_search_finds_nearly_all_with_any_indexes(url, indexed, k):
    pair = make_pair("cosine", "ip", 0.3)
    gallery, held = filled(url, pair, alone=(20, 20))
    for name in indexed:
        gallery.build_index(getattr(pair, name))
    gallery.serve(pair, query_model=None)
    queries = asked(pair, of=held)
    found = search(gallery, queries, k, approximate=True, exclude_self=True)
    exact = retrieval.search(queries, held, ROWS, exclude_self=True)
    wanted = exact.head(k)
    assert retrieval.agreement(found, wanted).mean() >= 0.8  # of spaces that do not agree at all
    for row in range(len(found)):
        distances = dict(zip(*exact.nearest(row), strict=True))
        ids, given_distances = found.nearest(row)
        assert len(ids) == min(k, ROWS - 1)
        assert [distances[item] for item in ids] == given_distances.tolist()


def test_two_indexes_answer_without_reading_rows_by_their_ids(tmp_path, monkeypatch):
    pair = make_pair("cosine", "ip", 0.3)
    gallery, held = filled(tmp_path / "g.lance", pair)
    gallery.build_index(pair.old)
    gallery.build_index(pair.new)
    gallery.serve(pair, query_model=None)

    def refused(scan):
        raise AssertionError("rows were read by their ids")

    monkeypatch.setattr(gallery._store, "scan", refused)
    queries = asked(pair, of=held)
    found = search(gallery, queries, 5, approximate=True)
    wanted = retrieval.search(queries, held, 5, exclude_self=False)
    assert retrieval.agreement(found, wanted).mean() >= 0.8


def test_a_store_that_does_not_say_what_is_near_in_a_pair_is_searched_too(monkeypatch):
    pair = make_pair("cosine", "ip", 0.3)
    gallery, held = filled(next(NAMES), pair, alone=(20, 20))
    gallery.serve(pair, query_model=None)
    monkeypatch.delattr(type(gallery._store), "near")
    assert not isinstance(gallery._store, PairStore)
    queries = asked(pair, of=held)
    found = search(gallery, queries, 5, approximate=True)
    wanted = retrieval.search(queries, held, 5, exclude_self=False)
    assert retrieval.agreement(found, wanted).mean() >= 0.8


def test_what_is_served_is_recorded_and_rolled_back_as_one_thing(url):
    pair = make_pair()
    gallery, held = filled(url, pair)
    queries = asked(pair)
    gallery.serve(pair, query_model="b", old_query_model="a")
    now = open_gallery(url).view()
    assert (now.fusion, now.serving, now.previous) == (pair, pair.new, pair.old)
    assert (now.query_model, now.record.serving.old_query_model) == ("b", "a")
    assert now.to_json()["old_query_model"] == "a"
    assert "serving, fused" in str(gallery.describe())
    assert "queries embedded by model b and a" in str(gallery.describe())
    gallery.roll_back()
    now = gallery.view()
    assert (now.fusion, now.serving, now.previous) == (None, pair.old, None)
    assert answers(gallery.search(queries.old, 3)) == answers(
        retrieval.search(queries.old, held.old, 3, exclude_self=False)
    )


def test_from_a_pair_to_its_new_space_and_back_rolling_back_still_undoes_the_upgrade(url):
    pair = make_pair()
    gallery, _ = filled(url, pair)
    gallery.serve(pair.new, query_model="b")
    gallery.serve(pair, query_model="b", old_query_model="a")
    assert gallery.view().previous == pair.old
    gallery.serve(pair.new, query_model="b")
    assert (gallery.view().fusion, gallery.view().previous) == (None, pair.old)


def test_neither_space_of_a_pair_that_answers_or_may_be_returned_to_can_be_dropped(url):
    pair, third = make_pair(), Space("third@3", 2)
    gallery, _ = filled(url, pair)
    gallery.serve(pair, query_model=None)
    for space in (pair.old, pair.new):
        with pytest.raises(GalleryError, match="answers the queries"):
            gallery.drop_space(space)
    gallery.add_space(third)
    gallery.serve(third, query_model=None)
    for space in (pair.old, pair.new):
        with pytest.raises(GalleryError, match="rolling back gallery"):
            gallery.drop_space(space)


def test_a_record_says_a_newer_format_only_where_a_pair_is_served(url):
    pair = make_pair()
    gallery, _ = filled(url, pair)
    assert gallery.view().record.to_json()["format"] == 2
    gallery.serve(pair, query_model=None)
    assert gallery.view().record.to_json()["format"] == 3


def test_a_pair_that_does_not_answer_yet_can_be_looked_into(url):
    pair = make_pair()
    gallery, held = filled(url, pair)
    queries = asked(pair)
    found = search(gallery, queries, 5, fusion=pair, allow_unserved=True)
    assert answers(found) == answers(retrieval.search(queries, held, 5, exclude_self=False))
    with pytest.raises(
        SpaceMismatchError, match=r"answers from old@1 .*arguments fusion and allow_unserved"
    ):
        search(gallery, queries, 5, fusion=pair)


def test_a_pair_is_asked_by_both_models_and_a_space_by_one(url):
    pair = make_pair()
    gallery, _ = filled(url, pair)
    queries = asked(pair)
    with pytest.raises(SpaceMismatchError, match="queries were given by two models"):
        search(gallery, queries, 5)
    gallery.serve(pair, query_model=None)
    with pytest.raises(SpaceMismatchError, match=r"in new@2 .*, the old ones as queries_old"):
        gallery.search(queries.new, 5)
    with pytest.raises(SpaceMismatchError, match=r"in old@1 .* alone, .* by the model of new@2"):
        gallery.search(queries.old, 5)
    with pytest.raises(SpaceMismatchError, match="give the old ones in old@1"):
        gallery.search(queries.old, 5, queries_old=queries.new)
    with pytest.raises(EmbeddingsError, match="embed the same queries by both models"):
        gallery.search(queries.new, 5, queries_old=queries.old.select([0]))
    with pytest.raises(SpaceMismatchError, match="queries_old="):
        gallery.search(queries.new, 5, fusion=pair)
    assert answers(gallery.search(queries.new, 5, allow_unserved=True))


def test_a_pair_with_a_space_of_small_numbers_cannot_answer(url):
    side = Space("side@1", 4, "l2", "int8")
    pair = Fusion(side, Space("new@2", 6), 0.5, Scale(1.0, 0.5), Scale(1.0, 0.5))
    gallery = create_gallery(url, side, pair.new, serving=pair.new)
    with pytest.raises(GalleryError, match="cannot answer queries"):
        gallery.serve(pair, query_model=None)


def test_a_pair_of_which_the_gallery_lacks_a_space_cannot_answer(url):
    pair = make_pair()
    gallery = create_gallery(url, pair.old)
    with pytest.raises(GalleryError, match="has no space new@2"):
        gallery.serve(pair, query_model=None)


def test_an_empty_gallery_answers_with_nothing(url):
    pair = make_pair()
    gallery = create_gallery(url, pair.old, pair.new)
    gallery.serve(pair, query_model=None)
    assert answers(search(gallery, asked(pair), 3)) == [()] * 5


def test_a_scale_that_is_not_a_number_is_refused():
    with pytest.raises(ConfigurationError, match="nothing can be fused"):
        Scale(1.0, float("nan"))
