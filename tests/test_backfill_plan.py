"""The plan of a backfill: its curves against naive ones, and its advice worked by hand."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from pages import CONTRAST, Elements
from upgrades import run_upgrade
from worlds import unsure_by

from onward.errors import UpgradeError
from onward.evaluation.backfill_curve import GRID, random_order
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.intervals import Interval
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import agreement, count_neighbours, rank, search
from onward.gallery import create_gallery
from onward.report import write_backfill_report
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import evidence, forecast, plan_backfill, plan_upgrade, routes
from onward.upgrading.backfill import Budget, backfill, embeddings_given
from onward.upgrading.forecast import (
    EVERYTHING,
    SEEDS,
    SHARES,
    UPGRADE,
    Curves,
)
from onward.upgrading.plan import advise
from onward.upgrading.routes import Routes

OLD, SIDE, NEW = Space("old@1", 4), Space("side@1", 1), Space("new@2", 3)
ITEMS = 42

names = itertools.count()


def make_h(side=None, uncertainty=True):
    """The first three numbers of the old vector; unsure by the third of them."""
    h = linear(OLD, side, NEW, np.eye(3, 4 if side is None else 5), np.zeros(3), made_by={})
    return unsure_by(h, [0, 0, 1]) if uncertainty else h


def make_items(labelled=True):
    """Old and new embeddings of three classes; the classes lie apart by the new model only."""
    rng = np.random.default_rng(0)
    labels = np.arange(ITEMS) % 3
    new = np.eye(3)[labels] + 0.4 * rng.normal(size=(ITEMS, 3))
    old = np.concatenate([new + 0.8 * rng.normal(size=(ITEMS, 3)), np.zeros((ITEMS, 1))], axis=1)
    ids = tuple(f"{number:02}" for number in range(ITEMS))
    known = labels if labelled else None
    return (
        Embeddings(ids, old.astype(np.float32), OLD, known),
        Embeddings(ids, new.astype(np.float32), NEW, known),
    )


def make_gallery(old):
    return create_gallery(f"memory:bp{next(names)}", OLD, items=[old])


def naive(old, new, order, point, metric):
    """A metric where the first items of an order have their new vectors."""
    vectors = make_h().apply(old).vectors.copy()
    for item in order[: round(point * ITEMS / 21)]:
        vectors[old.ids.index(item)] = new.vectors[new.ids.index(item)]
    mixed = Embeddings(old.ids, vectors, NEW, new.labels)
    return evaluate_embeddings(new, mixed, exclude_self=True).to_json()[metric]


# The curves


@pytest.mark.slow
def test_curves_are_those_of_a_gallery_of_which_ever_more_is_embedded():
    old, new = make_items()
    plan = plan_backfill(make_gallery(old), make_h(), sample=new, seed=7)
    assert list(plan.drawn.values) == ["random", "uncertainty", "oracle"]
    unsure = old.vectors[:, 2]
    far = np.linalg.norm(old.vectors[:, :3] - new.vectors, axis=1)
    orders = {
        "random": [random_order(old.ids, seed=7 + turn) for turn in range(SEEDS)],
        "uncertainty": [[old.ids[row] for row in np.argsort(-unsure)]],
        "oracle": [[old.ids[row] for row in np.argsort(-far)]],
    }
    for name, each in orders.items():
        for metric in ("cmc@1", "cmc@5", "map"):
            drawn = plan.drawn.on_grid(name, metric)
            for point in (0, 4, 13, 21):
                expected = np.mean([naive(old, new, ids, point, metric) for ids in each])
                assert drawn[point] == pytest.approx(expected), (name, metric, point)
            assert plan.drawn.auc(name, metric) == pytest.approx(np.mean(drawn))
    gain = plan.drawn.gains["map"]
    ends = plan.drawn.on_grid("oracle", "map")
    assert gain.estimate == pytest.approx(ends[-1] - ends[0])
    assert gain.method == "t-interval over 42 queries in 3 clusters"  # as in the upgrade's plan


def test_without_labels_the_neighbours_are_compared_with_those_of_full_backfill():
    old, new = make_items(labelled=False)
    plan = plan_backfill(make_gallery(old), make_h(uncertainty=False), sample=new)
    assert plan.metrics == ("agreement",)
    assert list(plan.drawn.values) == ["random", "oracle"]
    upgraded = old.vectors[:, :3]

    def nearest(query, vectors):
        distances = np.linalg.norm(vectors - new.vectors[query], axis=1)
        distances[query] = np.inf
        return set(np.argsort(distances)[:4].tolist())  # a tenth of 42 items

    shared = [len(nearest(q, upgraded) & nearest(q, new.vectors)) / 4 for q in range(ITEMS)]
    values = plan.drawn.on_grid("random", "agreement")
    assert values[0] == pytest.approx(np.mean(shared))
    assert values[-1] == 1.0
    assert "The transformation gives no uncertainty" in plan.advice


def test_a_plan_says_what_the_gallery_holds_and_what_was_left_out():
    old, new = make_items()
    ids = old.ids
    gallery = create_gallery(f"memory:bp{next(names)}", OLD, SIDE, NEW)
    aside = Embeddings(ids[:40], np.zeros((40, 1), np.float32), SIDE)
    gallery.add(old.select(range(40)), aside)
    gallery.add(old.select([40]))
    (batch,) = gallery.scan([OLD], ids=ids[:1])
    gallery.write(new.align(batch.ids), batch.revisions, origin="embedded")
    before = gallery.state(), len(gallery.journal())
    h = replace(make_h(SIDE), made_by={"sample": {"ids": list(ids[:5])}})
    plan = plan_backfill(gallery, h, sample=new)
    assert (gallery.state(), len(gallery.journal())) == before
    assert (plan.upgraded, plan.embedded, plan.missing) == (0, 1, 40)
    assert (plan.within.items, plan.within.lost) == (36, 1)
    assert plan.left_out == {
        "a transformation was fitted on them": 5,
        "not in the gallery": 1,
    }
    given = json.loads(json.dumps(plan.to_json()))
    assert given["rows"] == {"upgraded": 0, "embedded": 1, "missing": 40}
    assert set(given["curves"]["oracle"]) == {"cmc@1", "cmc@5", "map", "auc@22", "planned"}
    assert given["lost"] == 1
    assert "  lost     1 of these items cannot be carried over: they are not found until" in str(
        plan
    )
    assert given["next_steps"][0]["step"] == "backfill"
    assert "  left out 5: a transformation was fitted on them" in str(plan)


def test_too_few_items_make_no_plan():
    old, new = make_items()
    words = r"19 of the sample's 19 items are left .*, 20 are needed. Embed more items of the"
    with pytest.raises(UpgradeError, match=words):
        plan_backfill(make_gallery(old), make_h(), sample=new.select(range(19)))


# The plan of the upgrade says the same


def world(*, bare, labelled, unsure):
    """A gallery of 90 items, of which some are without side-information, and the sample of all."""
    rng, rows = np.random.default_rng(3), 90
    labels = np.arange(rows) % 9
    new = np.eye(3)[labels % 3] + 0.5 * rng.normal(size=(rows, 3))
    old = np.concatenate([new + 0.7 * rng.normal(size=(rows, 3)), np.ones((rows, 1))], axis=1)
    ids = tuple(f"{number:02}" for number in range(rows))
    known = labels if labelled else None
    items = Embeddings(ids, old.astype(np.float32), OLD, known)
    gallery = create_gallery(f"memory:bp{next(names)}", OLD, SIDE)
    aside = rng.permutation(rows)[bare:].tolist()
    side = Embeddings(ids, np.ones((rows, 1), np.float32), SIDE)
    gallery.add(items.select(aside), side.select(aside))
    rest = sorted(set(range(rows)) - set(aside))
    if rest:
        gallery.add(items.select(rest))
    sample = Embeddings(ids, new.astype(np.float32), NEW)
    return gallery, make_h(SIDE, uncertainty=unsure), sample, [ids[row] for row in rest]


def rebuilt(gallery, h, sample, order, share):
    """What is found in a gallery that is upgraded and backfilled in earnest, by each metric."""
    run_upgrade(gallery, h)
    asked = []
    if share:
        backfill(
            gallery,
            NEW,
            lambda ids, _: (asked.extend(ids), embeddings_given(sample)(ids, _))[1],
            budget=Budget(rows=round(share * len(sample))),
            order=order,
        )
    stored = gallery.read(NEW, gallery.ids([NEW]))
    stored = Embeddings(stored.ids, stored.vectors, NEW)
    wanted = count_neighbours(len(sample))
    full = search(sample, sample, wanted, exclude_self=True)
    found = {"agreement": agreement(search(sample, stored, wanted, exclude_self=True), full).mean()}
    (batch,) = gallery.scan((), batch_rows=len(sample))
    known = dict(zip(batch.ids, batch.labels, strict=True))
    if None in known.values():
        return found, asked
    labels = np.array([known[item] for item in sample.ids])
    relevance = Relevance.of_labels(sample.ids, sample.ids, labels, labels, exclude_self=True)
    evaluation = evaluate(rank(sample, stored, exclude_self=True), relevance)
    first = evaluation.first_hit[evaluation.counted]
    found |= {f"cmc@{k}": np.mean((first >= 0) & (first < k)) for k in (1, 5)}
    return found | {"map": evaluation.map}, asked


SHARES_OF_BOTH = {0.0: UPGRADE, 1.0: EVERYTHING} | {
    share: f"upgrade + backfill {100 * share:g} %" for share in SHARES
}


@pytest.mark.parametrize(
    "bare", [30, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (0, 89))]
)
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("unsure", [True, False])
def test_plan_backfill_plan_and_a_gallery_rebuilt_give_one_number_for_one_share(
    bare, labelled, unsure
):
    how = {"bare": bare, "labelled": labelled, "unsure": unsure}
    gallery, h, sample, lost = world(**how)
    prediction = plan_upgrade(gallery, h, sample=sample).prediction
    predicted = prediction.within
    planned = plan_backfill(gallery, h, sample=sample)
    assert predicted.lost == planned.within.lost == bare
    order = "uncertainty" if unsure else "random"
    curve = planned.drawn.values[order]
    assert prediction.order == order
    for share, name in SHARES_OF_BOTH.items():
        for metric in planned.metrics:
            said = curve[metric][share]
            assert said == pytest.approx(predicted.value(metric, name), abs=1e-12)
    for share in (0.0, 0.1, 0.5) if unsure else (0.0, 1.0):  # one random order is not the mean
        found, asked = rebuilt(*world(**how)[:3], order, share)
        assert set(lost) <= set(asked) or set(asked) <= set(lost)
        for metric in predicted.metrics:
            said = predicted.value(metric, SHARES_OF_BOTH[share])
            assert said == pytest.approx(found[metric], abs=1e-12), (metric, share)


def test_both_plans_leave_out_the_same_items_where_a_class_is_found_in_the_gallery_alone():
    """Of the sample each item is of a class of its own; in the gallery it has another of it."""
    gallery, h, sample, _ = world(bare=0, labelled=True, unsure=True)
    labels = np.arange(90) % 45
    labels[8::9] = -1
    items = [replace(gallery.read(space), labels=labels) for space in (OLD, SIDE)]
    gallery = create_gallery(f"memory:bp{next(names)}", OLD, SIDE, items=items)
    some = sample.select(range(45))
    predicted = plan_upgrade(gallery, h, sample=some).prediction
    planned = plan_backfill(gallery, h, sample=some)
    assert predicted.left_out == planned.left_out == {"no label, where others have one": 5}
    for cell in planned.within.cells:
        assert cell.to_json() == predicted.within.cell(cell.name).to_json()
    assert planned.metrics == ("agreement",)


@pytest.mark.parametrize("sampled", [90, 40])
def test_each_item_is_carried_once_for_all_that_is_judged(monkeypatch, sampled):
    gallery, h, sample, _ = world(bare=0, labelled=True, unsure=True)
    carried = []

    def transform(by, batch):
        carried.extend(batch.ids)
        return routes.transform(by, batch)

    monkeypatch.setattr(evidence, "transform", transform)
    some = sample.select(range(sampled))
    forecast(gallery, Routes((h,)), some)
    assert sorted(carried) == list(sample.ids)
    carried.clear()
    plan_backfill(gallery, h, sample=some)
    assert sorted(carried) == list(some.ids)


def test_a_sample_of_which_nothing_can_be_carried_makes_no_plan():
    gallery, h, sample, _ = world(bare=90, labelled=True, unsure=True)
    with pytest.raises(UpgradeError, match=r"90 of the .*, and no transformation can carry one of"):
        plan_backfill(gallery, h, sample=sample)


# The advice


def interval(estimate, half_width=0.01):
    low, high = estimate - half_width, estimate + half_width
    return Interval(estimate, low, high, 0.95, difference=True, method="by hand")


def straight(start, end):
    return start + (end - start) * np.array(GRID)


def drawn(random, uncertainty=None, half_width=0.01):
    """Curves by metric; the oracle's are those by uncertainty."""
    found = {"random": random, "uncertainty": uncertainty, "oracle": uncertainty or random}
    curves = {
        order: {metric: dict(zip(GRID, values, strict=True)) for metric, values in each.items()}
        for order, each in found.items()
        if each is not None
    }
    gains = {metric: interval(float(v[-1] - v[0]), half_width) for metric, v in random.items()}
    return Curves(curves, gains)


