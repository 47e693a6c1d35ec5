"""Upgrades in a row, v1 -> v2 -> v3: what each row is carried from, on every store."""

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import (
    OLD,
    SECOND,
    SECOND_TO_THIRD,
    SIDE,
    THIRD,
    TO_SECOND,
    TO_THIRD,
    carry_out,
    embed,
    make_gallery,
    make_transformation,
    numbered,
    run_upgrade,
    steps_of,
)

from onward.cli.app import app
from onward.errors import UpgradeError
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Space
from onward.transformation import compose
from onward.upgrading import Upgrade, plan_upgrade
from onward.upgrading.backfill import Budget, backfill, embeddings_given

ROWS = 12


@pytest.fixture
def gallery(url):
    """First model, first upgrade, completed; then three items that the second model embedded."""
    gallery = make_gallery(url, ROWS)
    carry_out(gallery, TO_SECOND).complete(now=True)
    gallery.add(embed(SECOND, numbered(3, "native")))
    return gallery


def test_the_next_upgrade_is_made_from_the_kept_originals_and_native_rows_by_the_fallback(gallery):
    upgrade = carry_out(gallery, TO_THIRD, SECOND_TO_THIRD)
    old = numbered(ROWS)
    direct = TO_THIRD.apply_reference(gallery.read(OLD, old), gallery.read(SIDE, old))
    np.testing.assert_allclose(gallery.read(THIRD, old).vectors, direct.vectors, atol=1e-5)
    native = numbered(3, "native")
    made = SECOND_TO_THIRD.apply_reference(gallery.read(SECOND, native))
    np.testing.assert_allclose(gallery.read(THIRD, native).vectors, made.vectors, atol=1e-5)
    assert upgrade.status().notes == (), "native rows are embedded: that is no chain"
    assert gallery.search(embed(THIRD, ["q"]), ROWS + 9).rows.shape == (1, ROWS + 3)


def test_a_direct_upgrade_alone_would_lose_the_native_rows_and_says_so(gallery):
    (note,) = Upgrade(gallery, SECOND_TO_THIRD).status().notes
    assert note.endswith("A transformation fitted from old@1 directly, still stored, is better")
    upgrade = run_upgrade(gallery, TO_THIRD)
    verification = upgrade.verify()
    assert not verification.passed
    assert [str(one) for one in verification.lost] == [
        "3 rows: no vector in the old space (native-0000, native-0001, native-0002)"
    ]


def test_completing_the_sequence_keeps_the_second_space_for_the_native_rows(gallery):
    completion = carry_out(gallery, TO_THIRD, SECOND_TO_THIRD).complete(now=True)
    assert completion.dropped == ()
    assert set(completion.kept) == {OLD, SIDE, SECOND}
    for batch in list(gallery.scan([SECOND], without=[OLD])):
        gallery.write(embed(THIRD, batch.ids), batch.revisions, origin="embedded")
    again = Upgrade(gallery, TO_THIRD, SECOND_TO_THIRD).complete(now=True)
    assert again.dropped == (SECOND,), "its native rows were embedded again"


def test_rolling_back_the_second_upgrade_returns_to_the_second_model(gallery):
    upgrade = carry_out(gallery, TO_THIRD, SECOND_TO_THIRD)
    status = upgrade.roll_back()
    assert (status.serving, status.query_model) == (SECOND, "second")
    assert gallery.search(embed(SECOND, ["q"]), ROWS + 9).rows.shape == (1, ROWS + 3)
    assert upgrade.cut_over(query_model="third").serving == THIRD


