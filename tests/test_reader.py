"""What answers an application's queries while that changes, and what a shadow keeps of them."""

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onward.errors import ConfigurationError, EmbeddingsError, GalleryError, SpaceMismatchError
from onward.evaluation.retrieval import search
from onward.fusion import FusedEmbeddings, Fusion, Scale
from onward.gallery import Reader, Shadow, create_gallery, reader
from onward.spaces import Embeddings, Space

OLD, NEW = Space("old@1", 3), Space("new@2", 4)
PAIR = Fusion(OLD, NEW, 0.5, Scale(4.0, 0.5), Scale(5.0, 0.5))
ITEMS = tuple(f"i{row:02}" for row in range(40))
ASKED = tuple(f"q{row:02}" for row in range(12))
NAMES = (f"memory:read-{number}" for number in itertools.count())


def embed(space, ids):
    rng = np.random.default_rng(space.dim)
    every = Embeddings(
        ITEMS + ASKED,
        rng.normal(size=(len(ITEMS) + len(ASKED), space.dim)).astype(np.float32),
        space,
    )
    return every.align(ids)


class Model:
    """A model whose queries are ids; it counts its calls, and does something at each."""

    def __init__(self, space, meanwhile=lambda: None):
        self.space, self.meanwhile, self.calls = space, meanwhile, 0

    def __call__(self, queries):
        self.calls += 1
        self.meanwhile()
        return embed(self.space, queries)


def models(**meanwhile):
    return {one.name: Model(one, meanwhile.get(one.name[:3], lambda: None)) for one in (OLD, NEW)}


def make_gallery(url=None):
    items = [embed(OLD, ITEMS), embed(NEW, ITEMS)]
    return create_gallery(url or next(NAMES), OLD, NEW, query_model="weights-1", items=items)


def serve(gallery, what):
    old = None if what in (OLD, NEW) else "weights-1"
    named = "weights-1" if what == OLD else "weights-2"
    return gallery.serve(what, query_model=named, old_query_model=old)


def expected(what, ids=ASKED, k=5):
    """What brute force finds."""
    if isinstance(what, Space):
        return search(embed(what, ids), embed(what, ITEMS), k, exclude_self=False)
    asked, items = (
        FusedEmbeddings(what, embed(what.old, each), embed(what.new, each)) for each in (ids, ITEMS)
    )
    return search(asked, items, k, exclude_self=False)


def ids_of(ranking):
    return [ranking.ids_of(row) for row in range(len(ranking))]


def test_answers_come_from_what_serves_by_the_models_that_it_needs(url):
    gallery, given = make_gallery(url), models()
    asks = Reader(gallery, given)
    calls = []
    for what in (OLD, PAIR, NEW):
        serve(gallery, what)
        answered = asks.search(ASKED, 5)
        assert ids_of(answered.ranking) == ids_of(expected(what))
        assert answered.served == gallery.view().record.serving
        calls.append(tuple(given[one.name].calls for one in (OLD, NEW)))
    assert calls == [(1, 0), (2, 1), (2, 2)]
    gallery.roll_back()
    assert asks.search(list(ASKED), 5).served.space == OLD


def test_a_model_is_given_for_a_space_or_for_its_name(url):
    gallery = make_gallery(url)
    assert Reader(gallery, {OLD: Model(OLD)}).search(ASKED, 1).ranking.ids_of(0)


@pytest.mark.parametrize("options", [{"exclude_self": True}, {"approximate": True}])
def test_the_options_are_those_of_a_search(options):
    gallery = make_gallery()
    serve(gallery, PAIR)
    answered = Reader(gallery, models()).search(ITEMS[:4], 3, **options)
    first = [answered.ranking.ids_of(row)[0] for row in range(4)]
    assert (first == list(ITEMS[:4])) == ("exclude_self" not in options)


OTHER = Fusion(OLD, NEW, 0.2, PAIR.old_scale, PAIR.new_scale)


