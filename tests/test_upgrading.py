"""An upgrade of a gallery, on every store: what it writes, what it refuses, what it proves."""

import hashlib
import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from upgrades import (
    OLD,
    SIDE,
    embed,
    make_transformation,
    numbered,
    run_upgrade,
    start_upgrade,
    steps_of,
)

from onward.errors import (
    ConfigurationError,
    EmbeddingsError,
    GalleryError,
    SpaceMismatchError,
    UpgradeError,
)
from onward.gallery import GalleryRows, create_gallery, open_gallery
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.upgrading import Upgrade, plan, plan_upgrade
from onward.upgrading.routes import choose_batch_rows

NEW = Space("new@2", 5)
ROWS = 50


H = make_transformation(OLD, SIDE, NEW)


@pytest.fixture
def gallery(url):
    gallery = create_gallery(url, OLD, SIDE, query_model="old-model")
    gallery.add(embed(OLD, numbered(ROWS)), embed(SIDE, numbered(ROWS)))
    return gallery


@pytest.fixture
def upgrade(gallery):
    return start_upgrade(gallery, H)


def assert_upgraded_are_what_h_makes_of_what_is_stored(gallery, transformation=H):
    checked = 0
    needed = [transformation.old] + ([] if transformation.side is None else [transformation.side])
    for batch in gallery.scan([*needed, transformation.new]):
        old, *side = (Embeddings(batch.ids, batch.vectors[space], space) for space in needed)
        made = transformation.apply_reference(old, *side).vectors
        np.testing.assert_allclose(batch.vectors[transformation.new], made, atol=1e-5)
        checked += len(batch)
    return checked


# The whole way


def test_an_upgrade_goes_from_plan_to_cut_over_and_back(url, gallery):
    before = [gallery.read(space).vectors for space in (OLD, SIDE)]
    plan = plan_upgrade(gallery, H)
    assert (plan.work.to_do, plan.work.done, plan.work.skipped) == (ROWS, 0, 0)
    upgrade = Upgrade(open_gallery(url), H)
    assert steps_of(plan) == steps_of(upgrade.status()) == ["start"]
    assert steps_of(upgrade.start()) == ["run"]
    told = []
    result = upgrade.run(batch_rows=20, progress=lambda done, total: told.append((done, total)))
    assert (result.done, result.remaining, result.skipped, result.stopped) == (ROWS, 0, 0, False)
    assert told == [(0, ROWS), (20, ROWS), (40, ROWS), (ROWS, ROWS)]
    assert steps_of(result) == steps_of(upgrade.status()) == ["verify"]
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed
    assert (verification.checked, verification.upgraded, verification.wrong) == (ROWS, ROWS, 0)
    assert steps_of(verification) == steps_of(upgrade.status()) == ["cut_over"]
    status = upgrade.cut_over(query_model="new-model")
    assert (status.serving, status.query_model, status.is_cut_over) == (NEW, "new-model", True)
    assert steps_of(status) == ["roll_back", "complete"]
    assert len(gallery.search(embed(NEW, ["q"]), 3).ids_of(0)) == 3
    with pytest.raises(SpaceMismatchError):
        gallery.search(embed(OLD, ["q"]), 3)
    status = upgrade.roll_back()
    assert (status.serving, status.query_model) == (OLD, "old-model")
    assert steps_of(status) == ["cut_over"]
    assert_upgraded_are_what_h_makes_of_what_is_stored(gallery)
    assert upgrade.cut_over(query_model="new-model").serving == NEW
    for given, space in zip(before, (OLD, SIDE), strict=True):  # these are never changed
        np.testing.assert_array_equal(gallery.read(space).vectors, given)


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_side_information_in_a_smaller_format_goes_the_whole_way_too(url, form):
    quantisation = fit_quantisation(embed(SIDE, numbered(ROWS), seed=1), form)
    side = quantisation.apply(embed(SIDE, numbered(ROWS)))
    gallery = create_gallery(url, OLD, side.space, items=(embed(OLD, numbered(ROWS)), side))
    transformation = make_transformation(OLD, side.space, NEW)
    assert plan_upgrade(gallery, transformation).work.to_do == ROWS
    upgrade = start_upgrade(gallery, transformation)
    assert upgrade.run(batch_rows=20).done == ROWS
    assert upgrade.verify(sample_rows=None).passed
    assert upgrade.cut_over(query_model="new-model").serving == NEW
    assert assert_upgraded_are_what_h_makes_of_what_is_stored(gallery, transformation) == ROWS
    np.testing.assert_array_equal(gallery.read(side.space, side.ids).vectors, side.vectors)


