"""A view decides by the record of one moment; the record stays as older programs wrote it."""

import json

import pytest
from upgrades import (
    OLD,
    SECOND,
    SECOND_TO_THIRD,
    SIDE,
    THIRD,
    TO_SECOND,
    embed,
    make_gallery,
    run_upgrade,
)

from onward.errors import GalleryError
from onward.gallery.record import Record
from onward.spaces import Space
from onward.upgrading import Upgrade


@pytest.fixture(params=["memory:", "directory"])
def url(request, tmp_path):
    where = "memory:" if request.param == "memory:" else f"{tmp_path}/"
    return f"{where}{request.node.name}"


def test_a_view_knows_the_spaces_of_its_moment_and_the_rows_of_now(url):
    gallery = make_gallery(url, 2)
    view = gallery.view()
    gallery.add_space(SECOND)
    gallery.add(embed(OLD, ["c"]))
    assert view.spaces() == (OLD, SIDE)
    assert view.ids([OLD], [SIDE]) == ("c",)
    assert view.serving == OLD
    assert view.previous is None
    with pytest.raises(GalleryError, match=r"no space second@2 .*; it has old@1"):
        view.count([SECOND])


def test_a_view_counts_spaces_and_reads_the_journal_once(url):
    gallery = make_gallery(url, 2)
    view = gallery.view()
    counted, entries = view.counts[OLD], len(view.journal)
    gallery.add(embed(OLD, ["c"]))
    gallery.log({"event": "note"})
    assert view.counts[OLD] == counted
    assert len(view.journal) == entries
    assert gallery.view().counts[OLD].filled == 3
    assert len(gallery.view().journal) == entries + 1


def test_a_view_writes_no_vector_into_a_space_that_was_dropped_since(url):
    gallery = make_gallery(url, 1)
    Upgrade(gallery, TO_SECOND).start()
    view = gallery.view()
    batch = next(view.scan([OLD]))
    gallery.drop_space(SECOND)
    Upgrade(gallery, TO_SECOND).start()
    made = embed(SECOND, batch.ids)
    with pytest.raises(GalleryError, match="dropped"):
        view.write(made, batch.revisions, origin="upgraded", made_by=TO_SECOND.digest)
    assert gallery.count([SECOND]) == 0


def test_an_embedded_vector_clears_what_an_upgrade_made_that_was_started_after_the_view(url):
    gallery = make_gallery(url, 1)
    run_upgrade(gallery, TO_SECOND)
    view = gallery.view()
    run_upgrade(gallery, SECOND_TO_THIRD)
    assert gallery.count([THIRD]) == 1
    batch = next(view.scan([SECOND]))
    view.write(embed(SECOND, batch.ids), batch.revisions, origin="embedded")
    assert gallery.count([THIRD]) == 0


def test_a_record_that_was_read_is_written_again_to_the_byte():
    old, new = Space("old@1", 3), Space("new@2", 4)
    described = {"digest": "f" * 64, "old": old.to_json(), "side": None}
    both = {**described, "new": new.to_json(), "digest": "0" * 64, "first": "f" * 64}
    written = json.dumps(
        {
            "format": 2,
            "revision": 7,
            "fields": [{**one.to_json(), "column": one.name[:3]} for one in (old, new)],
            "serving": {"space": new.to_json(), "query_model": "m", "since": "2026-01-01"},
            "previous": {"space": old.to_json(), "query_model": None, "since": None},
            "made_by": {"new": {**both, "also": [{**described, "digest": "1" * 64}]}},
            "controls": {"new": {"paused": True, "rows_per_second": 2.5}},
            "retired": ["gone"],
            "class_names": {"3": "cat"},
        }
    )
    record = Record.from_json("g", json.loads(written))
    assert json.dumps(record.to_json()) == written
    assert record.transformations[new].digests == ["f" * 64, "1" * 64]
