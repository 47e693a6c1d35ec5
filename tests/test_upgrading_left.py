"""Items of which no transformation makes a vector: left, named and counted, and the rest is done.

It gives the zero vector where the metric is the cosine, NaN, or numbers that overflow.
"""

import json
import threading

import lancedb
import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import embed, numbered, run_upgrade, start_upgrade, steps_of

from onward.cli.app import app
from onward.errors import EmbeddingsError, UpgradeError
from onward.gallery import GalleryRows, create_gallery, open_gallery
from onward.gallery.lance import fragments
from onward.spaces import Embeddings, Space
from onward.training.fit.pairs import choose_from_gallery
from onward.transformation.networks import Dense, Uncertainty
from onward.transformation.transformation import (
    NO_DIRECTION,
    NO_LENGTH,
    NOT_FINITE,
    Transformation,
    linear,
)
from onward.upgrading import Upgrade, plan_upgrade, run
from onward.upgrading.backfill import Budget, backfill, embeddings_given
from onward.upgrading.routes import MOST_NAMED

OLD, SIDE = Space("old@1", 4), Space("side@1", 2)
NEW, FLAT = Space("new@2", 4, "cosine"), Space("flat@2", 4)
ROWS = 40
IDS = numbered(ROWS)
ZERO, HUGE, NAN = (7, 23), (11,), (30,)
LEFT = {IDS[row]: NO_DIRECTION for row in ZERO} | {IDS[row]: NOT_FINITE for row in (*HUGE, *NAN)}


def to_new(new=NEW, *, side=SIDE, scale=1e10, uncertainty=False):
    """Old numbers many times over; the last one is a difference that overflows on its way."""
    weight = np.zeros((4, 4 + (0 if side is None else side.dim)), np.float32)
    weight[:3, :3] = scale * np.eye(3)
    weight[3, :2] = scale, -scale
    h = linear(OLD, side, new, weight, np.zeros(4, np.float32), made_by={})
    if not uncertainty:
        return h
    layer = Dense(np.full((1, 4), 3e38, np.float32), np.zeros(1, np.float32), relu=False)
    unsure = Uncertainty(layer, np.zeros(4, np.float32))
    return Transformation(h.old, h.side, h.new, h.steps, h.made_by, unsure)


H = to_new()


def old_vectors(ids=IDS, rows=range(ROWS), seed=0):
    vectors = np.random.default_rng(seed).uniform(0.5, 2, size=(len(ids), 4)).astype(np.float32)
    for at, row in enumerate(rows):
        if row in ZERO:
            vectors[at] = 0, 0, 0, 1
        elif row in HUGE:
            vectors[at] = 1, 1, 1e30, 1
        elif row in NAN:
            vectors[at] = 1e30, 1e30, 1, 1
    return Embeddings(tuple(ids), vectors, OLD)


def gallery_at(url, labels=None):
    old = old_vectors()
    items = Embeddings(old.ids, old.vectors, OLD, labels)
    return create_gallery(url, OLD, SIDE, items=[items, embed(SIDE, IDS)])


@pytest.fixture
def gallery(url):
    return gallery_at(url)


def check_rest(gallery, left=LEFT, h=H):
    """Every other item has what h makes of it, bit for bit."""
    assert set(gallery.ids(without=[h.new])) == set(left)
    rest = [item for item in gallery.ids() if item not in left]
    side = None if h.side is None else gallery.read(h.side, rest)
    made = h.apply(gallery.read(OLD, rest), side)
    np.testing.assert_array_equal(gallery.read(h.new, rest).vectors, made.vectors)


def reasons(blocked):
    return {one.reason: (one.rows, one.examples, one.answering) for one in blocked}


EXPECTED = {
    NO_DIRECTION: (2, tuple(IDS[row] for row in ZERO), True),
    NOT_FINITE: (2, tuple(IDS[row] for row in (*HUGE, *NAN)), True),
}


# A transformation alone


