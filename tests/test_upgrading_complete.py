"""Cut over, roll back and complete, on every store: what they keep, drop, name and refuse."""

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
    run_upgrade,
    steps_of,
)

from onward.cli.app import app
from onward.errors import GalleryError, SpaceMismatchError, UpgradeError
from onward.gallery import GalleryRows, create_gallery, open_gallery
from onward.spaces import Embeddings
from onward.upgrading import Upgrade, plan_upgrade
from onward.upgrading.complete import plan_completion

ROWS = 20


@pytest.fixture
def gallery(url):
    return make_gallery(url, ROWS)


@pytest.fixture
def upgrade(gallery):
    return carry_out(gallery, TO_SECOND)


# Cutting over


def test_queries_of_another_model_are_refused_before_during_and_after(gallery):
    old, new = embed(OLD, ["q"]), embed(SECOND, ["q"])
    upgrade = Upgrade(gallery, TO_SECOND)

    def assert_only(right, wrong, todo="Finish the upgrade to second@2 and cut over"):
        assert gallery.search(right, 1).rows.shape == (1, 1)
        with pytest.raises(SpaceMismatchError, match=todo):
            gallery.search(wrong, 1)

    embed_or_upgrade = "(e|E)mbed the queries with the model that serves"
    assert_only(old, new, embed_or_upgrade)
    upgrade.start()
    upgrade.run(batch_rows=5, progress=lambda done, total: assert_only(old, new))
    upgrade.verify()
    assert_only(old, new)
    upgrade.cut_over(query_model="second")
    assert_only(new, old, f"{embed_or_upgrade}, or roll back")
    upgrade.roll_back()
    assert_only(old, new)
    upgrade.cut_over(query_model="second")
    upgrade.complete(now=True)
    assert_only(new, old, embed_or_upgrade)


def test_the_index_is_built_before_the_record_changes(gallery, monkeypatch):
    upgrade = run_upgrade(gallery, TO_SECOND)
    upgrade.verify()
    built = []
    build_index = GalleryRows.build_index

    def noted(self, space):
        built.append((space, gallery.view().serving))
        build_index(self, space)

    monkeypatch.setattr(GalleryRows, "build_index", noted)
    upgrade.cut_over(query_model="second")
    assert built == [(SECOND, OLD)]
    upgrade.roll_back()
    upgrade.cut_over(query_model="second")
    assert built == [(SECOND, OLD)], "it was built again although it is there"
    entry = next(one for one in gallery.journal() if one["event"] == "build index")
    assert (entry["rows"], entry["space"]) == (ROWS, SECOND.to_json())


def test_rows_that_change_while_the_index_is_built_make_the_verification_stale(
    gallery, monkeypatch
):
    upgrade = run_upgrade(gallery, TO_SECOND)
    upgrade.verify()
    monkeypatch.setattr(GalleryRows, "build_index", lambda *_: gallery.delete(["item-0001"]))
    with pytest.raises(UpgradeError, match="rows have changed since its upgrade was verified"):
        upgrade.cut_over(query_model="second")
    assert gallery.view().serving == OLD
    upgrade.verify()
    assert upgrade.cut_over(query_model="second").is_cut_over


def test_a_gallery_without_a_single_new_vector_cuts_over_too(url):
    gallery = create_gallery(url, OLD, SIDE, query_model="first")
    assert carry_out(gallery, TO_SECOND).status().is_cut_over


def test_the_moment_of_cutting_over_is_in_the_record(gallery):
    before = datetime.now(UTC)
    assert gallery.view().record.serving.since is None
    upgrade = carry_out(gallery, TO_SECOND)
    since = datetime.fromisoformat(upgrade.status().since)
    assert before - timedelta(seconds=1) <= since <= datetime.now(UTC)
    gallery.serve(SECOND, query_model="another")
    assert datetime.fromisoformat(gallery.view().record.serving.since) == since
    upgrade.roll_back()
    assert gallery.view().record.serving.since is None


# Rolling back


