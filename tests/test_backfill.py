"""A backfill of a gallery, on every store: its order, its budget, what it writes and what not."""

import contextlib
import itertools
import math
import threading
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
from upgrades import run_upgrade, steps_of
from worlds import FAR, unsure_by

from onward.errors import ConfigurationError, UpgradeError
from onward.gallery import GalleryRows, Share, create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Upgrade
from onward.upgrading.backfill import (
    Budget,
    EmbeddedItems,
    Meter,
    backfill,
    embeddings_given,
    in_turn,
)

OLD, SIDE, NEW = Space("old@1", 3), Space("side@1", 2), Space("new@2", 2)

ALL = Budget(share=1.0)


H = unsure_by(linear(OLD, None, NEW, np.eye(2, 3), np.zeros(2), made_by={}), [0, 1])
"""Old vectors as they are, but the last number, which is how unsure it is."""


def items(unsure, space=OLD):
    """Items of which h is so unsure: `{"a": 0.5}`."""
    vectors = np.array([[7, number, 0] for number in unsure.values()], np.float32)
    return Embeddings(tuple(unsure), vectors[:, : space.dim], space)


def payloads_of(embeddings):
    return [{"path": f"{item}.png"} for item in embeddings.ids]


@pytest.fixture
def gallery(url):
    """Six upgraded items, most unsure first d, b, then a and c alike, then f, e."""
    old = items({"a": 2, "b": 4, "c": 2, "d": 5, "e": -1, "f": 0})
    gallery = create_gallery(url, OLD, SIDE, items=[old], payloads=payloads_of(old))
    run_upgrade(gallery, H, batch_rows=4)
    return gallery


# What an upgrade leaves for it


def test_an_upgrade_stores_how_unsure_it_is_beside_each_vector(gallery):
    stored = {
        item: unsure
        for batch in gallery.scan([NEW])
        for item, unsure in zip(batch.ids, batch.uncertainties[NEW].tolist(), strict=True)
    }
    by_layer = {item: round(unsure + np.log(2 * FAR**2), 4) for item, unsure in stored.items()}
    assert by_layer == {"a": 2, "b": 4, "c": 2, "d": 5, "e": -1, "f": 0}
    of_apply = H.uncertainties(gallery.read(OLD)).tolist()
    assert of_apply == [stored[item] for item in sorted(stored)]


def test_without_an_uncertainty_none_is_stored(url):
    gallery = create_gallery(url, OLD, items=[items({"a": 1})])
    run_upgrade(gallery, replace(H, uncertainty=None))
    (batch,) = gallery.scan([NEW])
    assert np.isnan(batch.uncertainties[NEW]).all()


# Its order


class Model:
    """Stands for a model: remembers what it was asked, and gives vectors of what it counts."""

    def __init__(self, gone=(), meanwhile=lambda ids: None):
        self.asked, self.payloads = [], []
        self.gone, self.meanwhile = gone, meanwhile

    def __call__(self, ids, payloads):
        self.asked.append("".join(ids))
        self.payloads += payloads
        self.meanwhile(ids)
        there = [item for item in ids if item not in self.gone]
        vectors = np.full((len(there), NEW.dim), len(self.asked), np.float32)
        skipped = {item: f"{item} is gone" for item in ids if item in self.gone}
        return EmbeddedItems(Embeddings(tuple(there), vectors, NEW), skipped)


def embedded_in(gallery):
    return {
        item
        for batch in gallery.scan([NEW])
        for item, origin in zip(batch.ids, batch.origins[NEW], strict=True)
        if origin == "embedded"
    }


def test_what_cannot_be_carried_comes_first_then_the_most_uncertain_ties_by_id(gallery):
    gallery.add(items({"z": 9, "y": 9}, SIDE))
    model = Model()
    result = backfill(gallery, NEW, model, budget=ALL, batch_rows=3)
    assert model.asked == ["yzd", "bac", "fe"]
    assert model.payloads[0] is None
    assert model.payloads[2] == {"path": "d.png"}
    assert (result.done, result.upgraded, result.missing, result.skipped) == (8, 0, 0, 0)
    assert embedded_in(gallery) == set("abcdefyz")


@pytest.mark.parametrize("order", ["uncertainty", "random"])
def test_what_the_next_run_of_the_upgrade_will_carry_comes_last(gallery, order):
    gallery.add(items({"q": 9}))  # has all that h reads
    gallery.add(items({"z": 9}, SIDE))
    model = Model()
    backfill(gallery, NEW, model, budget=ALL, order=order, batch_rows=1)
    assert model.asked[0] == "z"
    assert set(model.asked[1:-1]) == set("abcdef")
    assert model.asked[-1] == "q"