def test_items_that_get_a_vector_are_carried_as_if_alone_and_the_others_are_named():
    old, side = old_vectors(), embed(SIDE, IDS)
    carried = H.carry(old, side)
    assert carried.left == LEFT
    rows = [row for row in range(ROWS) if IDS[row] not in LEFT]
    np.testing.assert_array_equal(carried.rows, rows)
    alone = H.apply(old.select(rows), side.select(rows))
    assert carried.embeddings.ids == alone.ids
    np.testing.assert_array_equal(carried.embeddings.vectors, alone.vectors)


def test_labels_stay_with_those_that_are_carried():
    old = old_vectors()
    labelled = Embeddings(old.ids, old.vectors, OLD, np.arange(ROWS))
    carried = H.carry(labelled, embed(SIDE, IDS))
    np.testing.assert_array_equal(carried.embeddings.labels, carried.rows)


def test_where_lengths_count_the_zero_vector_is_a_vector():
    carried = to_new(FLAT).carry(old_vectors(), embed(SIDE, IDS))
    assert set(carried.left) == {IDS[row] for row in (*HUGE, *NAN)}
    assert not carried.embeddings.align([IDS[ZERO[0]]]).vectors.any()


def test_nothing_and_everything_may_be_left():
    h = to_new()
    none = old_vectors().select([])
    assert len(h.carry(none, embed(SIDE, ())).embeddings) == 0
    all_ = h.carry(old_vectors().select([7, 11]), embed(SIDE, [IDS[7], IDS[11]]))
    assert (len(all_.embeddings), len(all_.left)) == (0, 2)


def test_an_uncertainty_that_overflows_is_infinite_and_comes_first(gallery):
    h = to_new(uncertainty=True)
    upgrade = start_upgrade(gallery, h)
    assert upgrade.run().done == ROWS - len(LEFT)
    (batch,) = gallery.scan([NEW])
    assert np.isposinf(batch.uncertainties[NEW]).any()
    assert upgrade.verify(leave_out=True).passed


def test_of_what_gets_no_vector_a_transformation_is_least_sure(gallery):
    h = to_new(uncertainty=True)
    unsure = h.uncertainties(old_vectors(), embed(SIDE, IDS))
    assert set(np.flatnonzero(np.isposinf(unsure)).tolist()) >= {*ZERO, *HUGE, *NAN}
    assert not np.isnan(unsure).any()
    asked = choose_from_gallery(gallery, OLD, SIDE, count=30, by="uncertainty", transformation=h)
    assert len(asked) == 30


# A run


def test_a_run_does_the_rest_and_says_what_it_has_left(gallery):
    upgrade = start_upgrade(gallery, H)
    result = upgrade.run(batch_rows=6)
    assert (result.done, result.remaining, result.skipped) == (ROWS - 4, 0, 4)
    assert not result.stopped
    assert reasons(result.blocked) == EXPECTED
    assert steps_of(result) == ["verify", "backfill"]
    said = f"blocked  2 rows: {NO_DIRECTION} ({IDS[7]}, {IDS[23]})"
    assert said in str(result)
    check_rest(gallery)
    entry = gallery.journal()[-1]
    assert (entry["event"], entry["left"]) == ("run", sorted(LEFT))
    again = upgrade.run()
    assert (again.done, again.remaining, again.skipped) == (0, 0, 4)


def test_the_status_counts_and_names_what_was_left(gallery):
    upgrade = start_upgrade(gallery, H)
    before = upgrade.status()
    assert (before.work.to_do, before.work.skipped) == (ROWS, 0)
    upgrade.run()
    status = upgrade.status()
    assert (status.work.to_do, status.work.done, status.work.skipped) == (0, ROWS - 4, 4)
    assert reasons(status.work.blocked) == EXPECTED
    assert f"blocked      2 rows: {NOT_FINITE} ({IDS[11]}, {IDS[30]})" in str(status)
    assert "backfill" in steps_of(status)
    assert "run" not in steps_of(status)
    assert "left" not in status.to_json()