@pytest.mark.parametrize(
    ("before", "after"),
    [(OLD, NEW), (OLD, PAIR), (PAIR, NEW), (PAIR, OTHER), (NEW, PAIR), (PAIR, OLD)],
    ids=str,
)
def test_what_changes_while_queries_are_embedded_is_asked_once_more(url, before, after):
    gallery = make_gallery(url)
    serve(gallery, before)
    first = "old" if before == OLD else "new"
    given = models(**{first: lambda: serve(gallery, after)})
    answered = Reader(gallery, given).search(ASKED, 5)
    assert ids_of(answered.ranking) == ids_of(expected(after))
    assert (answered.served.space, answered.served.fusion) == (
        (after, None) if isinstance(after, Space) else (NEW, after)
    )


def test_a_space_that_is_dropped_meanwhile_is_not_searched(url):
    gallery = make_gallery(url)

    def complete():
        serve(gallery, NEW)
        gallery.complete(NEW, [OLD], event={"event": "complete"})

    answered = Reader(gallery, models(old=complete)).search(ASKED, 5)
    assert ids_of(answered.ranking) == ids_of(expected(NEW))


def test_what_changes_twice_is_an_error(url):
    gallery = make_gallery(url)
    given = models(old=lambda: serve(gallery, NEW), new=lambda: serve(gallery, OLD))
    with pytest.raises(SpaceMismatchError, match=r"in new@2 .* answers from old@1"):
        Reader(gallery, given).search(ASKED, 5)
    assert [one.calls for one in given.values()] == [1, 1]


def test_an_error_that_another_try_does_not_put_right_is_not_tried_again():
    gallery = make_gallery()
    wrong = Model(NEW)
    with pytest.raises(SpaceMismatchError, match=r"model for old@1 .* has embedded .* in new@2"):
        Reader(gallery, {OLD: wrong}).search(ASKED, 5)
    assert wrong.calls == 1


def test_a_model_that_is_missing_is_named_by_space_and_fingerprint():
    gallery, given = make_gallery(), {NEW: Model(NEW)}
    with pytest.raises(ConfigurationError) as refused:
        Reader(gallery, given).search(ASKED, 5)
    assert str(refused.value) == (
        f"queries of gallery {gallery.url} are to be embedded in old@1 (3, l2), by the model "
        "weights-1, but the reader has models for new@2 only; give it one under the name 'old@1'"
    )
    serve(gallery, PAIR)
    with pytest.raises(ConfigurationError, match=r"in old@1 \(3, l2\), by the model weights-1"):
        Reader(gallery, given).search(ASKED, 5)
    with pytest.raises(
        ConfigurationError, match="weights-1, but the reader has models for no space"
    ):
        Reader(gallery, {}).search(ASKED, 5)
    assert given[NEW].calls == 0


def test_a_model_that_leaves_queries_out_is_refused():
    gallery = make_gallery()
    some = {OLD: lambda queries: embed(OLD, queries[1:])}
    with pytest.raises(EmbeddingsError, match="has made 11 embeddings of 12 queries; let it give"):
        Reader(gallery, some).search(ASKED, 5)


@pytest.mark.slow
def test_many_threads_get_whole_answers_while_what_serves_changes(url):
    gallery = make_gallery(url)
    asks, right = Reader(gallery, models()), {what: ids_of(expected(what)) for what in (OLD, NEW)}
    right[PAIR] = ids_of(expected(PAIR))
    ended = threading.Event()

    def change():
        for what in itertools.islice(itertools.cycle([PAIR, NEW, OLD]), 30):
            serve(gallery, what)
        ended.set()

    def ask():
        seen = []
        while not ended.is_set():
            try:
                answered = asks.search(ASKED, 5)
            except SpaceMismatchError:  # changed twice
                continue
            served = answered.served
            seen.append(ids_of(answered.ranking) == right[served.fusion or served.space])
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        pool.submit(change).result()
        seen = [one for each in asking for one in each.result()]
    assert seen
    assert all(seen)