def test_rows_that_lack_one_of_two_needed_vectors_cannot_be_carried(url):
    weight, bias = np.eye(2, 5, dtype=np.float32), np.zeros(2, np.float32)
    both = linear(OLD, SIDE, NEW, weight, bias, made_by={})
    whole = [items({"a": 1, "b": 1}), items({"a": 1, "b": 1}, SIDE)]
    gallery = create_gallery(url, OLD, SIDE, items=whole)
    gallery.add(items({"x": 1}))
    Upgrade(gallery, both).start()
    model = Model()
    backfill(gallery, NEW, model, budget=ALL, batch_rows=1)
    assert model.asked == ["x", "a", "b"]


def test_a_random_order_is_the_same_for_the_same_seed_and_not_that_of_uncertainty(gallery):
    orders = set()
    for seed in (0, 1, 1):
        model = Model(gone="abcdef")
        backfill(gallery, NEW, model, budget=ALL, order="random", seed=seed)
        (asked,) = model.asked
        orders.add(asked)
        assert sorted(asked) == list("abcdef")
    assert len(orders) == 2
    assert "dbacfe" not in orders


def test_what_has_no_uncertainty_stored_comes_after_what_has(gallery):
    gallery.add(items({"x": 0}))
    (batch,) = gallery.scan([OLD], without=[NEW])
    gallery.write(H.apply(gallery.read(OLD, ["x"])), batch.revisions, origin="upgraded")
    model = Model()
    backfill(gallery, NEW, model, budget=ALL)
    assert model.asked == ["dbacfex"]


def test_without_any_uncertainty_there_is_no_order_unless_the_budget_is_for_all(url):
    gallery = create_gallery(url, OLD, items=[items({"b": 1, "a": 2})])
    run_upgrade(gallery, replace(H, uncertainty=None))
    words = r"no order by uncertainty: .* its 2 upgraded vectors in new@2.*order='random'.*fit"
    with pytest.raises(UpgradeError, match=words):
        backfill(gallery, NEW, Model(), budget=Budget(rows=1))
    random = backfill(gallery, NEW, Model(), budget=Budget(rows=1), order="random")
    assert random.done == 1
    assert backfill(gallery, NEW, Model(), budget=ALL).done == 1


def test_only_the_items_that_are_named_are_embedded(gallery):
    gallery.add(items({"z": 9, "y": 9}, SIDE))
    model = Model()
    result = backfill(gallery, NEW, model, budget=ALL, ids=["e", "z", "b", "nobody"])
    assert model.asked == ["zbe"]
    assert (result.done, result.upgraded, result.missing) == (3, 4, 1)


# Several at once


def big_gallery(url, rows):
    old = items({f"{number:04}": number % 97 for number in range(rows)})
    gallery = create_gallery(url, OLD, items=[old])
    run_upgrade(gallery, H)
    return gallery


def test_a_worker_does_its_share_in_order_and_then_helps_the_others_from_the_end():
    ids = tuple(f"{number:04}" for number in range(100))
    assert in_turn(ids, Share()) == ids
    for share in (Share(0, 3), Share(2, 3)):
        turn = in_turn(ids, share)
        own = [item for item in ids if share.holds(item)]
        theirs = [item for item in reversed(ids) if item not in own]
        assert sorted(turn) == list(ids)
        assert list(turn[: len(own)]) == own
        at = theirs.index(turn[len(own)])
        assert at == len(theirs) * share.number // 3
        assert list(turn[len(own) :]) == [*theirs[at:], *theirs[:at]]