def test_a_verification_names_them_as_left_out_and_not_as_damage(gallery):
    upgrade = run_upgrade(gallery, H)
    failed = upgrade.verify(sample_rows=None)
    assert (failed.passed, failed.complete, failed.intact, failed.wrong) == (False, False, True, 0)
    assert failed.adds_up
    assert failed.pending == ()
    assert sum(one.rows for one in failed.lost) == 4
    assert f"left out   2 rows: {NO_DIRECTION} ({IDS[7]}, {IDS[23]})" in str(failed)
    with pytest.raises(UpgradeError, match="the verification of its upgrade has failed"):
        upgrade.cut_over(query_model="new")
    assert upgrade.verify(sample_rows=None, leave_out=True).passed
    assert upgrade.cut_over(query_model="new").is_cut_over


def test_a_vector_that_stands_where_the_transformation_gives_none_is_wrong(gallery):
    upgrade = start_upgrade(gallery, H)
    (batch,) = gallery.scan([OLD], ids=[IDS[7]])
    gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded", made_by=H.digest)
    upgrade.run()
    verification = upgrade.verify(sample_rows=None, leave_out=True)
    assert (verification.passed, verification.wrong_examples) == (False, (IDS[7],))


def test_a_backfill_embeds_them_first_and_then_nothing_is_missing(gallery):
    upgrade = run_upgrade(gallery, H)
    asked = []
    true = embed(NEW, IDS)

    def by_model(ids, payloads):
        asked.extend(ids)
        return embeddings_given(true)(ids, payloads)

    result = backfill(gallery, NEW, by_model, budget=Budget(rows=4), order="random")
    assert (result.done, result.missing) == (4, 0)
    assert sorted(asked) == sorted(LEFT)
    status = upgrade.status()
    assert (status.work.to_do, status.work.skipped, status.work.done) == (0, 0, ROWS)
    assert upgrade.verify(sample_rows=None).passed
    assert upgrade.run().to_json()["blocked"] == []


def test_rows_that_come_and_change_later_are_done_beside_them(gallery):
    upgrade = run_upgrade(gallery, H)
    more = old_vectors(["more-1", "more-2"], [100, 7])
    gallery.add(more, embed(SIDE, more.ids))
    gallery.update(old_vectors([IDS[7]], [100]), embed(SIDE, [IDS[7]]))
    assert upgrade.status().work.to_do == 2
    result = upgrade.run()
    assert (result.done, result.remaining, result.skipped) == (2, 0, 4)
    check_rest(gallery, {*LEFT, "more-2"} - {IDS[7]})


def test_a_run_that_was_killed_before_it_noted_them_is_gone_on_with(gallery, monkeypatch):
    upgrade = start_upgrade(gallery, H)
    with monkeypatch.context() as patched:
        patched.setattr(type(gallery), "log", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            upgrade.run()
    assert upgrade.status().work.to_do == 4, "nothing is known of what was not tried to the end"
    assert not upgrade.verify().passed
    result = Upgrade(open_gallery(gallery.url), H).run()
    assert (result.done, result.remaining, result.skipped) == (0, 0, 4)


def test_a_row_that_lacks_what_is_read_and_one_that_gets_nothing_are_told_apart(gallery):
    gallery.add(old_vectors(["bare"], [100]))
    upgrade = start_upgrade(gallery, H)
    result = upgrade.run()
    assert reasons(result.blocked) == EXPECTED | {"no side-information": (1, ("bare",), True)}
    assert result.skipped == 5


@pytest.mark.slow
def test_a_stored_vector_that_is_damaged_still_ends_the_run_and_no_status(tmp_path):
    gallery = gallery_at(tmp_path / "g.lance")
    upgrade = run_upgrade(gallery, H)
    gallery.add(old_vectors(["more"], [100]), embed(SIDE, ["more"]))
    items = lancedb.connect(tmp_path / "g.lance").open_table("items")
    items.update("id = 'more'", values={"old_1": [1e39] * 4})
    with pytest.raises(EmbeddingsError, match=r"item 'more' .*NaN or infinite"):
        upgrade.run()
    assert upgrade.status().work.to_do >= 1


def test_after_an_abort_they_are_to_do_again(gallery):
    upgrade = run_upgrade(gallery, H)
    assert upgrade.abort().work.to_do == ROWS
    upgrade.start()
    assert upgrade.status().work.to_do == ROWS
    assert upgrade.run().skipped == 4


def test_a_transformation_that_makes_nothing_at_all_ends_with_all_of_them_named(gallery):
    h = linear(OLD, SIDE, NEW, np.zeros((4, 6)), np.zeros(4, np.float32), made_by={})
    upgrade = start_upgrade(gallery, h)
    result = upgrade.run(batch_rows=7)
    assert (result.done, result.remaining, result.skipped) == (0, 0, ROWS)
    assert plan_upgrade(gallery, h).work.to_do == 0


def test_workers_that_share_the_rows_end_although_some_are_left(gallery, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.05)
    start_upgrade(gallery, H)
    results = []

    def work():
        results.append(Upgrade(open_gallery(gallery.url), H).run(batch_rows=4))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(timeout=60)
    assert [one.skipped for one in results] == [4, 4]
    assert sum(one.done for one in results) >= ROWS - 4
    check_rest(gallery)


# Another transformation may carry them


def test_a_fallback_carries_what_the_first_gives_no_vector(gallery):
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(4, 4)) * 1e-15  # of all lengths that a gallery takes
    other = linear(OLD, None, NEW, weight, np.ones(4, np.float32), made_by={})
    upgrade = start_upgrade(gallery, H, other)
    result = upgrade.run(batch_rows=6)
    assert (result.done, result.remaining, result.skipped) == (ROWS, 0, 0)
    by_other = other.apply(gallery.read(OLD, sorted(LEFT)))
    stored = gallery.read(NEW, sorted(LEFT))
    np.testing.assert_array_equal(stored.vectors, by_other.vectors)
    assert upgrade.verify(sample_rows=None).passed