def test_a_shadow_counts_what_would_change(url):
    gallery = make_gallery(url)
    asks = Reader(gallery, models())
    shadow = Shadow(asks, PAIR, share=1.0, k=5)
    for start in range(0, len(ASKED), 4):
        queries = np.array(ASKED[start : start + 4])  # an array is asked as well as a list
        shadow.ask(queries, asks.search(queries, 8))
    seen, pairs = shadow.result(), zip(*map(ids_of, map(expected, (OLD, PAIR))), strict=True)
    alike = [(len(set(one) & set(other)) / 5, one[0] != other[0]) for one, other in pairs]
    overlap, flips = np.mean(alike, axis=0)
    assert 0 < overlap < 1
    assert 0 < flips < 1
    assert (seen.overlap.estimate, seen.flips.estimate) == pytest.approx((overlap, flips))
    assert seen.overlap.low < overlap < seen.overlap.high
    assert (seen.live, seen.compared, seen.failed, seen.elsewhere) == (12, 12, 0, 0)
    assert gallery.view().serving == OLD


def test_a_shadow_of_what_finds_the_same_changes_nothing():
    gallery = make_gallery()
    again = Space("again@3", 3)
    gallery.add_space(again)
    for batch in gallery.scan([OLD]):
        made = Embeddings(batch.ids, batch.vectors[OLD], again)
        gallery.write(made, batch.revisions, origin="embedded")
    same = {
        OLD: Model(OLD),
        again: lambda asked: Embeddings(asked, embed(OLD, asked).vectors, again),
    }
    asks = Reader(gallery, same)
    shadow = Shadow(asks, again, share=1.0)
    shadow.ask(ASKED, asks.search(ASKED, 3))  # fewer than the ten that are compared
    seen = shadow.result()
    assert (seen.overlap.estimate, seen.flips.estimate) == (1, 0)
    assert seen.overlap.low < 1  # twelve queries prove no more


def test_a_shadow_of_a_space_that_is_empty_yet_has_nothing_in_common():
    gallery = create_gallery(next(NAMES), OLD, NEW, items=[embed(OLD, ITEMS)])
    asks = Reader(gallery, models())
    shadow = Shadow(asks, NEW, share=1.0)
    shadow.ask(ASKED, asks.search(ASKED, 3))
    assert (shadow.result().overlap.estimate, shadow.result().flips.estimate) == (0, 1)


def test_the_share_is_chosen_by_the_id_of_a_query():
    ids = [f"query-{number}" for number in range(5000)]
    asks = Reader(make_gallery(), models())
    chosen = []
    for share in (0.05, 0.05, 0.2):
        shadow = Shadow(asks, PAIR, share=share)
        chosen.append({item for item in ids if shadow._chooses(item)})
    assert chosen[0] == chosen[1] < chosen[2]
    assert 0.04 < len(chosen[0]) / len(ids) < 0.06
    assert 0.18 < len(chosen[2]) / len(ids) < 0.22


def test_only_the_chosen_queries_are_embedded_for_a_shadow():
    gallery, given = make_gallery(), models()
    asks = Reader(gallery, given)
    shadow = Shadow(asks, NEW, share=0.3)
    chosen = [item for item in ASKED if shadow._chooses(item)]
    shadow.ask(ASKED, asks.search(ASKED, 3))
    assert 0 < len(chosen) < len(ASKED)
    assert given[NEW.name].calls == len(chosen) == shadow.result().compared


def test_a_shadow_query_that_fails_is_counted_and_fails_nothing_else():
    gallery = make_gallery()

    def broken(queries):
        if queries[0] in ASKED[:2]:
            raise RuntimeError("the new model is away, " + "x" * 1000)
        return embed(NEW, queries)

    asks = Reader(gallery, {OLD: Model(OLD), NEW: broken})
    shadow = Shadow(asks, PAIR, share=1.0)
    shadow.ask(ASKED, asks.search(ASKED, 3))
    seen = shadow.result()
    assert (seen.live, seen.compared, seen.failed) == (12, 10, 2)
    assert seen.failure.startswith("RuntimeError: the new model is away, x")
    assert len(seen.failure) == reader.LONGEST_FAILURE
    assert "2 failed" in str(seen)
    shadow.ask(ASKED[:3], asks.search(ASKED, 3))  # not the queries that were answered
    assert shadow.result().failed > 2