def test_where_the_originals_were_dropped_a_chain_carries_every_row_and_says_so(url, gallery):
    Upgrade(gallery, TO_SECOND).complete(now=True, drop_original=True)
    assert gallery.spaces() == (SECOND,)
    with pytest.raises(UpgradeError, match="has no vectors in old@1"):
        Upgrade(gallery, TO_THIRD)
    note = (
        f"{ROWS} rows are a chain, old@1 -> second@2 -> third@3: every link loses a little. Their "
        "originals were dropped; a sample says what is left (plan with sample=...)"
    )
    assert plan_upgrade(gallery, SECOND_TO_THIRD).advice[-1] == note
    upgrade = carry_out(gallery, SECOND_TO_THIRD)
    assert upgrade.status().notes == (note,)
    assert f"note         {note}" in str(upgrade.status())
    assert json.loads(json.dumps(upgrade.status().to_json()))["notes"] == [note]
    every = gallery.ids()
    made = SECOND_TO_THIRD.apply_reference(gallery.read(SECOND, every))
    np.testing.assert_allclose(gallery.read(THIRD, every).vectors, made.vectors, atol=1e-5)
    completion = upgrade.complete(now=True)
    assert [f"{space}: {why}" for space, why in completion.kept.items()] == [
        "second@2 (6, l2): a model embedded 3 rows (native-0000, native-0001, native-0002) in no "
        "other space"
    ]
    assert Upgrade(open_gallery(url), SECOND_TO_THIRD).verify(sample_rows=None).passed


def test_a_composed_transformation_gives_what_the_chain_gives(gallery):
    """It needs no second space, and loses what the chain loses."""
    composed = compose(TO_SECOND, SECOND_TO_THIRD)
    assert (composed.old, composed.side, composed.new) == (OLD, SIDE, THIRD)
    ids = numbered(ROWS)
    carry_out(gallery, composed, SECOND_TO_THIRD)
    chained = SECOND_TO_THIRD.apply_reference(gallery.read(SECOND, ids)).vectors
    np.testing.assert_allclose(gallery.read(THIRD, ids).vectors, chained, rtol=1e-4, atol=1e-4)


def test_an_item_whose_content_changes_in_the_second_model_goes_by_the_fallback(gallery):
    gallery.update(embed(SECOND, ["item-0003"], seed=7))
    assert gallery.count([OLD]) == ROWS - 1
    upgrade = carry_out(gallery, TO_THIRD, SECOND_TO_THIRD)
    made = SECOND_TO_THIRD.apply_reference(gallery.read(SECOND, ["item-0003"]))
    found = gallery.read(THIRD, ["item-0003"]).vectors
    np.testing.assert_allclose(found, made.vectors, atol=1e-5)
    upgrade.run()
    assert upgrade.verify(sample_rows=None).wrong == 0


def test_a_third_upgrade_is_made_from_the_first_vectors_still(gallery):
    carry_out(gallery, TO_THIRD, SECOND_TO_THIRD).complete(now=True)
    fourth = Space("fourth@4", 5)
    direct = make_transformation(OLD, SIDE, fourth, seed=5)
    onward = make_transformation(SECOND, None, fourth, seed=6)
    upgrade = carry_out(gallery, direct, onward)
    ids = numbered(ROWS)
    made = direct.apply_reference(gallery.read(OLD, ids), gallery.read(SIDE, ids))
    np.testing.assert_allclose(gallery.read(fourth, ids).vectors, made.vectors, atol=1e-5)
    completion = upgrade.complete(now=True)
    assert completion.dropped == (THIRD,)
    assert gallery.spaces() == (OLD, SIDE, SECOND, fourth)


# What is embedded, or collected, after vectors were made of something else


WITHOUT_SIDE = make_transformation(OLD, None, SECOND, seed=7)


@pytest.fixture
def items(url):
    return create_gallery(url, OLD, SIDE, items=(embed(OLD, "abc"),))


def run(items, *transformations):
    upgrade = run_upgrade(items, *transformations)
    assert upgrade.verify(sample_rows=None).passed
    return upgrade


def embed_later(items, space, ids):
    given = embeddings_given(embed(space, ids, seed=9))
    return backfill(items, space, given, budget=Budget(share=1.0), ids=ids, order="random")


def test_what_a_fallback_made_is_right_also_when_side_information_comes_later(items):
    upgrade = run(items, TO_SECOND, WITHOUT_SIDE)
    before = items.read(SECOND).vectors
    assert embed_later(items, SIDE, "ab").done == 2
    np.testing.assert_array_equal(items.read(SECOND).vectors, before)
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed
    assert (verification.checked, verification.wrong) == (3, 0)