def test_every_step_may_be_repeated_and_is_in_the_journal(gallery):
    upgrade = Upgrade(gallery, H)
    for _ in range(2):
        upgrade.start()
    for _ in range(2):
        upgrade.run()
    before = gallery.read(NEW).vectors
    upgrade.verify()
    for _ in range(2):
        upgrade.cut_over(query_model="new-model")
    for _ in range(2):
        assert upgrade.roll_back().serving == OLD
    np.testing.assert_array_equal(gallery.read(NEW).vectors, before)
    events = [entry["event"] for entry in gallery.journal()]
    first = ["create", "gate", "start upgrade", "run", "run", "verify"]
    assert events == [*first, "build index", "cut over", "roll back"]
    entries = gallery.journal()
    assert entries[2]["made_by"]["digest"] == H.digest
    cut_over = entries[7]
    assert cut_over["transformation"] == H.digest
    assert (cut_over["space"], cut_over["query_model"]) == (NEW.to_json(), "new-model")
    assert (cut_over["verification"], cut_over["forced"]) == ("passed", False)
    assert [entry["done"] for entry in entries[3:5]] == [ROWS, 0]
    assert entries[7]["forced"] is False


def test_a_transformation_without_side_information_upgrades_every_row_with_an_old_vector(gallery):
    gallery.add(embed(OLD, ["no-side"]))
    transformation = make_transformation(OLD, None, NEW)
    upgrade = start_upgrade(gallery, transformation)
    assert upgrade.run().done == ROWS + 1
    assert upgrade.verify().passed
    checked = assert_upgraded_are_what_h_makes_of_what_is_stored(gallery, transformation)
    assert checked == ROWS + 1


# The plan


