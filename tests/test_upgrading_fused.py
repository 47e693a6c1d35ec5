"""What a plan predicts of fused search, what it recommends to serve, and the gate for it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from worlds import NEW, OLD, SIDE, paired, unlabelled, unsure, world

from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.retrieval import agreement, count_neighbours, search
from onward.fusion import FusedEmbeddings
from onward.spaces import Embeddings
from onward.transformation import linear
from onward.upgrading import RealQueries, Upgrade, forecast, plan_backfill, plan_upgrade
from onward.upgrading.forecast import SHARES
from onward.upgrading.routes import Routes

# What is predicted


def fused_by_hand(h, old, new, asked):
    """What a full evaluation of a fused pair gives, some items asking for the others."""
    both = FusedEmbeddings(h.serving.fusion, old, new)
    return evaluate_embeddings(asked, both, exclude_self=True)


def stored(h, gallery, new, written=()):
    """The vectors of a gallery in the new space, some of them the true ones; with labels."""
    old = gallery.read(OLD)
    upgraded = h.apply(old, gallery.read(SIDE))
    rows = np.isin(old.ids, list(written))[:, None]
    vectors = np.where(rows, new.align(old.ids).vectors, upgraded.vectors)
    return Embeddings(old.ids, vectors, NEW, old.labels)


@pytest.mark.parametrize("seed", range(3))
def test_in_the_whole_gallery_fused_search_is_judged_as_a_full_evaluation_by_hand_does(seed):
    gallery, new, h = world(150, seed, spoil=0.5)
    h, sample = paired(h, 0.4), new.select(np.arange(40))
    found = forecast(gallery, Routes((h,)), sample).whole
    names = ["do nothing", "upgrade", "upgrade + the sample", "fused", "fused + the sample"]
    assert [cell.name for cell in found.cells] == names
    old, fusion = gallery.read(OLD), h.serving.fusion
    labelled = Embeddings(sample.ids, sample.vectors, NEW, old.align(sample.ids).labels)
    asked = FusedEmbeddings(fusion, old.align(sample.ids), labelled)
    for name, written in {"fused": (), "fused + the sample": sample.ids}.items():
        expected = fused_by_hand(h, old, stored(h, gallery, new, written), asked).to_json()
        for metric in ("cmc@1", "cmc@5", "map"):
            assert found.value(metric, name) == pytest.approx(expected[metric], abs=1e-12)


@pytest.mark.parametrize("labels", [True, False])
def test_within_the_sample_fused_search_has_its_own_cells_and_is_compared_with_one_space(labels):
    gallery, new, h = world(60, spoil=0.5)
    h, gallery = paired(unsure(h)), gallery if labels else unlabelled(gallery)
    found = forecast(gallery, Routes((h,)), new).within
    one_space = ["upgrade", *(f"upgrade + backfill {share} %" for share in (10, 25, 50))]
    fused = [name.replace("upgrade", "fused") for name in one_space]
    written = [] if labels else ["{} + the sample"]
    twins = dict(zip([*fused, "fused + full backfill"], [*one_space, "full backfill"], strict=True))
    twins |= {one.format("fused"): one.format("upgrade") for one in written}
    names = [cell.name for cell in found.cells]
    assert set(names) == {"do nothing", *twins, *twins.values()}
    assert (names[:2], names[-1]) == (["do nothing", "upgrade"], "fused + full backfill")
    for cell, metric in itertools.product(found.cells, found.metrics):
        if cell.name not in twins:
            assert cell.over_one_space == {}
            continue
        over = cell.over_one_space[metric].estimate
        alone = found.value(metric, twins[cell.name])
        assert math.isclose(over, cell.values[metric].estimate - alone, abs_tol=1e-12)


def test_fused_agreement_is_that_with_a_full_backfill_in_one_space():
    gallery, new, h = world(60, spoil=0.5)
    h, gallery = paired(h, 0.7), unlabelled(gallery)
    found = forecast(gallery, Routes((h,)), new).within
    count, old = count_neighbours(60), gallery.read(OLD)
    asked = FusedEmbeddings(h.serving.fusion, old, new)
    for name, there in {"fused": stored(h, gallery, new), "fused + full backfill": new}.items():
        both = FusedEmbeddings(h.serving.fusion, old, there)
        nearest = (search(a, b, count, exclude_self=True) for a, b in ((asked, both), (new, new)))
        assert found.value("agreement", name) == pytest.approx(agreement(*nearest).mean())


def test_an_item_that_cannot_be_carried_is_found_by_its_old_vector_in_fused_search():
    gallery, new, h = world(40)
    gallery.delete(new.ids[:10])
    lost = Embeddings(new.ids[:10], np.ones((10, 6), np.float32), OLD, np.arange(10))
    gallery.add(lost)
    h = paired(h)
    found = forecast(gallery, Routes((h,)), new)
    old, carried = gallery.read(OLD), gallery.read(OLD, new.ids[10:])
    upgraded = replace(h.apply(carried, gallery.read(SIDE, new.ids[10:])), labels=carried.labels)
    labelled = Embeddings(new.ids, new.vectors, NEW, old.align(new.ids).labels)
    asked = FusedEmbeddings(h.serving.fusion, old, labelled)
    expected = fused_by_hand(h, old, upgraded, asked)
    for judged in (found.whole, found.within):
        assert judged.lost == 10
        assert judged.value("map", "fused") == pytest.approx(expected.map, abs=1e-12)


def test_what_the_new_model_has_embedded_already_is_fused_as_it_is():
    gallery, new, h = world(150, spoil=1.0)
    h, sample, before = paired(h), new.select(np.arange(40)), new.select(np.arange(30, 80))
    Upgrade(gallery, h).start(sample=before)
    found = forecast(gallery, Routes((h,)), sample).whole
    old = gallery.read(OLD)
    labelled = Embeddings(sample.ids, sample.vectors, NEW, old.align(sample.ids).labels)
    asked = FusedEmbeddings(h.serving.fusion, old.align(sample.ids), labelled)
    for name, written in {"fused": before.ids, "fused + the sample": new.ids[:80]}.items():
        expected = fused_by_hand(h, old, stored(h, gallery, new, written), asked)
        assert found.value("map", name) == pytest.approx(expected.map, abs=1e-12)


def test_real_queries_are_asked_of_both_spaces():
    gallery, new, h = world(100)
    h, items = paired(h), new.select(np.arange(20))
    old = gallery.read(OLD, items.ids)
    names = tuple(f"q{number}" for number in range(20))
    asked = [replace(one, ids=names, labels=None) for one in (old, items)]
    qrels = {
        name: {item: 1, f"i{40 + row:04}": 2}
        for row, (name, item) in enumerate(zip(names, items.ids, strict=True))
    }
    found = forecast(gallery, Routes((h,)), queries=RealQueries(*asked, qrels)).whole
    assert [cell.name for cell in found.cells] == ["do nothing", "upgrade", "fused"]
    whole = FusedEmbeddings(h.serving.fusion, gallery.read(OLD), stored(h, gallery, new))
    ranked = search(FusedEmbeddings(h.serving.fusion, *asked), whole, 10, exclude_self=False)
    first = np.mean([ranked.ids_of(row)[0] in qrels[name] for row, name in enumerate(names)])
    assert found.value("cmc@1", "fused") == pytest.approx(first)


@pytest.mark.parametrize("whose", ["none", "another old space"])
def test_without_a_pair_of_what_answers_now_nothing_is_said_of_fused_search(whose):
    gallery, new, h = world(40)
    if whose != "none":
        other = linear(SIDE, None, NEW, np.eye(8, 4), np.zeros(8, np.float32), made_by={})
        h = paired(other)  # it knows how to fuse the side-information, which answers nothing
    found = forecast(gallery, Routes((h,)), new)
    for judged in (found.whole, found.within):
        assert not any("fused" in cell.name for cell in judged.cells)
        assert judged.fused_of_sample is None


def test_the_curve_of_a_backfill_has_its_own_values_with_fused_search():
    gallery, new, h = world(60, spoil=1.0)
    h = paired(unsure(h))
    plan = plan_backfill(gallery, h, sample=new)
    predicted = plan_upgrade(gallery, h, sample=new).prediction.within
    assert list(plan.fused.values) == list(plan.drawn.values)
    names = {0.0: "fused", 1.0: "fused + full backfill"}
    names |= {share: f"fused + backfill {100 * share:g} %" for share in SHARES}
    for (share, name), metric in itertools.product(names.items(), ("cmc@1", "cmc@5", "map")):
        drawn = plan.fused.values["uncertainty"][metric][share]
        assert drawn == pytest.approx(predicted.value(metric, name), abs=1e-12)
    ends = plan.fused.on_grid("oracle", "map")
    assert plan.fused.gains["map"].estimate == pytest.approx(ends[-1] - ends[0])
    assert plan_backfill(gallery, replace(h, serving=None), sample=new).fused is None