@pytest.mark.slow
def test_two_at_once_part_the_rows_and_neither_embeds_what_the_other_has(url):
    rows, batch = 240, 8
    gallery = big_gallery(url, rows)
    both = threading.Barrier(2)
    asked, results = [], []

    def work(opened):
        first = itertools.count()

        def embed(ids, payloads):
            if next(first) in (0, 1):
                both.wait(30)  # both are at work by the second batch
            asked.extend(ids)
            return EmbeddedItems(Embeddings(ids, np.ones((len(ids), NEW.dim), np.float32), NEW))

        results.append(backfill(opened, NEW, embed, budget=ALL, batch_rows=batch))

    threads = [threading.Thread(target=work, args=(open_gallery(url),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert embedded_in(gallery) == set(asked) == {f"{number:04}" for number in range(rows)}
    assert len(asked) - rows <= 3 * batch  # when the second came, and where they met
    assert sum(one.done for one in results) == rows
    assert min(one.done for one in results) > rows / 5


def items_asked(model):
    """The ids, of four digits each, in the order in which a model was asked for them."""
    return [asked[at : at + 4] for asked in model.asked for at in range(0, len(asked), 4)]


def test_what_another_does_not_get_on_with_is_done_all_the_same(url):
    gallery, first, second = big_gallery(url, 60), Model(), Model()
    with gallery.working_on(OLD):  # it holds half the rows and does nothing
        backfill(gallery, NEW, first, budget=Budget(rows=15), batch_rows=5)
        assert backfill(gallery, NEW, second, budget=ALL, batch_rows=5).upgraded == 0
    share = next(one for one in (Share(0, 2), Share(1, 2)) if one.holds(items_asked(first)[0]))
    own = [item for item in map("{:04}".format, reversed(range(60))) if share.holds(item)]
    assert items_asked(first) == own[:15]
    assert len(items_asked(second)) == 45


def test_a_backfill_takes_everything_in_order_once_another_has_ended(url):
    gallery, other = big_gallery(url, 60), contextlib.ExitStack()
    other.enter_context(gallery.working_on(OLD))
    model = Model(meanwhile=lambda ids: other.close())
    backfill(gallery, NEW, model, budget=Budget(rows=30), batch_rows=5)
    first, after = items_asked(model)[:5], items_asked(model)[5:]
    everything = map("{:04}".format, reversed(range(60)))
    assert after == [item for item in everything if item not in first][:25]


def test_a_run_of_the_upgrade_does_not_take_a_backfill_for_one_that_shares_its_rows(gallery):
    gallery.add(items({"late": 3}))
    shares = []

    def look(ids):
        with gallery.working_on(NEW) as share_now:
            shares.append(share_now().of)

    backfill(gallery, NEW, Model(meanwhile=look), budget=ALL)
    assert set(shares) == {1}


# Its budget


@pytest.mark.parametrize(
    ("text", "price", "rows"),
    [
        pytest.param("5000", None, 1000, id="more-than-there-are"),
        pytest.param("7", None, 7, id="rows"),
        pytest.param("29%", None, 290, id="percent"),
        pytest.param("0.15 %", None, 1, id="percent-rounded-down"),
        pytest.param("100%", None, 1000, id="everything"),
        pytest.param("$0.3", 0.1, 3, id="money-is-exact"),
        pytest.param("$20", 0.13, 153, id="money-rounded-down"),
        pytest.param("90s", None, None, id="time"),
    ],
)
def test_a_budget_pays_for_so_many_of_a_thousand_rows(text, price, rows):
    assert Budget.parse(text, price=price).rows_of(1000) == rows


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("0.5s", 0.5)]
)
def test_a_time_is_read_in_seconds_minutes_and_hours(text, seconds):
    assert Budget.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["5,000 rows", "7 rows", "90s", "10%", "12.5%", "0.01%"])
def test_a_budget_is_shown_as_it_is_written(text):
    assert str(Budget.parse(text.replace(",", "").removesuffix(" rows"))) == text
    assert str(Budget.parse("$20", price=0.002)) == "$20 at $0.002 an item"


@pytest.mark.parametrize(
    ("text", "price", "words"),
    [
        ("much", None, r"'much' is not a budget; write rows \(5000\), a share .*10%.*15m.*\$20"),
        ("$20%", 1.0, r"'\$20%' is not a budget; write"),
        ("10.5", None, r"'10.5' rows are not a whole number; write"),
        ("0", None, r"a budget of rows 0 was given; it must be a whole number above 0"),
        ("0s", None, r"a budget of seconds 0.0 was given; it must be a number above 0"),
        ("110%", None, r"a budget of share 1.1 was given; it must be above 0 and at most 1"),
        ("$20", None, r"money, 20, needs the price of one item.*is None. Add it: price="),
        ("$20", 0.0, r"the price given is 0.0"),
        ("$20", -1.0, r"the price given is -1.0"),
        ("$20", float("nan"), r"the price given is nan"),
        ("-5", None, r"'-5' is not a budget; write rows \(5000\)"),
        ("nan", None, r"'nan' is not a budget"),
        ("inf%", None, r"'inf%' is not a budget"),
        ("1e3", None, r"'1e3' is not a budget"),
        ("9" * 5000, None, r"'9{40}\.\.\.' is not a budget"),
        ("9" * 400 + "s", None, r"is not a budget"),
        ("2026-01-01", None, r"'2026-01-01' is not a budget"),
        ("10%", 0.1, r"a price of 0.1 an item was given, but the budget is 10%, .* not money"),
    ],
)
def test_what_is_no_budget_is_refused_with_examples(text, price, words):
    with pytest.raises(ConfigurationError, match=words):
        Budget.parse(text, price=price)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "5"])