def test_answers_from_something_else_are_passed_over():
    gallery = make_gallery()
    asks = Reader(gallery, models())
    shadow = Shadow(asks, PAIR, share=1.0)
    serve(gallery, PAIR)
    shadow.ask(ASKED, asks.search(ASKED, 3))
    seen = shadow.result()
    assert (seen.live, seen.elsewhere, seen.compared) == (12, 12, 0)
    assert "12, answered from something else" in str(seen)
    assert np.isnan(seen.overlap.estimate)


def test_a_shadow_ends_by_itself(monkeypatch):
    monkeypatch.setattr(reader, "MOST", 5)
    gallery, given = make_gallery(), models()
    asks = Reader(gallery, given)
    shadow = Shadow(asks, NEW, share=1.0)
    for _ in range(3):
        shadow.ask(ASKED[:4], asks.search(ASKED[:4], 3))
    assert (shadow.result().live, shadow.result().compared) == (12, 5)
    assert given[NEW.name].calls == 5


def test_a_shadow_that_always_fails_ends_by_itself_too(monkeypatch):
    monkeypatch.setattr(reader, "MOST", 5)
    asks = Reader(make_gallery(), {OLD: Model(OLD), NEW: lambda queries: embed(OLD, queries)})
    shadow = Shadow(asks, NEW, share=1.0)
    for _ in range(3):
        shadow.ask(ASKED[:4], asks.search(ASKED[:4], 3))
    assert (shadow.result().compared, shadow.result().failed) == (0, 5)
    assert "has embedded queries in old@1" in shadow.result().failure


def test_a_query_that_is_asked_again_and_again_proves_no_more_than_once():
    asks = Reader(make_gallery(), models())
    shadow = Shadow(asks, PAIR, share=1.0)
    for _ in range(20):
        shadow.ask(ASKED[:1], asks.search(ASKED[:1], 3))
    assert shadow.result().overlap.method == "t-interval over 20 queries in 1 clusters"
    assert (shadow.result().overlap.low, shadow.result().overlap.high) == (0, 1)


def test_what_a_shadow_has_seen_is_shown_and_plain():
    asks = Reader(make_gallery(), models())
    shadow = Shadow(asks, PAIR, share=1.0, k=3)
    shadow.ask(ASKED, asks.search(ASKED, 3))
    said = str(shadow.result())
    assert said.startswith("shadow of fused old@1 (3, l2) and new@2 (4, l2), 0.5 of the old beside")
    assert "12 live, 12 compared (100 % are chosen), 0 failed" in said
    assert "first 3 alike" in said
    plain = json.loads(json.dumps(shadow.result().to_json()))
    assert plain["served"]["query_model"] == "weights-1"
    assert plain["shadow"]["weight"] == 0.5
    assert 0 <= plain["overlap"]["low"] <= plain["overlap"]["high"] <= 1


def test_a_shadow_that_cannot_be_is_refused_at_once():
    gallery = make_gallery()
    asks = Reader(gallery, models())
    with pytest.raises(ConfigurationError, match=r"answers from old@1 .* already"):
        Shadow(asks, OLD, share=0.1)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigurationError, match=r"above 0 and at most 1, such as 0\.01"):
            Shadow(asks, PAIR, share=share)
    with pytest.raises(GalleryError, match="has no space third@3"):
        Shadow(asks, Space("third@3", 2), share=0.1)
    with pytest.raises(ConfigurationError, match=r"embedded in new@2 \(4, l2\), but the reader"):
        Shadow(Reader(gallery, {OLD: Model(OLD)}), PAIR, share=0.1)
    small = Space("side@1", 4, "l2", "int8")
    gallery.add_space(small)
    with pytest.raises(GalleryError, match="cannot answer queries"):
        Shadow(asks, small, share=0.1)
