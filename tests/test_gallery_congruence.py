"""Two stores, one answer: what a search in a directory gives is what it gives in memory.

The vectors are such as break arithmetic in float32: squares that overflow or vanish, in all rows or
in some, for what is stored and for what is asked; many at the same place; and rows without any.
"""

import itertools
import tempfile
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.errors import EvaluationError, GalleryError
from onward.gallery import checks, create_gallery, open_gallery
from onward.spaces import Embeddings, Space

NAMES = (f"memory:congruence-{number}" for number in itertools.count())
OTHER = Space("other@1", 1)
SCALES = (1.0, 1e-3, 1e4, 1e19, 1e20, 1e37, 1e-19, 1e-23, 1e-38, 1e-44)
BIG = 300
FEW = {
    "max_examples": 40,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


@pytest.fixture
def as_before(monkeypatch):
    """Galleries take vectors of any length, as they did before these were refused."""
    monkeypatch.setattr(checks, "has_length", lambda vectors, _: np.ones(len(vectors), np.bool_))


def named(rows, space, prefix="i"):
    vectors = np.asarray(rows, np.float32).reshape(-1, space.dim)
    return Embeddings(tuple(f"{prefix}{row:04}" for row in range(len(vectors))), vectors, space)


def pair(directory, items, without=0):
    """Return a gallery in memory and one in a directory that hold the same items."""
    url = Path(directory) / "g.lance"
    galleries = [create_gallery(one, items.space, OTHER) for one in (next(NAMES), url)]
    ids = tuple(f"none{row}" for row in range(without))
    for gallery in galleries:
        gallery.add(items)
        gallery.add(Embeddings(ids, np.ones((without, 1), np.float32), OTHER))
    return galleries


def answers(ranking):
    """Return the ids and the distances of each query, without padding."""
    found = [tuple(ranking.ids_of(row)) for row in range(len(ranking))]
    return [(ids, tuple(ranking.distances[row][: len(ids)])) for row, ids in enumerate(found)]


def agree(galleries, queries, k, *, exclude_self=False):
    memory, lance = (one.search(queries, k, exclude_self=exclude_self) for one in galleries)
    assert answers(lance) == answers(memory)
    return memory


@st.composite
def nasty(draw, space, most):
    """Draw vectors of small numbers, each times one of the scales."""
    count = draw(st.integers(1, most))
    numbers = st.lists(st.integers(-3, 3), min_size=space.dim, max_size=space.dim)
    numbers = numbers.filter(any) if space.metric == "cosine" else numbers
    some = draw(st.lists(st.sampled_from(SCALES), min_size=1, max_size=3))
    rows = [draw(numbers) for _ in range(count)]
    scales = [draw(st.sampled_from(some)) for _ in range(count)]
    return np.array(rows, np.float64) * np.array(scales)[:, None]


@pytest.mark.slow
@settings(**FEW)
@given(data=st.data(), metric=st.sampled_from(["cosine", "l2", "ip"]), dim=st.integers(1, 9))
def test_a_search_in_a_directory_gives_what_it_gives_in_memory(as_before, data, metric, dim):
    space = Space("s", dim, metric)
    items = named(data.draw(nasty(space, 40)), space)
    prefix = data.draw(st.sampled_from(["i", "q"]))
    queries = named(data.draw(nasty(space, 6)), space, prefix)
    k = data.draw(st.sampled_from([1, 2, 9, len(items), len(items) + 1, 2**40]))
    with tempfile.TemporaryDirectory() as directory:
        galleries = pair(directory, items, without=data.draw(st.sampled_from([0, 12])))
        agree(galleries, queries, k, exclude_self=data.draw(st.booleans()))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("scale", [1e19, 1e20, 1e37, 1e-19, 1e-23, 1e-38, 1e-44])
@pytest.mark.parametrize("share", [1, 2])
def test_long_and_short_vectors_are_found(tmp_path, as_before, metric, scale, share):
    """All of them, or every second one beside ordinary ones; by queries of either length."""
    rng, space = np.random.default_rng(0), Space("s", 8, metric)
    rows = rng.integers(-9, 10, (60, 8)) + 0.5
    rows[::share] *= scale
    galleries = pair(tmp_path, named(rows, space), without=3)
    asked = rng.integers(-9, 10, (8, 8)) + 0.5
    asked[::2] *= scale
    for k in (1, 30, 60, 61):
        found = agree(galleries, named(asked, space, "q"), k)
        assert [len(ids) for ids, _ in answers(found)] == [min(k, 60)] * 8
    own = named(rows[:8], space)
    found = agree(galleries, own, 60, exclude_self=True)
    assert [len(ids) for ids, _ in answers(found)] == [59] * 8


def test_more_long_vectors_than_are_asked_for_hide_none(tmp_path, as_before):
    """Lance has enough candidates without them, so that their number says nothing."""
    space = Space("s", 2, "cosine")
    angles = np.linspace(0, np.pi, BIG)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows[5::10] *= 1e30
    galleries = pair(tmp_path, named(rows, space))
    found = agree(galleries, named(rows[5::10] / 1e30, space, "q"), 1)
    assert [ids[0] for ids, _ in answers(found)] == [f"i{row:04}" for row in range(5, BIG, 10)]


def test_vectors_whose_squared_distances_vanish_keep_their_order(tmp_path):
    space = Space("s", 1)
    rows = np.arange(1, BIG + 1) * 1e-24
    galleries = pair(tmp_path, named(rows, space))
    found = agree(galleries, named([[0.0], [1e-22]], space, "q"), 3)
    assert answers(found)[0][0] == ("i0000", "i0001", "i0002")
    rounded = np.sqrt(np.linspace(1.4, 0.51, BIG)) * 2.0**-74.5  # all squares are as one there
    galleries = pair(tmp_path / "rounded", named(rounded, space))
    found = agree(galleries, named([[0.0]], space, "q"), 1)
    assert answers(found)[0][0] == ("i0299",)


def test_many_at_almost_the_same_distance_keep_their_order(tmp_path):
    space = Space("s", 1)
    rows = np.linspace(1, 1 + 1e-5, BIG)
    galleries = pair(tmp_path, named(rows, space))
    near = agree(galleries, named(1 + np.arange(5) * 1e-7, space, "q"), 7)
    assert [len(ids) for ids, _ in answers(near)] == [7] * 5


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("k", [1, 40, 299, 300, 301])
def test_an_index_never_makes_an_answer_short(tmp_path, metric, k):
    rng, space = np.random.default_rng(0), Space("s", 4, metric)
    items = named(rng.normal(size=(BIG, 4)), space)
    galleries = pair(tmp_path, items, without=5)
    for gallery in galleries:
        gallery.build_index(space)
    for exclude_self in (False, True):
        queries = items.select(range(7))
        options = {"exclude_self": exclude_self, "approximate": True}
        memory, lance = (one.search(queries, k, **options) for one in galleries)
        assert [len(ids) for ids, _ in answers(lance)] == [len(ids) for ids, _ in answers(memory)]
        exact = dict(zip(*answers(galleries[0].search(queries, BIG))[0], strict=True))
        for ids, distances in answers(lance)[:1]:
            assert distances == tuple(exact[item] for item in ids)


def test_an_index_over_vectors_of_earlier_versions_answers_with_all_or_is_refused(
    tmp_path, monkeypatch
):
    space = Space("s", 2, "cosine")
    with monkeypatch.context() as patch:
        patch.setattr(checks, "has_length", lambda vectors, _: np.ones(len(vectors), np.bool_))
        rows = np.ones((BIG, 2))
        rows[::2] *= 1e-23
        memory, lance = pair(tmp_path, named(rows, space))
    with pytest.raises(GalleryError, match=r"no index of s .* item 'i0000' is too long or too sh"):
        lance.build_index(space)
    from lancedb.index import IvfSq

    lance._store._items.create_index("s", config=IvfSq(distance_type="cosine"))
    queries = named([[1.0, 0.0]], space, "q")
    found = open_gallery(tmp_path / "g.lance").search(queries, 200, approximate=True)
    assert answers(found) == answers(memory.search(queries, 200))


REFUSED = {
    "too long": (1e19, r"item 'i0001' \(row 1\) has the length 1\.4e\+19, and 1 of 3 vectors"),
    "too short": (1e-17, r"item 'i0001' \(row 1\) has the length 1\.4e-17, and 1 of 3 vectors"),
    "nearly nothing": (1e-45, "for the cosine a gallery takes lengths from 9e-16 to 1e.18"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("verb", ["create", "add", "update", "write"])
def test_vectors_of_no_length_for_the_cosine_are_refused_by_every_store(url, what, verb):
    scale, words = REFUSED[what]
    space, good = Space("s", 2, "cosine"), np.ones((3, 2))
    bad = named(good * [[1], [scale], [1]], space)
    if verb == "create":
        with pytest.raises(GalleryError, match=words):
            create_gallery(url, space, items=[bad])
    gallery = create_gallery(url, space, OTHER)
    if verb != "add":
        gallery.add(named(good[:, :1], OTHER), *([named(good, space)] * (verb == "update")))
    verbs = {
        "create": lambda: gallery.add(bad),
        "add": lambda: gallery.add(bad),
        "update": lambda: gallery.update(bad),
        "write": lambda: gallery.write(
            bad, next(gallery.scan([OTHER])).revisions, origin="upgraded"
        ),
    }
    with pytest.raises(GalleryError, match=rf"{words}.*|.*Divide each by its length") as caught:
        verbs[verb]()
    assert "Divide each by its length" in str(caught.value)
    assert gallery.count([space]) == 3 * (verb == "update")


def test_long_vectors_of_other_metrics_are_taken_as_they_are(url):
    for metric in ("l2", "ip"):
        space = Space(metric, 2, metric)
        items = named([[3e38, -3e38], [1e-45, 0], [0, 0]], space)
        gallery = create_gallery(f"{url}{metric}", space, items=[items])
        np.testing.assert_array_equal(gallery.read(space).vectors, items.vectors)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_index_that_cannot_be_is_refused_with_the_item(tmp_path, metric, as_before):
    space = Space("s", 2, metric)
    rows = np.ones((BIG, 2))
    rows[7] = 1e30
    gallery = create_gallery(tmp_path / "g.lance", space, items=[named(rows, space)])
    with pytest.raises(GalleryError, match=r"no index .* 'i0007' .*Search is exact without one"):
        gallery.build_index(space)
    gallery.delete(["i0007"])
    gallery.build_index(space)


def test_rows_that_another_program_has_added_without_their_origin_are_not_found(tmp_path):
    import lancedb
    import pyarrow as pa

    space = Space("s", 2)
    items = named(np.eye(2), space)
    gallery = create_gallery(tmp_path / "g.lance", space, items=[items])
    table = lancedb.connect(tmp_path / "g.lance").open_table("items")
    row = table.to_arrow().slice(0, 1)
    strange = {"id": pa.array(["strange"]), "s__origin": pa.nulls(1, pa.string())}
    table.add(pa.table({**{name: row[name] for name in row.schema.names}, **strange}))
    assert gallery.ids([space]) == items.ids
    assert answers(gallery.search(items, 3))[0][0] == items.ids


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", None, np.float32(2)])
def test_a_number_of_items_that_is_none_is_refused_by_every_store(url, monkeypatch, k):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    space = Space("s", 2)
    gallery = create_gallery(url, space, items=[named(np.eye(2), space)])
    with pytest.raises(EvaluationError, match="not a whole number from 1 up"):
        gallery.search(named(np.eye(2), space, "q"), k)


@pytest.mark.parametrize("k", [3, 2**31, 2**63, 10**30, np.int64(7)])
def test_a_number_above_that_of_all_items_gives_all(url, k):
    space = Space("s", 2)
    gallery = create_gallery(url, space, items=[named(np.eye(2), space)])
    assert gallery.search(named(np.eye(2), space, "q"), k).rows.shape == (2, 2)
    assert gallery.search(named(np.eye(2), space), k, exclude_self=True).rows.shape == (2, 1)


@pytest.mark.parametrize("rows", [0, -1, 1.5, True, "3"])
def test_batches_of_no_number_of_rows_are_refused_by_every_store(url, monkeypatch, rows):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    gallery = create_gallery(url, Space("s", 2))
    with pytest.raises(GalleryError, match=r"batches of .* rows cannot be made; ask"):
        gallery.scan([], batch_rows=rows)