UP, FLAT, DOWN = straight(0.4, 0.5), straight(0.5, 0.5), straight(0.5, 0.4)


def test_where_full_backfill_is_worse_nothing_is_to_be_spent():
    falling = {"cmc@1": FLAT, "map": DOWN}
    assert advise(drawn(falling, falling)) == (
        "Spend nothing: the upgrade alone answers at least as well as full backfill, which takes "
        "map from 50.0 % to 40.0 % and cmc@1 from 50.0 % to 50.0 %."
    )


def test_where_map_falls_and_cmc_rises_it_depends():
    both = {"cmc@1": UP, "map": DOWN}
    assert advise(drawn(both, both)) == (
        "Spend nothing unless cmc@1 counts more than map: full backfill takes map from 50.0 % to "
        "40.0 % and cmc@1 from 40.0 % to 50.0 %. By uncertainty, 52 % of the items give "
        "half of that in cmc@1."
    )


def test_a_metric_that_stays_as_it_is_does_not_speak_against_the_other():
    both = {"cmc@1": FLAT, "map": UP}
    assert advise(drawn(both, both)).startswith("Full backfill takes map from 40.0 % to 50.0 % and")


def test_a_gain_that_the_queries_cannot_tell_is_said_so():
    both = {"cmc@1": UP, "map": UP}
    said = advise(drawn(both, both, half_width=0.2))
    assert "These queries cannot tell that from no change (" in said
    assert "a larger sample can." in said
    assert "cannot tell" not in advise(drawn(both, both))