def test_a_vector_that_none_of_the_transformations_makes_is_wrong(items):
    upgrade = run(items, TO_SECOND, WITHOUT_SIDE)
    embed_later(items, SIDE, "ab")
    batch = next(items.scan([], ids="b"))
    items.write(embed(SECOND, "b", seed=3), batch.revisions, origin="upgraded")
    verification = upgrade.verify(sample_rows=None)
    assert (verification.wrong, verification.wrong_examples) == (1, ("b",))


def test_what_was_made_of_a_vector_is_made_again_when_a_model_has_replaced_it(items):
    run(items, TO_SECOND, WITHOUT_SIDE)
    upgrade = run(items, TO_THIRD, SECOND_TO_THIRD)
    before = items.read(THIRD)
    assert embed_later(items, SECOND, "a").done == 1
    assert items.ids([THIRD]) == ("b", "c")
    assert upgrade.run().done == 1
    after = items.read(THIRD)
    assert [bool(one) for one in (after.vectors == before.vectors).all(axis=1)] == [
        False,
        True,
        True,
    ]
    assert upgrade.verify(sample_rows=None).passed


def test_what_a_model_has_made_stays_whatever_it_could_be_made_of(items):
    run(items, TO_SECOND, WITHOUT_SIDE)
    run(items, TO_THIRD, SECOND_TO_THIRD)
    embed_later(items, THIRD, "a")
    embed_later(items, SECOND, "ab")
    assert items.ids([THIRD]) == ("a", "c")
    np.testing.assert_array_equal(items.read(THIRD, "a").vectors, embed(THIRD, "a", 9).vectors)
    np.testing.assert_array_equal(items.read(OLD).vectors, embed(OLD, "abc").vectors)


def test_what_is_given_where_nothing_was_clears_nothing(items):
    run(items, TO_SECOND, WITHOUT_SIDE)
    run(items, TO_THIRD, SECOND_TO_THIRD)
    embed_later(items, SIDE, "abc")
    assert items.ids([SECOND, THIRD]) == ("a", "b", "c")


# The command line


@pytest.mark.slow
def test_every_step_of_a_sequence_is_in_the_journal_with_what_to_do_next(tmp_path):
    gallery = make_gallery(str(tmp_path / "g.lance"), ROWS)
    for name, transformation in (("h", TO_SECOND), ("h2", TO_THIRD)):
        transformation.save(tmp_path / name)
    steps = ("start", "verify", "cutover", "rollback", "cutover", "complete")
    for h, step in itertools.product(("h", "h2"), steps):
        given = {"complete": ["--now"], "start": ["--unjudged"]}.get(step, [])
        words = [step, gallery.url, str(tmp_path / h), "--json", *given]
        run = CliRunner().invoke(app, ["upgrade", *words])
        assert run.exit_code == 0, (step, run.output)
        assert "next_steps" in json.loads(run.stdout), step
    journal = gallery.journal()
    once = ["gate", "start upgrade", "run", "verify", "build index"]
    once += ["cut over", "roll back", "cut over", "complete"]
    assert [entry["event"] for entry in journal] == ["create", *once, *once]
    digests = {entry.get("transformation") for entry in journal[2:]} - {None}
    assert digests == {TO_SECOND.digest, TO_THIRD.digest}
    assert [space["name"] for space in journal[-1]["dropped"]] == ["second@2"]
    run = CliRunner().invoke(app, ["upgrade", "log", gallery.url])
    assert run.exit_code == 0
    assert run.stdout.count("  complete  ") == 2
    shown = run.stdout.splitlines()[-1].split("  ")
    assert {"dropped=second@2", "ended=second@2", "kept=old@1,side@1", "now=True"} <= set(shown)
    gallery.log({"event": "limit", "rows_per_second": 30000.0})
    run = CliRunner().invoke(app, ["upgrade", "log", gallery.url])
    assert run.stdout.endswith("  limit  rows_per_second=30,000\n")
    run = CliRunner().invoke(app, ["upgrade", "log", gallery.url, "--json"])
    logged = [json.loads(line) for line in run.stdout.splitlines()]
    assert all("next_steps" in entry for entry in logged)
    last = logged[-2]
    assert (last["event"], last["next_steps"], last["now"]) == ("complete", [], True)
    assert steps_of(Upgrade(gallery, TO_THIRD).status()) == []