@pytest.mark.parametrize("name", ["rows", "share", "seconds", "money"])
def test_a_budget_that_is_no_number_above_0_is_refused(monkeypatch, name, value):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    price = {"price": 0.1} if name == "money" else {}
    with pytest.raises(ConfigurationError, match=f"a budget of {name} {value} was given; it must"):
        Budget(**{name: value}, **price)


def test_rows_are_whole(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigurationError, match=r"rows 1\.5 was given; it must be a whole number"):
        Budget(rows=1.5)
    assert Budget(rows=np.int64(3)).rows_of(10) == 3


def test_a_time_beyond_all_measure_is_spent_like_any_other():
    meter = Meter(Budget(seconds=1e308), 100, 64, iter([0.0, 0.5 + 1e-9]).__next__)
    meter.spend(16, tried=16)
    assert meter.next_rows() == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed is -1; give a whole number of 0 or more"),
        ({"seed": 1.5}, r"seed is 1\.5; give a whole number"),
        ({"batch_rows": 0}, "batch_rows is 0; give a whole number of 1 or more"),
        ({"batch_rows": math.nan}, "batch_rows is nan; give a whole number"),
        ({"order": "best"}, "there is no order 'best'; choose uncertainty or random"),
    ],
)
def test_numbers_of_a_backfill_that_are_none_are_refused(monkeypatch, gallery, options, words):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigurationError, match=words):
        backfill(gallery, NEW, Model(), budget=ALL, **options)


def test_a_budget_is_one_thing():
    with pytest.raises(ConfigurationError, match="a budget of rows, share was given; give one"):
        Budget(rows=1, share=0.5)
    with pytest.raises(ConfigurationError, match="a budget of nothing was given; give one thing"):
        Budget()