def test_where_a_curve_falls_below_both_ends_more_or_nothing_is_to_be_spent():
    valley = UP.copy()
    valley[3] = 0.3
    both = {"map": valley, "cmc@1": UP}
    assert advise(drawn(both, both)).endswith(
        "On the way map falls below both ends, to 30.0 % at 14 %: spend more than that, or nothing."
    )


def test_where_a_random_order_does_better_it_is_said_in_which_metric():
    better = np.minimum(UP + 0.05, 0.5)
    said = advise(drawn({"map": better, "cmc@1": better}, {"map": UP, "cmc@1": UP}))
    assert "At random, " in said
    assert said.endswith(
        "On the way a random order gives more map (48.7 % against 45.0 % on average) and cmc@1 "
        "(48.7 % against 45.0 % on average): take that."
    )
    said = advise(drawn({"map": UP, "cmc@1": better}, {"map": UP, "cmc@1": UP}))
    assert said.endswith("on average): take that if it counts more.")


# The page


def test_the_page_shows_advice_curves_and_numbers(tmp_path):
    old, new = make_items()
    plan = plan_backfill(make_gallery(old), make_h(), sample=new)
    write_backfill_report(tmp_path / "page.html", plan, facts={"command": "<made> & up"})
    page = Elements((tmp_path / "page.html").read_text())
    headings = [one["text"] for one in page.of("h2")]
    curves = [f"{metric} against the share embedded" for metric in ("cmc@1", "map")]
    assert headings[:3] == ["Advice", *curves]
    assert plan.advice in next(one["text"] for one in page.of("p") if one.get("class") == "verdict")
    assert len(page.of("svg")) == 4
    named = [one["text"] for one in page.of("text") if "name" in one.get("class", "")]
    mean = 100 * plan.drawn.auc("uncertainty", "cmc@1")
    assert f"uncertainty, auc@22 {mean:.1f}" in named
    assert len(page.of("tr")) == 2 * (1 + 22 + 1)
    assert not page.of("script")
    assert "<made> & up" in "".join(one["text"] for one in page.of("dd"))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_the_page_can_be_read_on_a_phone_and_in_the_dark(tmp_path, browser, width, scheme):
    old, new = make_items()
    plan = plan_backfill(make_gallery(old), make_h(), sample=new)
    write_backfill_report(tmp_path / "page.html", plan, facts={})
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRAST))[0] >= 4.5
