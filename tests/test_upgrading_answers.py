"""What answers queries changes as one thing: whoever is killed at any call, or asks meanwhile."""

import itertools

import pytest

from onward.errors import SpaceMismatchError
from onward.evaluation import retrieval
from onward.fusion import FusedEmbeddings
from onward.gallery import Gallery, open_gallery
from onward.testing.watching import (
    ITEMS,
    MODELS,
    NEW,
    OLD,
    PAIRS,
    SIDE,
    WAYS,
    KilledError,
    Process,
    Row,
    Stated,
    Watched,
    vectors_of,
)
from onward.upgrading import Upgrade

NAMES = (f"memory:answers-{number}" for number in itertools.count())
PAIR = PAIRS[0]
BOTH = {"query_model": MODELS[NEW], "serve": "fused", "old_query_model": MODELS[OLD]}
STEPS = {
    "pair": lambda upgrade: upgrade.cut_over(**BOTH),
    "new": lambda upgrade: upgrade.cut_over(query_model=MODELS[NEW]),
    "back": lambda upgrade: upgrade.roll_back(),
    "complete": lambda upgrade: upgrade.complete(now=True),
}
ORDERS = (
    ("pair",),
    ("pair", "new"),
    ("new", "pair"),
    ("pair", "back"),
    ("pair", "new", "back"),
    ("pair", "complete"),
    ("pair", "complete", "new"),
)
"""Steps that are taken, and the last that is killed."""
FEWEST_CALLS = 4
"""Of each step to the store; or there is nothing to be killed at."""


def upgrade_of(gallery):
    return Upgrade(gallery, *WAYS["new"].transformations)


def taken(place, steps):
    """Return a gallery after an upgrade into the new space and some steps, and what it holds."""
    watched = Watched(place)
    rows = {item: Row(number, frozenset([OLD, SIDE])) for number, item in enumerate(ITEMS)}
    rows["a"] = Row(99, frozenset([OLD]))  # in the pair it is found by its old vector
    for item, row in rows.items():
        vectors = (vectors_of(space, {item: row.version}) for space in (OLD, SIDE))
        watched.gallery.add(*(one for one in vectors if one.space in row.given))
    upgrade = upgrade_of(watched.gallery)
    upgrade.start()
    upgrade.run()
    assert upgrade.verify(leave_out=True).passed
    assert upgrade.verify(serve="fused").passed
    for step in steps:
        STEPS[step](upgrade)
    watched.stated = Stated.of(watched.gallery)
    return watched, rows


def die():
    raise KilledError


def is_killed(gallery, step, at):
    """Take a step that is killed before one of its calls; say whether there is such a call."""
    try:
        STEPS[step](upgrade_of(Gallery(Process(gallery._store, at, die))))
    except KilledError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_whoever_is_killed_at_any_call_leaves_what_answered_or_what_is_to_answer(order):
    *before, last = order
    expected = taken(next(NAMES), order)[0].stated
    for at in itertools.count():
        watched, rows = taken(next(NAMES), before)
        was, killed = watched.stated, is_killed(watched.gallery, last, at)
        watched.reopen()
        watched.stated = Stated.of(watched.gallery)
        assert watched.stated in ((was, expected) if killed else (expected,))
        watched.check(rows)
        STEPS[last](upgrade_of(watched.gallery))
        assert Stated.of(watched.gallery) == expected
        if not killed:
            break
    assert at >= FEWEST_CALLS


@pytest.mark.parametrize("then", ["new", "back"])
@pytest.mark.parametrize("kind", ["memory", pytest.param("lancedb", marks=pytest.mark.slow)])
def test_who_asks_while_what_answers_changes_is_answered_by_one_thing(kind, tmp_path, then):
    place = next(NAMES) if kind == "memory" else tmp_path / "g.lance"
    watched, _ = taken(place, ["pair"])
    asked = [vectors_of(space, {"query": 0}) for space in (OLD, NEW)]
    gallery = watched.gallery
    both = FusedEmbeddings(PAIR, *(gallery.read(space) for space in (OLD, NEW)))
    wanted = retrieval.search(FusedEmbeddings(PAIR, *asked), both, 10, exclude_self=False)
    refused = 0
    for at in itertools.count():
        happened = []

        def change(happened=happened):
            happened.append(True)
            STEPS[then](upgrade_of(open_gallery(watched.place)))

        process = Gallery(Process(gallery._store, at, change))
        try:
            found = process.search(asked[1], 10, queries_old=asked[0])
        except SpaceMismatchError:
            refused += 1
        else:
            assert found.nearest(0)[0] == wanted.nearest(0)[0]
        if not happened:
            break
        STEPS["pair"](upgrade_of(gallery))
    assert refused == 1  # where it changed before the gallery was asked what answers
    assert at >= FEWEST_CALLS