def test_rows_are_spent_exactly_and_what_cannot_be_read_costs_nothing(gallery):
    model = Model(gone="da")
    told = []
    result = backfill(
        gallery,
        NEW,
        model,
        budget=Budget(rows=3),
        batch_rows=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert model.asked == ["db", "ac", "f"]
    assert embedded_in(gallery) == set("bcf")
    assert (result.done, result.skipped, result.upgraded) == (3, 2, 3)
    assert result.reasons == {"d": "d is gone", "a": "a is gone"}
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_any_number_of_backfills_go_on_where_the_last_one_ended(gallery):
    counts = []
    for _ in range(4):
        result = backfill(gallery, NEW, Model(), budget=Budget(share=0.4))
        counts.append((result.done, result.upgraded))
    assert counts == [(2, 4), (2, 2), (2, 0), (0, 0)]


class Clock:
    """Stands for a clock: a second passes with every row."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_time_is_spent_in_batches_that_become_smaller_towards_its_end():
    clock, batches = Clock(), []
    meter = Meter(Budget(seconds=100.0), 10**6, 64, clock)
    while rows := meter.next_rows():
        batches.append(rows)
        clock.now += rows
        meter.spend(rows, tried=rows)
    assert batches == [16, 64, 20]
    assert Meter(Budget(seconds=1.0), 10).left is None


def test_of_a_time_at_least_one_row_is_done_while_there_is_any_left():
    clock = Clock()
    meter = Meter(Budget(seconds=10.0), 10, 4, clock)
    assert meter.next_rows() == 4
    meter.spend(4, tried=4)
    assert meter.next_rows() == 4  # no time has passed yet
    clock.now = 9.9
    assert meter.next_rows() == 1
    clock.now = 10.0
    assert meter.next_rows() == 0


def test_a_batch_has_as_many_rows_as_a_while_is_enough_for():
    clock = Clock()
    meter = Meter(Budget(rows=1000), 1000, clock=clock)
    assert meter.next_rows() == 64
    meter.spend(60, tried=64)
    assert meter.next_rows() == 64  # no time has passed yet
    clock.now = 4.0
    assert meter.next_rows() == 160


def test_the_first_batch_is_a_small_one(tmp_path):
    many = {f"{number:03}": 0.0 for number in range(100)}
    gallery = create_gallery(f"memory:{tmp_path}", OLD, NEW, items=[items(many)])
    model = Model()
    assert backfill(gallery, NEW, model, budget=ALL).done == 100
    assert len(model.payloads) == 100
    assert len(model.asked[0]) == 64 * 3


# What it writes, and what not


def test_vectors_are_those_of_the_model_and_stay_through_another_run_and_the_cut_over(gallery):
    backfill(gallery, NEW, Model(), budget=Budget(rows=2))
    upgrade = Upgrade(gallery, H)
    upgrade.run()
    assert upgrade.verify().passed
    upgrade.cut_over(query_model="new")
    result = backfill(gallery, NEW, Model(), budget=Budget(rows=2))
    assert result.serving
    assert embedded_in(gallery) == set("dbac")
    assert gallery.read(NEW, ["d", "a"]).vectors.tolist() == [[1, 1], [1, 1]]
    assert gallery.read(NEW, ["e"]).vectors.tolist() == [[7, -1]]


@pytest.mark.parametrize("when", ["before reading", "while embedding"])
def test_a_row_that_others_change_or_delete_meanwhile_is_left_alone(gallery, when):
    def meanwhile(ids):
        gallery.update(items({"d": 1}), payloads=[{"path": "other.png"}])
        gallery.delete(["b"])
        (batch,) = gallery.scan((), ids=["a"])
        natively = Embeddings(("a",), np.full((1, 2), 8, np.float32), NEW)
        gallery.write(natively, batch.revisions, origin="embedded")

    calls = itertools.count()
    model = Model(meanwhile=meanwhile if when == "while embedding" else lambda ids: None)
    result = backfill(
        gallery,
        NEW,
        model,
        budget=ALL,
        stop=lambda: bool(next(calls) == 0 and when == "before reading" and meanwhile("")),
    )
    assert gallery.ids() == tuple("acdef")
    assert gallery.read(NEW, ["a"]).vectors.tolist() == [[8, 8]]
    if when == "while embedding":
        assert (result.done, result.changed, result.missing) == (3, 3, 1)
        assert embedded_in(gallery) == set("acef")
    else:
        assert model.asked == ["dcfe"]
        assert model.payloads[0] == {"path": "other.png"}
        assert (result.done, result.changed, result.missing) == (4, 0, 0)


def test_a_row_that_is_deleted_between_two_readings_is_left_out(gallery, monkeypatch):
    payloads, deleted = GalleryRows.payloads, []

    def delete_first(self, ids):
        if not deleted:
            deleted.append(gallery.delete(["d"]))
        return payloads(self, ids)

    monkeypatch.setattr(GalleryRows, "payloads", delete_first)
    model = Model()
    assert backfill(gallery, NEW, model, budget=Budget(rows=2)).done == 2
    assert model.asked == ["b", "a"]


def test_what_was_done_before_an_interrupt_is_kept_and_logged(gallery):
    def interrupt(ids):
        if "c" in ids:
            raise KeyboardInterrupt

    result = backfill(gallery, NEW, Model(meanwhile=interrupt), budget=ALL, batch_rows=2)
    assert (result.done, result.stopped) == (2, True)
    assert str(result).startswith("stopped: 2 rows embedded in ")
    assert embedded_in(gallery) == set("db")
    asked = itertools.count()
    result = backfill(gallery, NEW, Model(), budget=ALL, batch_rows=1, stop=lambda: next(asked) > 1)
    assert (result.done, result.stopped) == (2, True)
    assert [entry["done"] for entry in gallery.journal() if entry["event"] == "backfill"] == [2, 2]


def test_a_backfill_waits_while_the_upgrade_is_paused_and_keeps_to_its_limit(gallery):
    upgrade = Upgrade(gallery, H)
    upgrade.pause()
    asked = itertools.count()

    def resume_or_end():
        turn = next(asked)
        if turn == 1:
            upgrade.resume()
            upgrade.limit(3.0)
        return turn > 1 and gallery.view().counts[NEW].embedded >= 3

    model = Model()
    result = backfill(gallery, NEW, model, budget=ALL, stop=resume_or_end)
    assert (model.asked, result.stopped, result.done) == (["dba"], True, 3)


def test_an_error_of_the_model_keeps_what_was_done_and_is_logged(gallery):
    def fail(ids):
        if "c" in ids:
            raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        backfill(gallery, NEW, Model(meanwhile=fail), budget=ALL, batch_rows=2)
    assert embedded_in(gallery) == set("db")
    entry = gallery.journal()[-1]
    assert (entry["event"], entry["done"], entry["error"]) == ("backfill", 2, "out of memory")


def test_a_gallery_of_which_much_was_written_is_compacted(gallery, monkeypatch):
    compacted = []
    monkeypatch.setattr(GalleryRows, "compact", lambda self: compacted.append(embedded_in(self)))
    gallery.add(items({f"more {number}": 9.0 for number in range(6)}, SIDE))
    backfill(gallery, NEW, Model(), budget=Budget(rows=1))
    assert compacted == []
    backfill(gallery, NEW, Model(), budget=Budget(rows=2))
    assert compacted == [{"more 0", "more 1", "more 2"}]


def test_the_journal_says_what_was_spent_on_what(gallery):
    backfill(gallery, NEW, Model(gone="e"), budget=Budget.parse("100%"), order="random", seed=3)
    entry = gallery.journal()[-1]
    asked = {name: entry[name] for name in ("event", "budget", "order", "seed", "done", "skipped")}
    assert asked == {
        "event": "backfill",
        "budget": "100%",
        "order": "random",
        "seed": 3,
        "done": 5,
        "skipped": 1,
    }
    assert entry["reasons"] == {"e": "e is gone"}


def test_more_than_a_thousand_skipped_rows_are_counted_and_the_first_named(tmp_path):
    many = {f"{number:05}": 0.0 for number in range(1010)}
    gallery = create_gallery(f"memory:{tmp_path}", OLD, NEW, items=[items(many)])
    result = backfill(gallery, NEW, Model(gone=many), budget=ALL)
    assert (result.skipped, len(result.reasons), result.missing) == (1010, 1000, 1010)
    assert "skipped  1,010 rows" in str(result)
    assert str(result).endswith("...")
    assert len(gallery.journal()[-1]["reasons"]) == 5


def test_what_comes_next_is_said(gallery):
    again, verify = "backfill", "verify"
    result = backfill(gallery, NEW, Model(gone="d"), budget=Budget(rows=1))
    assert steps_of(result) == [again, verify]
    assert "put right what their reasons name" in result.to_json()["next_steps"][0]["why"]
    assert steps_of(backfill(gallery, NEW, Model(), budget=Budget(rows=1))) == [again, verify]
    assert steps_of(backfill(gallery, NEW, Model(), budget=ALL)) == [verify]
    gallery.serve(NEW, query_model="new")
    assert steps_of(backfill(gallery, NEW, Model(), budget=ALL)) == []


# What it refuses


def test_a_space_that_the_gallery_lacks_is_refused(gallery):
    words = r"has no vectors in other@3.*it has old@1 .*new@2.* start the upgrade to that space"
    with pytest.raises(UpgradeError, match=words):
        backfill(gallery, Space("other@3", 2), Model(), budget=ALL)


def test_vectors_of_another_model_are_refused(gallery):
    other = Space("other@3", 2)
    with pytest.raises(UpgradeError, match=r"embedded in other@3.*, but new@2.* is backfilled"):
        backfill(gallery, NEW, lambda ids, _: EmbeddedItems(items({"d": 1}, other)), budget=ALL)
    assert embedded_in(gallery) == set()


@pytest.mark.parametrize(
    ("given", "skipped", "odd"),
    [("dba", {}, "'c'"), ("dbacfe", {"d": "gone"}, "'d'"), ("dbacfex", {}, "'x'")],
)
def test_each_item_is_embedded_or_skipped_once(gallery, given, skipped, odd):
    made = EmbeddedItems(items(dict.fromkeys(given, 0.0), NEW), skipped)
    with pytest.raises(UpgradeError, match=rf"each must be one of the two, once, and {odd} is not"):
        backfill(gallery, NEW, lambda ids, payloads: made, budget=ALL)
    assert embedded_in(gallery) == set()


# Vectors that are there already


def test_embeddings_that_are_given_are_written_and_no_others(gallery):
    given = items({"f": 3, "d": 4, "nobody": 5}, NEW)
    result = backfill(gallery, NEW, embeddings_given(given), budget=ALL, ids=given.ids)
    assert (result.done, result.skipped) == (2, 0)
    assert gallery.read(NEW, ["d", "f"]).vectors.tolist() == [[7, 4], [7, 3]]
    result = backfill(gallery, NEW, embeddings_given(given), budget=Budget(rows=1))
    assert result.reasons["b"] == "no embedding of it was given"