def test_where_the_fallback_gives_nothing_either_the_first_says_why(gallery):
    upgrade = start_upgrade(gallery, H, to_new(side=None, scale=2e10))
    result = upgrade.run()
    assert reasons(result.blocked) == EXPECTED
    assert "left" in gallery.journal()[-1]


def test_a_fallback_that_needs_what_they_lack_is_passed_over(gallery):
    third = Space("third@1", 3)
    gallery.add_space(third)
    (batch,) = gallery.scan([OLD], ids=[IDS[7]])
    gallery.write(embed(third, batch.ids), batch.revisions, origin="embedded")
    other = linear(third, None, NEW, np.ones((4, 3)), np.ones(4, np.float32), made_by={})
    result = start_upgrade(gallery, H, other).run()
    assert result.skipped == 3
    assert IDS[7] not in gallery.ids(without=[NEW])


# Filled in large parts


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [3, 8, 100])
@pytest.mark.parametrize(
    "kept", [set(range(ROWS)) - {*ZERO, *HUGE, *NAN}, {0}, {ROWS - 1}, {12, 13}, set()]
)
def test_parts_that_are_filled_at_once_have_gaps_where_nothing_is_made(
    tmp_path, monkeypatch, kept, batch_rows
):
    monkeypatch.setattr(fragments, "FEWEST_ROWS", 5)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    old = old_vectors(IDS, [100] * ROWS)
    vectors = old.vectors.copy()
    vectors[sorted(set(range(ROWS)) - kept)] = 0, 0, 0, 1
    items = [Embeddings(IDS, vectors, OLD), embed(SIDE, IDS)]
    gallery = create_gallery(tmp_path / "g.lance", OLD, SIDE, items=items)
    upgrade = start_upgrade(gallery, H)
    filled = []
    real = GalleryRows.fill

    def noted(self, *args, **options):
        for written in real(self, *args, **options):
            filled.append(written)
            yield written

    monkeypatch.setattr(GalleryRows, "fill", noted)
    result = upgrade.run(batch_rows=batch_rows)
    assert (result.done, result.remaining, result.skipped) == (len(kept), 0, ROWS - len(kept))
    assert sum(filled) == len(kept), "they were not filled at once"
    check_rest(gallery, {IDS[row] for row in set(range(ROWS)) - kept})
    assert upgrade.verify(sample_rows=None, leave_out=True).passed
    assert gallery.ids() == IDS


