"""Every step of an upgrade looks at the gallery's record a few times, not once a question.

In a database each look is a round trip, and a step that mixes many decides on many moments.
"""

from collections import Counter

import pytest
from upgrades import (
    OLD,
    SECOND,
    TO_SECOND,
    embed,
    make_gallery,
    make_transformation,
    numbered,
    run_upgrade,
    start_upgrade,
)

from onward.gallery import Gallery
from onward.upgrading import Canaries, Requirement, Upgrade, plan_backfill, plan_upgrade

ROWS, MOST = 40, 3
BARE = make_transformation(OLD, None, SECOND, seed=8)


class CountedStore:
    """A store of which every call is counted."""

    def __init__(self, store):
        self._store, self.calls = store, Counter()

    def __getattr__(self, name):
        found = getattr(self._store, name)

        def counted(*arguments, **options):
            self.calls[name] += 1
            return found(*arguments, **options)

        return counted if callable(found) else found


@pytest.fixture(params=["memory:", "directory"])
def store(request, tmp_path):
    where = "memory:" if request.param == "memory:" else f"{tmp_path}/"
    return CountedStore(make_gallery(f"{where}{request.node.name}", ROWS)._store)


def looks(store, step):
    store.calls.clear()
    step()
    return store.calls["read_record"]


def test_a_step_looks_at_the_record_three_times_at_most(store):
    gallery = Gallery(store)
    upgrade = Upgrade(gallery, TO_SECOND)
    sample = embed(SECOND, numbered(3))
    queries = embed(SECOND, ("query",))
    qrels = {"query": {"item-0000": 1}}
    canaries = Canaries(queries, qrels=qrels, require=Requirement.parse("map >= 0"))
    assert looks(store, upgrade.status) == 1
    assert looks(store, lambda: plan_upgrade(gallery, TO_SECOND)) <= MOST
    judging = embed(SECOND, numbered(25))
    assert looks(store, lambda: plan_upgrade(gallery, TO_SECOND, sample=judging)) <= MOST
    assert looks(store, lambda: plan_backfill(gallery, TO_SECOND, sample=judging)) == 1
    assert looks(store, lambda: upgrade.start(sample=sample)) <= MOST
    assert looks(store, upgrade.pause) <= MOST
    assert looks(store, upgrade.resume) <= MOST
    assert looks(store, upgrade.run) <= MOST
    assert gallery.count([SECOND]) == ROWS
    assert looks(store, lambda: upgrade.verify(canaries=canaries)) <= MOST
    assert looks(store, lambda: upgrade.cut_over(query_model="second")) <= MOST
    assert any(entry["event"] == "build index" for entry in gallery.journal())
    assert looks(store, upgrade.status) == 1
    assert looks(store, upgrade.roll_back) <= MOST
    assert looks(store, lambda: upgrade.cut_over(query_model="second")) <= MOST
    assert looks(store, lambda: upgrade.complete(now=True)) <= MOST


def test_a_step_reads_the_journal_once_at_most(store):
    gallery = Gallery(store)
    upgrade = run_upgrade(gallery, TO_SECOND, BARE)
    upgrade.verify()
    upgrade.cut_over(query_model="second")
    for step in (upgrade.status, upgrade.verify, lambda: upgrade.complete(now=True)):
        store.calls.clear()
        step()
        assert store.calls["journal"] <= 1


def test_a_run_looks_once_a_batch_whether_it_may_go_on(store):
    upgrade = start_upgrade(Gallery(store), TO_SECOND)
    batches = 8
    made = looks(store, lambda: upgrade.run(batch_rows=ROWS // batches))
    assert batches <= made <= batches + MOST