def bytes_of(directory):
    files = sorted(file for file in Path(directory).rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_plan_writes_nothing(url, gallery):
    before = bytes_of(url), gallery.describe().to_json(), gallery.state(), gallery.journal()
    plan_upgrade(gallery, H)
    Upgrade(gallery, H).status()
    after = bytes_of(url), gallery.describe().to_json(), gallery.state(), gallery.journal()
    assert after == before


def test_a_plan_says_rows_bytes_seconds_and_what_cannot_be_done(gallery, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLE_ROWS", 8)
    gallery.add(embed(OLD, ["x", "y"]))
    gallery.add(embed(SIDE, ["z"]))
    planned = plan_upgrade(gallery, H)
    assert planned.work.rows == ROWS + 3
    assert planned.work.to_do == ROWS
    reasons = {one.reason: (one.rows, one.examples) for one in planned.work.blocked}
    assert reasons == {
        "no side-information": (2, ("x", "y")),
        "no vector in the old space": (1, ("z",)),
    }
    assert planned.bytes >= ROWS * 4 * NEW.dim
    assert planned.seconds > 0
    assert planned.sampled == 8
    printed = str(planned)
    assert f"to do    {ROWS} of {ROWS + 3} rows, 0 are done already" in printed
    assert "blocked  2 rows: no side-information (x, y)" in printed
    assert "A plan writes nothing." in printed
    written = json.loads(json.dumps(planned.to_json()))
    assert written["to_do"] == ROWS
    assert written["new"] == NEW.to_json()
    assert len(written["writes"]) == 3


def test_a_plan_leaves_nothing_where_temporary_files_go(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    plan_upgrade(gallery, H)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_plan_says_where_it_could_not_measure(tmp_path, monkeypatch):
    gallery = create_gallery(tmp_path / "g.lance", OLD, SIDE)
    gallery.add(embed(OLD, "a"), embed(SIDE, "a"))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(GalleryError, match=r"could not be measured .*file.*set TMPDIR to a dir"):
        plan_upgrade(gallery, H)


def test_a_plan_counts_what_is_done_already(gallery):
    gallery.add_space(NEW)
    gallery.add(embed(OLD, ["n"]), embed(NEW, ["n"]))
    work = plan_upgrade(gallery, H).work
    assert (work.rows, work.to_do, work.done, work.skipped) == (ROWS + 1, ROWS, 1, 0)


def test_a_plan_for_an_empty_gallery_has_nothing_to_do(url):
    plan = plan_upgrade(create_gallery(url, OLD, SIDE), H)
    assert (plan.work.to_do, plan.seconds, plan.bytes, plan.sampled) == (0, 0, 0, 0)
    assert steps_of(plan) == []


def test_a_transformation_that_does_not_fit_the_gallery_is_refused(gallery):
    other = Space("other@7", 4)
    cases = [
        (
            make_transformation(other, SIDE, NEW),
            r"has no vectors in other@7 .*; it has old@1 .*, side@1",
        ),
        (make_transformation(NEW, SIDE, OLD), r"seems to go the wrong way: fit one from old@1"),
        (
            make_transformation(OLD, SIDE, OLD),
            r"goes from old@1 .* to old@1 .*, which it reads itself",
        ),
        (make_transformation(OLD, SIDE, SIDE), r"to side@1 .*, which it reads itself"),
        (
            make_transformation(OLD, other, NEW),
            r"needs side-information in other@7 .* has none; it has",
        ),
        (
            make_transformation(OLD, Space("side@1", 4), NEW),
            r"needs side-information in side@1 \(4, l2\), but gallery .* has none; it has",
        ),
    ]
    before = gallery.describe().to_json(), gallery.state(), gallery.journal()
    for transformation, words in cases:
        for verb in (Upgrade, plan_upgrade):
            with pytest.raises(UpgradeError, match=words):
                verb(gallery, transformation)
    assert (gallery.describe().to_json(), gallery.state(), gallery.journal()) == before


def test_a_started_upgrade_is_not_gone_on_with_by_another_transformation(gallery, upgrade):
    upgrade.run(stop=iter([False, True]).__next__, batch_rows=10)
    other = make_transformation(OLD, SIDE, NEW, seed=1)
    words = f"with the transformation {H.digest[:8]} .* there is the .*{other.digest[:8]} and no"
    wrong = Upgrade(gallery, other)
    steps = [
        wrong.start,
        wrong.run,
        wrong.verify,
        lambda: wrong.cut_over(query_model="m", force=True),
        lambda: plan_upgrade(gallery, other),
    ]
    for step in steps:
        with pytest.raises(UpgradeError, match=words):
            step()
    assert wrong.status().started is False
    assert gallery.count([NEW]) == 10


# Running


def test_a_run_that_is_told_to_stop_ends_within_one_batch_and_the_next_goes_on(gallery, upgrade):
    asked = itertools.count(1)
    result = upgrade.run(batch_rows=10, stop=lambda: next(asked) > 2)
    assert (result.done, result.remaining, result.stopped) == (20, ROWS - 20, True)
    assert steps_of(result) == steps_of(upgrade.status()) == ["run"]
    assert str(result).startswith("stopped: 20 rows upgraded")
    result = upgrade.run()
    assert (result.done, result.remaining, result.stopped) == (ROWS - 20, 0, False)


def test_an_interrupt_stops_a_run_and_loses_nothing(gallery, upgrade):
    def interrupt(done, total):
        if done >= 20:
            raise KeyboardInterrupt

    result = upgrade.run(batch_rows=10, progress=interrupt)
    assert (result.done, result.remaining, result.stopped) == (20, ROWS - 20, True)
    assert upgrade.run().remaining == 0
    assert assert_upgraded_are_what_h_makes_of_what_is_stored(gallery) == ROWS


def test_an_interrupt_while_a_thread_starts_leaves_no_write_under_way(
    gallery, upgrade, monkeypatch
):
    start, write, under_way = threading.Thread.start, GalleryRows.write, []

    def start_and_interrupt(thread):
        start(thread)
        if thread.name.startswith("ThreadPoolExecutor"):
            monkeypatch.setattr(threading.Thread, "start", start)
            raise KeyboardInterrupt

    def write_slowly(*args, **options):
        under_way.append("begun")
        time.sleep(0.2)
        written = write(*args, **options)
        under_way.append("ended")
        return written

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    monkeypatch.setattr(GalleryRows, "write", write_slowly)
    assert upgrade.run(batch_rows=10).stopped
    assert under_way.count("begun") == under_way.count("ended")
    assert upgrade.run().remaining == 0


def test_rows_that_others_write_meanwhile_converge(url, gallery, upgrade):
    other = open_gallery(url)

    def disturb(done, total):
        if done == 10:
            other.add(embed(OLD, ["added"]), embed(SIDE, ["added"]))
            other.update(
                embed(OLD, ["item-0000", "item-0049"], 9),
                embed(SIDE, ["item-0000", "item-0049"], 9),
            )
            other.delete(["item-0001", "item-0048"])
        if done == 20:
            other.update(embed(OLD, ["item-0020"], 9))

    result = upgrade.run(batch_rows=10, progress=disturb)
    assert result.remaining == 0
    assert result.skipped == 1
    assert gallery.ids([NEW]) == tuple(
        sorted({*numbered(ROWS), "added"} - {"item-0001", "item-0048", "item-0020"})
    )
    assert assert_upgraded_are_what_h_makes_of_what_is_stored(gallery) == ROWS - 2


def test_memory_bounds_the_rows_of_a_batch():
    assert choose_batch_rows(H) == 16384
    wide = make_transformation(Space("o", 1000), None, Space("n", 1000))
    assert choose_batch_rows(wide) == (96 << 20) // (16 * 2000)


def test_no_module_that_could_read_an_image_is_imported():
    code = (
        "import sys, onward.upgrading; "
        "bad = ('torch', 'PIL', 'lancedb', 'onward.data', 'onward.models', 'onward.nn'); "
        "print([m for m in bad if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Verifying and cutting over


def test_a_verification_names_rows_that_are_left(gallery, upgrade):
    upgrade.run(batch_rows=48, stop=iter([False, True]).__next__)
    verification = upgrade.verify()
    assert not verification.passed
    assert verification.work.to_do == 2
    assert verification.pending == gallery.ids([OLD, SIDE], [NEW])
    assert steps_of(verification) == ["run"]
    assert "FAILED" in str(verification)
    assert f"48 of {ROWS} done, 2 to do ({', '.join(verification.pending)})" in str(verification)
    with pytest.raises(UpgradeError, match=r"was not cut over: the verification .* has failed"):
        upgrade.cut_over(query_model="m")


def test_a_verification_finds_a_wrong_vector_among_all(gallery, upgrade):
    upgrade.run()
    batch = next(batch for batch in gallery.scan([NEW]))
    at = batch.ids.index("item-0007")
    wrong = batch.vectors[NEW][[at]] * np.float32(1.001)
    damaged = Embeddings(("item-0007",), wrong, NEW)
    assert gallery.write(damaged, batch.revisions[[at]], origin="upgraded") == 1
    verification = upgrade.verify(sample_rows=None)
    assert (verification.wrong, verification.wrong_examples) == (1, ("item-0007",))
    assert not verification.passed
    assert verification.complete
    assert "1 wrong (item-0007)" in str(verification)
    assert steps_of(verification) == ["start"]


def test_a_sample_is_recomputed_unless_all_are_asked_for(gallery, upgrade):
    upgrade.run()
    told = []
    verification = upgrade.verify(sample_rows=7, progress=lambda *at: told.append(at))
    assert (verification.checked, verification.upgraded, verification.passed) == (7, ROWS, True)
    assert told[-1] == (7, 7)


def test_rows_that_a_model_embedded_are_not_recomputed(gallery, upgrade):
    gallery.add(embed(OLD, ["n"]), embed(SIDE, ["n"]), embed(NEW, ["n"]))
    upgrade.run()
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed
    counts = (verification.checked, verification.upgraded, verification.embedded)
    assert counts == (ROWS, ROWS, 1)


def test_items_that_would_be_lost_fail_a_verification_unless_that_is_allowed(gallery, upgrade):
    gallery.add(embed(OLD, ["x"]))
    upgrade.run()
    verification = upgrade.verify()
    assert not verification.passed
    assert verification.intact
    assert steps_of(verification) == ["verify"]
    assert "left out   1 rows: no side-information (x)" in str(verification)
    with pytest.raises(UpgradeError, match="has failed"):
        upgrade.cut_over(query_model="m")
    assert upgrade.verify(leave_out=True).passed
    upgrade.cut_over(query_model="m")
    assert gallery.journal()[-1]["event"] == "cut over"


def test_rows_that_cannot_be_found_now_do_not_fail_a_verification(gallery, upgrade):
    gallery.add(embed(SIDE, ["only-side"]))
    upgrade.run()
    verification = upgrade.verify()
    assert verification.passed
    assert verification.work.skipped == 1


@pytest.mark.parametrize("change", ["add", "update", "delete", "write"])
def test_a_verification_goes_stale_when_rows_change(gallery, upgrade, change):
    gallery.add(embed(OLD, ["legacy"]))
    upgrade.run()
    assert upgrade.verify(leave_out=True).passed
    assert upgrade.status().verification == "passed"
    if change == "add":
        gallery.add(embed(OLD, ["more"]), embed(SIDE, ["more"]))
    elif change == "update":
        gallery.update(embed(OLD, ["item-0003"], 9), embed(SIDE, ["item-0003"], 9))
    elif change == "delete":
        gallery.delete(["item-0003"])
    else:
        batch = next(gallery.scan([OLD], without=[SIDE]))
        gallery.write(embed(SIDE, batch.ids), batch.revisions, origin="embedded")
    assert upgrade.status().verification == "stale"
    with pytest.raises(UpgradeError, match="rows have changed since its upgrade was verified"):
        upgrade.cut_over(query_model="m")
    upgrade.run()
    assert upgrade.verify(leave_out=True).passed
    assert upgrade.cut_over(query_model="m").serving == NEW


def test_cutting_over_without_verification_is_refused_unless_forced_and_that_is_logged(upgrade):
    gallery = upgrade.gallery
    with pytest.raises(UpgradeError, match=r"not cut over: its upgrade was not verified; .*force"):
        upgrade.cut_over(query_model="m")
    assert gallery.view().serving == OLD
    assert upgrade.cut_over(query_model="m", force=True).serving == NEW
    entry = next(entry for entry in gallery.journal() if entry["event"] == "cut over")
    assert (entry["forced"], entry["verification"]) == (True, "none")
    assert steps_of(upgrade.status()) == ["run", "roll_back", "complete"]


def test_a_verification_of_one_transformation_is_none_of_another(gallery, upgrade):
    upgrade.run()
    upgrade.verify()
    gallery.drop_space(NEW)
    again = run_upgrade(gallery, make_transformation(OLD, SIDE, NEW, seed=1))
    assert again.status().verification == "none"


def test_rolling_back_what_was_not_cut_over_changes_nothing(gallery, upgrade, tmp_path):
    assert upgrade.roll_back().serving == OLD
    served_new = create_gallery(f"memory:{tmp_path}/other", NEW, OLD, SIDE)
    backwards = start_upgrade(served_new, H)
    with pytest.raises(GalleryError, match="has nothing to roll back to"):
        backwards.roll_back()


def test_a_status_prints_itself(upgrade):
    upgrade.gallery.add(embed(OLD, ["x"]))
    printed = str(upgrade.status())
    assert "old@1 (4, l2) -> new@2 (5, l2)" in printed
    assert f"0 of {ROWS + 1} done, {ROWS} to do" in printed
    assert "blocked      1 rows: no side-information (x)" in printed
    assert "serving      old@1 (4, l2), queries embedded by model old-model" in printed
    written = json.loads(json.dumps(upgrade.status().to_json()))
    assert [written[name] for name in ("started", "cut_over")] == [True, False]
    assert written["verification"] == "none"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda u: u.run(batch_rows=0), "batch_rows is 0; give a whole number of 1 or more"),
        (lambda u: u.run(batch_rows=2.5), r"batch_rows is 2\.5; give a whole number"),
        (lambda u: u.verify(sample_rows=0), "sample_rows is 0; give a whole number of 1 or more"),
        (lambda u: u.verify(sample_rows=-3), "sample_rows is -3; give a whole number"),
    ],
)
def test_numbers_that_are_none_are_refused_before_anything_is_done(
    monkeypatch, upgrade, call, words
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    entries = upgrade.gallery.journal()
    with pytest.raises(ConfigurationError, match=words):
        call(upgrade)
    assert upgrade.gallery.journal() == entries


def test_a_damaged_stored_vector_stops_a_run_with_the_items_name(gallery, upgrade, monkeypatch):
    scan = GalleryRows.scan

    def damaged(self, *args, **options):
        for batch in scan(self, *args, **options):
            batch.vectors[OLD] = batch.vectors[OLD].copy()
            batch.vectors[OLD][batch.ids.index("item-0002")] = np.nan
            yield batch

    monkeypatch.setattr(GalleryRows, "scan", damaged)
    with pytest.raises(EmbeddingsError, match=r"item 'item-0002'.*NaN") as raised:
        upgrade.run()
    assert gallery.count([NEW]) == 0
    entry = gallery.journal()[-1]
    assert (entry["event"], entry["done"], entry["error"]) == ("run", 0, str(raised.value))
    assert [step["step"] for step in entry["next_steps"]] == ["run"]
    monkeypatch.undo()
    assert upgrade.run().remaining == 0