def test_rolling_back_names_the_items_that_were_added_natively(url, upgrade):
    gallery = open_gallery(url)
    gallery.add(embed(SECOND, ["native-1", "native-0"]))
    assert upgrade.status().natives.examples == ("native-0", "native-1")
    words = (
        r"not rolled back: 2 rows \(native-0, native-1\) were added with the new model's embedding "
        r"and have no vector in old@1 .* embed them with the old model .* or leave them out"
    )
    with pytest.raises(UpgradeError, match=words):
        upgrade.roll_back()
    assert gallery.view().serving == SECOND
    status = upgrade.roll_back(leave_out=True)
    assert status.serving == OLD
    assert (status.natives.rows, status.natives.examples) == (2, ("native-0", "native-1"))
    assert status.to_json()["natives"]["examples"] == ["native-0", "native-1"]
    assert "native-0, native-1): embedded by the new model alone, not found now" in str(status)
    entry = gallery.journal()[-1]
    assert entry["event"] == "roll back"
    assert entry["left_out"] == {"rows": 2, "examples": ["native-0", "native-1"]}
    assert entry["transformation"] == TO_SECOND.digest


def test_cutting_over_again_after_a_roll_back_finds_the_native_items_again(gallery, upgrade):
    native = embed(SECOND, ["native"])
    gallery.add(native)
    upgrade.roll_back(leave_out=True)
    with pytest.raises(UpgradeError, match="rows have changed since"):
        upgrade.cut_over(query_model="second")
    upgrade.verify()
    assert upgrade.cut_over(query_model="second").serving == SECOND
    assert gallery.search(native, 1).ids_of(0) == ["native"]


def test_native_items_that_the_old_model_embeds_too_do_not_stand_in_the_way(gallery, upgrade):
    gallery.add(embed(SECOND, ["native"]))
    batch = next(gallery.scan([SECOND], without=[OLD]))
    assert gallery.write(embed(OLD, batch.ids, seed=5), batch.revisions, origin="embedded") == 1
    status = upgrade.roll_back()
    assert (status.serving, status.natives) == (OLD, None)
    assert gallery.search(embed(OLD, ["native"], seed=5), 1).ids_of(0) == ["native"]


# Completing


def test_completing_keeps_the_originals_and_ends_rolling_back(gallery, upgrade):
    before = gallery.read(OLD).vectors, gallery.read(SIDE).vectors
    assert steps_of(upgrade.status()) == ["roll_back", "complete"]
    completion = upgrade.complete(now=True)
    assert (completion.ended, completion.dropped, completion.impossible) == (OLD, (), ())
    assert [f"{space}: {why}" for space, why in completion.kept.items()] == [
        "old@1 (4, l2): later upgrades are fitted from it directly",
        "side@1 (3, l2): later upgrades are fitted from it directly",
    ]
    np.testing.assert_array_equal(gallery.read(OLD).vectors, before[0])
    np.testing.assert_array_equal(gallery.read(SIDE).vectors, before[1])
    assert steps_of(completion) == steps_of(upgrade.status()) == []
    with pytest.raises(GalleryError, match="has nothing to roll back to"):
        upgrade.roll_back()
    entry = gallery.journal()[-1]
    assert entry["event"] == "complete"
    assert (entry["now"], entry["drop_original"]) == (True, False)


def test_completing_too_early_says_from_when_on_it_can_be_done(gallery, upgrade):
    since = datetime.fromisoformat(gallery.view().record.serving.since)
    day = since + timedelta(days=7)
    words = f"cannot be completed before {day:%Y-%m-%d %H:%M} UTC: it was cut over at .* for 7 days"
    with pytest.raises(UpgradeError, match=words):
        upgrade.complete()
    with pytest.raises(UpgradeError, match=r"say now=True"):
        upgrade.complete(rollback_window=timedelta(hours=1))
    words = r"are made from those in old@1 \(4, l2\): it goes the wrong way\. To answer .*roll"
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, make_transformation(SECOND, None, OLD))
    assert upgrade.roll_back().serving == OLD
    upgrade.cut_over(query_model="second")
    assert upgrade.complete(rollback_window=timedelta(0)).ended == OLD


NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@contextmanager
def clock_at(now):
    """Let the system's clock say another time, to all that writes and reads moments."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return now.astimezone(tz)

    with pytest.MonkeyPatch.context() as patched:
        for module in ("gallery.record", "upgrading.complete"):
            patched.setattr(f"onward.{module}.datetime", Clock)
        yield


def carried_out(url, *, created=NOW, run=NOW, cut=NOW):
    """A gallery that was upgraded by clocks that said these times."""
    with clock_at(created):
        gallery = make_gallery(url, ROWS)
    upgrade = Upgrade(gallery, TO_SECOND)
    with clock_at(run):
        upgrade.start()
        upgrade.run()
        upgrade.verify()
    with clock_at(cut):
        upgrade.cut_over(query_model="second")
    return upgrade


def refusal(upgrade, at, **options):
    """What completing is refused with when the clock says a time; None if it is not."""
    try:
        with clock_at(at):
            upgrade.complete(**options)
    except UpgradeError as error:
        return str(error)
    return None


UNKNOWN = "or the clock was wrong, so nobody knows whether the time to roll back is over"


def test_a_clock_that_was_set_back_some_hours_does_not_make_the_time_shorter(url):
    upgrade = carried_out(url, cut=NOW - timedelta(hours=20))
    said = refusal(upgrade, NOW + 6 * DAY)
    assert f"before {NOW + 7 * DAY:%Y-%m-%d %H:%M} UTC: it was cut over at" in said
    assert refusal(upgrade, NOW + 8 * DAY) is None


@pytest.mark.parametrize(
    "clocks",
    [
        pytest.param({"cut": NOW - 365 * DAY}, id="set back for the cutover"),
        pytest.param({"run": NOW - 400 * DAY, "cut": NOW - 400 * DAY}, id="since the start"),
        pytest.param({"cut": NOW + 30 * DAY}, id="ahead for the cutover"),
        pytest.param({"run": NOW + 30 * DAY, "cut": NOW + 30 * DAY}, id="ahead since the start"),
    ],
)
def test_a_clock_that_was_wrong_at_the_cutover_leaves_the_time_unknown(url, clocks):
    upgrade = carried_out(url, created=NOW, **clocks)
    with clock_at(NOW + DAY):
        upgrade.verify()  # what is written afterwards changes nothing
    for day in (2, 20):
        said = refusal(upgrade, NOW + day * DAY)
        assert UNKNOWN in said
        assert said.endswith("to complete it at once, say now=True")
    assert refusal(upgrade, NOW + 2 * DAY, now=True) is None


def test_what_is_done_after_cutting_over_does_not_make_the_time_longer(url):
    upgrade = carried_out(url)
    for day in range(1, 8):
        with clock_at(NOW + day * DAY):
            upgrade.gallery.log({"event": "backfill"})
            upgrade.verify()
            upgrade.cut_over(query_model=f"second, renamed {day} times")
    assert refusal(upgrade, NOW + 6 * DAY) is not None
    assert refusal(upgrade, NOW + 7 * DAY + timedelta(minutes=1)) is None


def test_a_clock_that_was_behind_from_the_beginning_on_is_believed(url):
    """Nothing in the journal contradicts it: the limit that decision 0016 states."""
    behind = NOW - 5 * DAY
    upgrade = carried_out(url, created=behind, run=behind, cut=behind)
    assert f"before {NOW + 2 * DAY:%Y-%m-%d %H:%M} UTC" in refusal(upgrade, NOW + DAY)
    assert refusal(upgrade, NOW + 2 * DAY + timedelta(minutes=1)) is None


def test_a_moment_far_ahead_of_the_clock_that_another_machine_wrote_is_not_used(url):
    with clock_at(NOW):
        upgrade = Upgrade(make_gallery(url, ROWS), TO_SECOND)
    with clock_at(NOW + 30 * DAY):
        upgrade.gallery.log({"event": "by another machine"})
    with clock_at(NOW):
        upgrade = carry_out(upgrade.gallery, TO_SECOND)
    assert f"before {NOW + 7 * DAY:%Y-%m-%d %H:%M} UTC" in refusal(upgrade, NOW + DAY)
    assert refusal(upgrade, NOW + 8 * DAY) is None


def test_less_than_a_day_ahead_is_a_clock_that_is_a_little_wrong(url):
    upgrade = carried_out(url, cut=NOW + timedelta(hours=20))
    assert f"before {NOW + 7 * DAY + timedelta(hours=20):%Y-%m-%d %H:%M}" in refusal(upgrade, NOW)


@pytest.mark.parametrize(
    "written", ["yesterday", "", None, 7, "2026-13-01", "9999-99", "0001-01-01T00:00:00+23:00"]
)
def test_moments_that_cannot_be_read_are_not_used(tmp_path, written):
    upgrade = carried_out(f"memory:{tmp_path}")
    store = upgrade.gallery._store
    store._journal = [
        entry | ({"time": written} if entry["event"] == "verify" else {})
        for entry in store._journal
    ]
    assert f"before {NOW + 7 * DAY:%Y-%m-%d %H:%M} UTC" in refusal(upgrade, NOW + DAY)
    known = store._record
    store._record = replace(known, serving=replace(known.serving, since=str(written)))
    assert UNKNOWN in refusal(upgrade, NOW + 8 * DAY)
    store._record = known
    assert refusal(upgrade, NOW + 8 * DAY) is None


def test_a_moment_without_a_zone_is_in_utc(tmp_path):
    upgrade = carried_out(f"memory:{tmp_path}")
    store = upgrade.gallery._store
    since = f"{NOW:%Y-%m-%dT%H:%M:%S}"
    store._record = replace(store._record, serving=replace(store._record.serving, since=since))
    assert f"before {NOW + 7 * DAY:%Y-%m-%d %H:%M} UTC" in refusal(upgrade, NOW)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (timedelta(days=-1), "a rollback window of -1 days was given; give 0 to 36,500"),
        (timedelta.max, "a rollback window of 1e.09 days was given; give 0 to"),
    ],
)
def test_a_rollback_window_that_is_none_is_refused(upgrade, window, words):
    with pytest.raises(UpgradeError, match=words):
        upgrade.complete(rollback_window=window)


def test_completing_what_does_not_serve_is_refused(gallery, upgrade):
    upgrade.roll_back()
    words = r"answers from old@1 .* nothing to complete, and nothing .*cut over first$"
    with pytest.raises(UpgradeError, match=words):
        upgrade.complete(now=True)
    with pytest.raises(UpgradeError, match=words):
        plan_completion(gallery.view(), upgrade.routes, drop_original=True)
    with pytest.raises(UpgradeError, match="was not started"):
        Upgrade(gallery, TO_THIRD).complete(now=True)


def test_completing_twice_changes_nothing_the_second_time(gallery, upgrade):
    upgrade.complete(now=True)
    entries = len(gallery.journal())
    completion = upgrade.complete()
    assert (completion.ended, completion.dropped) == (None, ())
    assert len(gallery.journal()) == entries


def test_completing_the_second_upgrade_drops_what_the_first_one_made(gallery, upgrade):
    upgrade.complete(now=True)
    second = carry_out(gallery, TO_THIRD)
    planned = plan_completion(gallery.view(), second.routes, drop_original=False)
    assert planned.dropped == (SECOND,)
    assert SECOND in gallery.spaces()
    completion = second.complete(now=True)
    assert completion.to_json() == planned.to_json()
    assert gallery.spaces() == (OLD, SIDE, THIRD)
    assert second.verify(sample_rows=None).passed


def test_an_upgrade_that_is_under_way_and_what_it_reads_are_kept(gallery, upgrade):
    Upgrade(gallery, SECOND_TO_THIRD).start()
    completion = upgrade.complete(now=True, drop_original=True)
    assert completion.dropped == (OLD, SIDE)
    assert [f"{space}: {why}" for space, why in completion.kept.items()] == [
        "third@3 (5, l2): an upgrade to it is under way"
    ]


def test_originals_that_another_upgrade_reads_are_kept_even_when_given_up(gallery, upgrade):
    Upgrade(gallery, TO_THIRD).start()
    completion = upgrade.complete(now=True, drop_original=True)
    assert completion.dropped == ()
    assert completion.kept[OLD] == "an upgrade that is under way reads it"


def test_giving_up_the_originals_says_what_becomes_impossible(gallery, upgrade):
    completion = upgrade.complete(now=True, drop_original=True)
    assert completion.dropped == (OLD, SIDE)
    assert [one.partition(":")[0] for one in completion.impossible] == [
        "rolling back to a space that was dropped (old@1 and side@1)",
        "verifying upgraded vectors by computing them again",
        "fitting a later upgrade from old@1 and side@1 directly",
        "carrying over items that are added with vectors in old@1 and side@1 alone",
    ]
    assert gallery.spaces() == (SECOND,)
    again = Upgrade(gallery, TO_SECOND)
    assert again.complete(now=True, drop_original=True).dropped == ()
    assert again.run().remaining == 0
    status = again.status()
    assert (status.work.done, status.work.to_do, status.is_cut_over) == (ROWS, 0, True)
    with pytest.raises(UpgradeError, match=r"has no vectors in old@1.* give a transformation from"):
        Upgrade(gallery, TO_THIRD)
    with pytest.raises(UpgradeError, match="dropped after this very upgrade"):
        plan_upgrade(gallery, TO_SECOND)


def test_without_the_originals_a_verification_says_that_integrity_cannot_be_known(gallery, upgrade):
    assert upgrade.verify().intact is True
    upgrade.complete(now=True, drop_original=True)
    verification = Upgrade(gallery, TO_SECOND).verify()
    assert (verification.passed, verification.complete, verification.intact) == (True, True, None)
    assert (verification.checked, verification.upgraded) == (0, ROWS)
    said = verification.to_json()
    assert (said["intact"], said["wrong"], said["next_steps"]) == (None, None, [])
    assert [one["name"] for one in said["gone"]] == ["old@1", "side@1"]
    assert (
        "recomputed none of 20 upgraded rows: what they were made from (old@1 and side@1) was "
        "dropped, so whether they are right cannot be known any more"
    ) in str(verification)


def test_a_row_is_not_called_wrong_where_a_part_of_what_made_it_was_dropped(gallery, upgrade):
    other = Upgrade(gallery, make_transformation(OLD, None, THIRD))
    other.start()  # it reads the old vectors, so that these are kept
    assert upgrade.complete(now=True, drop_original=True).dropped == (SIDE,)
    verification = upgrade.verify(sample_rows=None)
    assert (verification.intact, verification.gone) == (None, (SIDE,))


def test_items_that_have_no_other_vector_are_not_given_up_by_accident(gallery, upgrade):
    gallery.add(embed(OLD, ["legacy"]))
    gallery.add(embed(SIDE, ["aside"]))
    words = r"nothing was dropped: 2 rows \(aside, legacy\) have no other vector and could never"
    with pytest.raises(UpgradeError, match=words):
        upgrade.complete(now=True, drop_original=True)
    assert gallery.spaces() == (OLD, SIDE, SECOND)
    assert gallery.view().previous == OLD
    assert upgrade.complete(now=True, drop_original=True, leave_out=True).dropped == (OLD, SIDE)
    assert gallery.count() == ROWS + 2


def test_what_a_killed_completion_has_left_is_dropped_by_the_next(gallery, upgrade, monkeypatch):
    store = type(gallery._store)
    drop_column, dropped = store.drop_column, []

    def die_after_the_first(self, column):
        if dropped:
            raise KeyboardInterrupt
        dropped.append(column)
        drop_column(self, column)

    monkeypatch.setattr(store, "drop_column", die_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        upgrade.complete(now=True, drop_original=True)
    assert gallery.spaces() == (SECOND,), "the record is changed first, and as a whole"
    monkeypatch.undo()
    tried = []
    monkeypatch.setattr(
        store, "drop_column", lambda self, column: (tried.append(column), drop_column(self, column))
    )
    Upgrade(gallery, TO_SECOND).complete()
    assert len(tried) == 2
    assert gallery.search(embed(SECOND, ["q"]), 3).rows.shape == (1, 3)
    gallery.add(embed(SECOND, ["more"]))
    assert gallery.count([SECOND]) == ROWS + 1


# The command line


@pytest.fixture
def on_disk(tmp_path):
    gallery = make_gallery(str(tmp_path / "g.lance"), ROWS)
    TO_SECOND.save(tmp_path / "h")
    return gallery, str(tmp_path / "h")


def invoke(*words):
    return CliRunner().invoke(app, ["upgrade", *words])


@pytest.mark.slow
def test_the_command_line_gives_up_originals_only_when_told_twice(on_disk):
    gallery, h = on_disk
    carry_out(gallery, TO_SECOND)
    words = ("complete", gallery.url, h, "--now", "--drop-original")
    run = invoke(*words)
    assert run.exit_code == 1
    assert "fitting a later upgrade from old@1 and side@1 directly" in str(run.exception)
    assert "Nothing was dropped yet; to do it: add --yes" in str(run.exception)
    assert gallery.spaces() == (OLD, SIDE, SECOND)
    assert gallery.view().previous is not None
    run = invoke(*words, "--yes")
    assert run.exit_code == 0, run.output
    assert "dropped      old@1 (4, l2)" in run.stdout
    assert gallery.spaces() == (SECOND,)


@pytest.mark.slow
def test_the_command_line_rolls_back_and_names_what_is_left_out(on_disk):
    gallery, h = on_disk
    carry_out(gallery, TO_SECOND)
    gallery.add(Embeddings(("native",), np.ones((1, SECOND.dim), np.float32), SECOND))
    assert invoke("rollback", gallery.url, h).exit_code == 1
    run = invoke("rollback", gallery.url, h, "--leave-out", "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["natives"]["examples"] == ["native"]
