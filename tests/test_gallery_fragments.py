"""An empty space of a LanceDB gallery is filled beside the rows, part by part."""

import os
import sys
import time
from datetime import timedelta

import lancedb
import numpy as np
import pytest
from rights import without_the_rights_of_root

from onward.errors import GalleryError, UpgradeError
from onward.gallery import RecordedRoutes, Share, create_gallery, open_gallery
from onward.gallery.lance import fragments
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Upgrade, plan_upgrade

OLD, SIDE, NEW = Space("old@1", 3), Space("side@1", 2), Space("new@2", 3)
H = linear(
    OLD, SIDE, NEW, np.arange(15, dtype="f4").reshape(3, 5), np.ones(3, "f4"), made_by={"by": "h"}
)
PART = 20
"""Rows of each part."""


@pytest.fixture(autouse=True)
def fills_small_parts(monkeypatch):
    monkeypatch.setattr(fragments, "FEWEST_ROWS", 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.lance"


@pytest.fixture
def gallery(path):
    """Three parts, and room for the new space."""
    gallery = create_gallery(path, OLD, SIDE, query_model="old")
    for part in range(3):
        add(gallery, range(part * PART, (part + 1) * PART))
    gallery.add_space(NEW, made_by=RecordedRoutes(H.digest, NEW))
    return gallery


def name(number):
    return f"item-{number:03d}"


def embed(space, numbers, seed=0):
    vectors = [np.random.default_rng([seed, at]).standard_normal(space.dim) for at in numbers]
    return Embeddings(tuple(map(name, numbers)), np.array(vectors, np.float32), space)


def add(gallery, numbers):
    gallery.add(embed(OLD, numbers), embed(SIDE, numbers))


def revisions(gallery, *numbers):
    (batch,) = gallery.scan([OLD], ids=map(name, numbers))
    return batch.revisions


def of_h(batch):
    old, side = (Embeddings(batch.ids, batch.vectors[space], space) for space in (OLD, SIDE))
    return H.apply(old, side), np.arange(len(batch), dtype=np.float32)


def fill(gallery, derive=of_h, batch_rows=8):
    return list(gallery.fill(NEW, [OLD, SIDE], derive, batch_rows=batch_rows, made_by=H.digest))


def check(gallery, missing=()):
    """Every row has what h makes of what is stored now, but for those that have none."""
    assert set(gallery.ids(without=[NEW])) == set(map(name, missing))
    for batch in gallery.scan([OLD, SIDE, NEW]):
        np.testing.assert_array_equal(batch.vectors[NEW], of_h(batch)[0].vectors)
        assert set(batch.origins[NEW]) == {"upgraded"}


def files(path):
    return {file.name for file in (path / "items.lance" / "data").iterdir()}


def test_every_part_is_filled_in_one_step_and_no_row_is_rewritten(path, gallery):
    before = files(path)
    assert fill(gallery) == [PART, PART, PART]
    check(gallery)
    after = files(path)
    assert before < after
    assert len(after - before) == 3
    batches = list(gallery.scan([NEW]))
    unsure = np.concatenate([batch.uncertainties[NEW] for batch in batches])
    assert sorted(unsure) == sorted([*range(8), *range(8), *range(4)] * 3)
    assert fill(gallery) == []


def test_rows_that_get_no_vector_stay_empty_and_the_others_are_filled(gallery):
    skipped = {0, 7, 8, 9, 19, 20, 59}

    def some(batch):
        rows = [at for at, item in enumerate(batch.ids) if int(item[5:]) not in skipped]
        new, unsure = of_h(batch)
        return new.select(rows), unsure[rows]

    assert fill(gallery, some, batch_rows=2) == [PART - 5, PART - 1, PART - 1]
    check(gallery, skipped)


def test_a_part_of_which_nothing_is_made_is_left_as_it_was(path, gallery):
    before = files(path)
    assert fill(gallery, lambda batch: (of_h(batch)[0].select([]), None))[:1] == [0]
    assert (files(path), gallery.count([NEW])) == (before, 0)


@pytest.mark.parametrize(
    "other",
    [
        lambda new: new.select(range(len(new) - 1, -1, -1)),
        lambda new: Embeddings(("stranger", *new.ids[1:]), new.vectors, new.space),
    ],
    ids=["another-order", "a-stranger"],
)
def test_vectors_of_other_rows_than_the_batch_has_are_refused(gallery, other):
    with pytest.raises(GalleryError, match="not all are of these rows in their order; nothing was"):
        fill(gallery, lambda batch: (other(of_h(batch)[0]), None))
    assert gallery.count([NEW]) == 0


def test_parts_that_are_small_or_have_a_vector_in_the_space_are_left_out(gallery):
    mixed, small, later = range(60, 70), range(70, 73), range(73, 80)
    add(gallery, mixed)
    gallery.write(embed(NEW, [60]), revisions(gallery, 60), origin="embedded")
    add(gallery, small)
    add(gallery, later)  # with the space's columns, which are null
    assert fill(gallery) == [PART, PART, PART, 9, 7]
    assert set(gallery.ids(without=[NEW])) == set(map(name, small))


def test_rows_that_lack_what_is_read_and_rows_that_are_deleted_stay_without(gallery):
    gallery.update(embed(OLD, [3, 4]))  # they have no side-information now
    gallery.delete(map(name, [0, 7, 19, 20, 59]))
    assert sum(fill(gallery)) == 60 - 5 - 2
    check(gallery, missing=[3, 4])
    assert gallery.count() == 55


def test_what_others_write_while_a_part_is_made_is_kept(path, gallery):
    done = []

    def disturbed(batch):
        if not done:
            other = open_gallery(path)
            other.update(embed(OLD, [1, 12], seed=9), embed(SIDE, [1, 12], seed=9))
            other.delete([name(2), name(13)])
            add(other, range(60, 63))
        done.append(len(batch))
        return of_h(batch)

    assert fill(gallery, disturbed) == [PART, PART, PART]
    check(gallery, missing=[1, 12, 60, 61, 62])
    assert not {name(2), name(13)} & set(gallery.ids())


def test_compacting_in_the_midst_means_that_the_part_is_made_again(path, gallery):
    compacted = []

    def disturbed(batch):
        if not compacted:
            compacted.append(True)
            open_gallery(path).compact(keep=timedelta(days=1))
        return of_h(batch)

    assert fill(gallery, disturbed) == [0, 60]
    check(gallery)


def test_two_who_fill_the_same_part_write_it_once(path, gallery):
    """As each believes to be alone on a file system without locks."""
    found = []

    def disturbed(batch):
        if not found:
            found.append(fill(open_gallery(path)))
        return of_h(batch)

    assert fill(gallery, disturbed) == [0]
    assert found == [[PART, PART, PART]]
    check(gallery)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_told_to_end_or_failing_it_leaves_the_part_as_it_was(path, gallery, after):
    calls = [0, 0]

    def ended(batch):
        calls[0] += 1
        return of_h(batch) if calls[0] <= after else None

    def failing(batch):
        calls[1] += 1
        if calls[1] <= after:
            return of_h(batch)
        raise ValueError("no more")

    before = files(path)
    assert fill(gallery, ended) == [PART] * (after // 3)
    assert gallery.count([NEW]) == PART * (after // 3)
    with pytest.raises(ValueError, match="no more"):
        fill(gallery, failing)
    assert len(files(path) - before) == 2 * (after // 3)
    fill(gallery)
    check(gallery)


def test_an_interrupt_just_after_the_commit_takes_no_file_away(gallery, monkeypatch):
    take = fragments.Filler._take

    def interrupted(*arguments):
        take(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fragments.Filler, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(gallery)
    monkeypatch.undo()
    check(gallery, missing=range(PART, 3 * PART))


def test_a_space_that_is_dropped_meanwhile_gets_nothing(path, gallery):
    def disturbed(batch):
        open_gallery(path).drop_space(NEW)
        return of_h(batch)

    assert fill(gallery, disturbed) == [0]
    assert gallery.spaces() == (OLD, SIDE)
    assert gallery.count() == 60


def test_what_another_transformation_fills_is_refused(gallery):
    with pytest.raises(GalleryError, match="the space is now filled by"):
        list(gallery.fill(NEW, [OLD, SIDE], of_h, made_by="f" * 64))
    assert gallery.count([NEW]) == 0


def test_vectors_of_another_space_are_refused(gallery):
    with pytest.raises(GalleryError, match=r"vectors in old@1 .* were made to fill new@2"):
        fill(gallery, lambda batch: (Embeddings(batch.ids, batch.vectors[OLD], OLD), None))
    assert gallery.count([NEW]) == 0


def at_the_second_call(act, then=None):
    """Return what a run asks whether to stop: it acts once, and stops after so many calls more."""
    asked = []

    def stop():
        asked.append(True)
        if len(asked) == 2:
            act()
        return then is not None and len(asked) - 2 >= then

    return stop


def test_an_upgrade_that_is_aborted_while_it_fills_says_so(path, gallery):
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    stop = at_the_second_call(lambda: Upgrade(open_gallery(path), H).abort())
    with pytest.raises(UpgradeError, match="was aborted while it ran"):
        upgrade.run(batch_rows=7, stop=stop)
    assert gallery.spaces() == (OLD, SIDE)


def test_an_earlier_reader_of_a_row_takes_no_filled_vector_away(path, gallery):
    """Its writing into another space rewrites the row as it read it."""
    other = open_gallery(path)
    later = Space("later@3", 2)
    other.add_space(later)
    batches = list(other.scan([OLD], without=[later], batch_rows=60))
    fill(gallery)
    for batch in batches:
        made = Embeddings(batch.ids, batch.vectors[OLD][:, :2].copy(), later)
        assert other.write(made, batch.revisions, origin="embedded") == 60
    check(gallery)


def test_a_space_of_another_number_format_is_filled(gallery):
    small = Space("small@2", 3, format="float16")
    gallery.add_space(small, made_by=RecordedRoutes(H.digest, small))

    def rounded(batch):
        vectors = batch.vectors[OLD].astype(np.float16).astype(np.float32)
        return Embeddings(batch.ids, vectors, small), None

    assert sum(gallery.fill(small, [OLD], rounded, made_by=H.digest)) == 60
    stored = gallery.read(small)
    expected = gallery.read(OLD, stored.ids).vectors.astype(np.float16)
    np.testing.assert_array_equal(stored.vectors, expected)


def test_an_index_of_another_space_stays_complete(path, gallery):
    rng = np.random.default_rng(0)
    numbers = [f"more-{at:04d}" for at in range(300)]
    vectors = [
        Embeddings(tuple(numbers), rng.standard_normal((300, of.dim), np.float32), of)
        for of in (OLD, SIDE)
    ]
    gallery.drop_space(NEW)
    gallery.add(*vectors)
    gallery.build_index(OLD)
    gallery.add_space(NEW, made_by=RecordedRoutes(H.digest, NEW))
    assert sum(fill(gallery)) == 360
    table = lancedb.connect(path).open_table("items")
    (index,) = table.list_indices()
    assert table.index_stats(index.name).num_unindexed_rows == 0


def test_workers_split_the_parts_and_those_of_one_that_ends_are_filled_too(path, gallery):
    with gallery.working_on(NEW) as mine:
        with open_gallery(path).working_on(NEW):
            own = 2 - mine().number  # of the parts 0, 1, 2
            filling = gallery.fill(NEW, [OLD, SIDE], of_h, made_by=H.digest, share_now=mine)
            assert [next(filling) for _ in range(own + 2)] == [PART] * own + [0, 0]
        assert list(filling) == [PART] * (3 - own)
    check(gallery)


def test_workers_split_parts_by_their_places_whatever_their_numbers_are(path, gallery):
    gallery.delete(gallery.view().ids(without=[NEW])[PART : 2 * PART])  # the parts 0 and 2 stay
    with gallery.working_on(NEW) as mine, open_gallery(path).working_on(NEW):
        filling = gallery.fill(NEW, [OLD, SIDE], of_h, made_by=H.digest, share_now=mine)
        assert [next(filling) for _ in range(2)] == [PART, 0]


@pytest.fixture
def precious(tmp_path):
    """A file of somebody else's, last written long ago."""
    file = tmp_path / "precious"
    file.write_text("years of work")
    os.utime(file, (1, 1))
    yield file
    assert file.read_text() == "years of work"
    assert file.stat().st_mtime == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows opens what a link leads to")
def test_a_link_beside_the_locks_of_workers_is_not_a_worker(path, gallery, precious):
    locks = path / "workers" / "new_2"
    locks.mkdir(parents=True)
    (locks / "0123456789abcdef").symlink_to(precious)
    import fcntl

    with precious.open() as held, gallery.working_on(NEW) as share_now:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert share_now() == Share(0, 1)
    assert (locks / "0123456789abcdef").is_symlink()


def test_compaction_makes_parts_of_a_bounded_size(path, gallery, monkeypatch):
    monkeypatch.setitem(fragments.COMPACTION, "target_rows_per_fragment", 30)
    gallery.compact(keep=timedelta(0))
    made = lancedb.connect(path).open_table("items").stats()["fragment_stats"]
    assert made["num_fragments"] == 2
    assert made["lengths"]["max"] == 30
    assert len(gallery.ids()) == 60


@pytest.mark.slow
def test_an_upgrade_fills_first_and_merges_the_rest(path, gallery):
    add(gallery, range(60, 63))
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    result = upgrade.run(batch_rows=7)
    assert (result.done, result.remaining, result.skipped) == (63, 0, 0)
    check(gallery)
    assert upgrade.verify(sample_rows=None).passed


@pytest.fixture
def other_that_hangs(path, gallery, monkeypatch):
    """Another worker, which never gets on with its parts."""
    monkeypatch.setattr("onward.upgrading.run.LOOK_SECONDS", 0.01)
    with open_gallery(path).working_on(NEW):
        yield


@pytest.mark.usefixtures("other_that_hangs")
def test_waiting_for_another_worker_can_be_stopped(gallery):
    upgrade, asked = Upgrade(gallery, H), []
    upgrade.start()

    def stop():
        asked.append(True)
        return len(asked) > 5

    result = upgrade.run(stop=stop)
    assert result.stopped
    assert result.done in (PART, 2 * PART)


@pytest.mark.usefixtures("other_that_hangs")
def test_what_another_worker_hangs_on_is_filled_too(gallery, monkeypatch):
    monkeypatch.setattr(fragments, "HANGING_SECONDS", 0.05)
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    assert upgrade.run(batch_rows=20).done == 60
    check(gallery)


def test_gaps_are_written_in_pieces(path, gallery, monkeypatch):
    monkeypatch.setattr(fragments, "NULL_ROWS", 3)
    lacking = [*range(3, 11), *range(14, 19), *range(40, 52)]
    gallery.update(embed(OLD, [1]), embed(SIDE, [1]))
    gallery.delete(map(name, lacking))
    fill(gallery)
    check(gallery, missing=[1])


@pytest.mark.slow
def test_a_directory_that_is_closed_to_us_is_a_clear_error(path, gallery):
    data = path / "items.lance" / "data"
    for directory in (path, path / "workers"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
    data.chmod(0o555)
    with (
        without_the_rights_of_root(),
        pytest.raises(GalleryError, match=r"photos\.lance cannot be read or written: .*denied"),
    ):
        fill(gallery)
    data.chmod(0o755)
    fill(gallery)
    check(gallery)


def test_compacting_takes_away_what_killed_processes_left_long_ago(path, gallery):
    data = path / "items.lance" / "data"
    left, fresh = data / ".tmpabc", data / ".tmpdef"
    for file, days in ((left, 8), (fresh, 1)):
        file.write_bytes(b"half a file")
        moment = time.time() - days * 86400
        os.utime(file, (moment, moment))
    gallery.compact()
    assert (left.exists(), fresh.exists()) == (False, True)


@pytest.mark.slow
def test_a_plan_advises_to_put_scattered_rows_together(gallery, monkeypatch):
    monkeypatch.setattr("onward.upgrading.plan.SAMPLE_ROWS", 60)
    assert not any("compact" in one for one in plan_upgrade(gallery, H).advice)
    monkeypatch.setattr(fragments, "FEWEST_ROWS", PART + 1)
    (advice,) = [one for one in plan_upgrade(gallery, H).advice if "compact" in one]
    assert advice.startswith("Most rows are in many small parts of the store")
    gallery.compact(keep=timedelta(0))
    assert not any("compact" in one for one in plan_upgrade(gallery, H).advice)


def test_an_upgrade_that_is_limited_fills_nothing_whole(gallery):
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    upgrade.limit(1e6)
    result = upgrade.run(batch_rows=7, stop=lambda: gallery.count([NEW]) >= 14)
    assert result.done in (14, 21)  # one batch is written while the next is made


@pytest.mark.slow
def test_an_upgrade_that_is_limited_meanwhile_goes_on_by_batches(gallery):
    upgrade = Upgrade(gallery, H)
    upgrade.start()
    stop = at_the_second_call(lambda: upgrade.limit(5.0), then=5)
    result = upgrade.run(batch_rows=7, stop=stop)
    assert 0 < result.done < PART
    assert result.stopped
    check(gallery, missing=[int(item[-3:]) for item in gallery.ids(without=[NEW])])


def test_a_few_small_parts_are_left_where_they_are(gallery):
    add(gallery, range(60, 63))
    add(gallery, range(63, 66))
    assert fill(gallery) == [PART, PART, PART]
    check(gallery, missing=range(60, 66))