def test_what_is_left_in_a_part_a_fallback_carries(tmp_path, monkeypatch):
    monkeypatch.setattr(fragments, "FEWEST_ROWS", 5)
    gallery = gallery_at(tmp_path / "g.lance")
    other = linear(OLD, None, NEW, np.eye(4) * 1e-15, np.ones(4, np.float32), made_by={})
    upgrade = start_upgrade(gallery, H, other)
    assert upgrade.run(batch_rows=8).done == ROWS
    assert upgrade.verify(sample_rows=None).passed


def test_vectors_too_long_or_too_short_for_the_cosine_are_left_too(gallery):
    """Two of each; a store that took them could not find them."""
    weight = np.diag([1, 1, 1, 1e-17]).astype(np.float32)
    h = linear(OLD, None, NEW, weight, np.zeros(4, np.float32), made_by={})
    upgrade = start_upgrade(gallery, h)
    result = upgrade.run(batch_rows=8)
    ((why, (rows, examples, answering)),) = reasons(result.blocked).items()
    assert (why, rows, answering) == (NO_LENGTH, 4, True)
    assert set(examples) <= set(LEFT)
    assert (result.done, result.remaining) == (ROWS - 4, 0)
    check_rest(gallery, LEFT, h)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_vector_that_no_index_takes_is_left_and_the_rest_is_cut_over(gallery, metric):
    """It is finite, and the database would compute an infinite distance to it."""
    new = Space("long@2", 4, metric)
    h = linear(OLD, None, new, np.diag([1.0, 1, 1, 0]), np.zeros(4), made_by={})
    upgrade = start_upgrade(gallery, h)
    assert reasons(upgrade.run().blocked) == {
        NO_LENGTH: (2, tuple(IDS[row] for row in (*HUGE, *NAN)), True)
    }
    upgrade.verify(leave_out=True)
    assert upgrade.cut_over(query_model="new").serving == new
    check_rest(gallery, {IDS[row] for row in (*HUGE, *NAN)}, h)


def test_a_backfill_embeds_first_also_those_that_the_journal_does_not_name():
    ids = numbered(MOST_NAMED + 300)
    vectors = np.zeros((len(ids), 4), np.float32)
    vectors[:60] = np.random.default_rng(0).uniform(1, 2, size=(60, 4))
    gallery = create_gallery("memory:many", OLD, items=[Embeddings(ids, vectors, OLD)])
    done = start_upgrade(gallery, to_new(side=None)).run().done
    assert done == 60
    given = embeddings_given(Embeddings(ids, np.ones((len(ids), 4), np.float32), NEW))
    for _ in range(2):
        backfill(gallery, NEW, given, budget=Budget(rows=(len(ids) - done) // 2), order="random")
    assert gallery.ids(without=[NEW]) == ()
    assert gallery.view().counts[NEW].upgraded == done


# The command line


def invoke(*words, code):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_the_command_ends_with_1_and_names_them(tmp_path):
    url, h = tmp_path / "g.lance", tmp_path / "h"
    gallery_at(url)
    H.save(h)
    said = json.loads(invoke("upgrade", "start", url, h, "--json", "--unjudged", code=1).stdout)
    assert (said["done"], said["skipped"], said["remaining"]) == (ROWS - 4, 4, 0)
    named = {one["reason"]: one["examples"] for one in said["blocked"]}
    assert named == {reason: list(ids) for reason, (_, ids, _) in EXPECTED.items()}
    assert [one["step"] for one in said["next_steps"]] == ["verify", "backfill"]
    assert f"blocked  2 rows: {NOT_FINITE}" in invoke("upgrade", "start", url, h, code=1).stdout
    assert NO_DIRECTION in invoke("upgrade", "status", url, h, code=0).stdout
    invoke("upgrade", "verify", url, h, code=1)
    assert "left=" not in invoke("upgrade", "log", url, code=0).stdout
    true = tmp_path / "new.parquet"
    embed(NEW, sorted(LEFT)).save(true)
    invoke("backfill", url, "--embeddings", true, "--order", "random", code=0)
    invoke("upgrade", "start", url, h, code=0)
    invoke("upgrade", "verify", url, h, "--all", code=0)
