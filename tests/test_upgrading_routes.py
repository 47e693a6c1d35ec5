"""Several transformations into one space: every row goes by the first that can carry it."""

import itertools

import jaxtyping
import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, embed, make_transformation, run_upgrade, start_upgrade

from onward.cli.app import app
from onward.errors import UpgradeError
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit
from onward.training.settings import FitSettings
from onward.upgrading import Routes, Upgrade, plan_upgrade
from onward.upgrading.routes import Part, carried, count_pending, pending

NEW = Space("new@3", 5)
SPACES = (OLD, SIDE, SECOND)


FULL = make_transformation(OLD, SIDE, NEW)
BARE = make_transformation(OLD, None, NEW, seed=1)
FROM_SECOND = make_transformation(SECOND, None, NEW, seed=2)
ROUTES = Routes((FULL, BARE, FROM_SECOND))


def every_mixture():
    """All ways in which a row may have vectors, and what carries it."""
    for count in range(1, len(SPACES) + 1):
        yield from itertools.combinations(SPACES, count)


def make_gallery(url):
    """Two rows of every mixture; the ids say what a row has."""
    gallery = create_gallery(url, *SPACES, query_model="old")
    for held in every_mixture():
        ids = [f"{'-'.join(space.name.partition('@')[0] for space in held)}.{n}" for n in (0, 1)]
        gallery.add(*(embed(space, ids) for space in held))
    return gallery


@pytest.fixture
def gallery(url):
    return make_gallery(url)


CARRIED = {
    "old-side-second": FULL,
    "old-side": FULL,
    "old-second": BARE,
    "old": BARE,
    "side-second": FROM_SECOND,
    "second": FROM_SECOND,
}


def assert_every_row_was_carried_by_the_first_that_can(gallery):
    found = {}
    for held, transformation in CARRIED.items():
        needed = [one for one in (transformation.old, transformation.side) if one is not None]
        ids = (f"{held}.0", f"{held}.1")
        made = transformation.apply_reference(*(gallery.read(space, ids) for space in needed))
        np.testing.assert_allclose(gallery.read(NEW, ids).vectors, made.vectors, atol=1e-5)
        found |= dict.fromkeys(ids)
    assert gallery.ids([NEW]) == tuple(sorted(found))


def test_the_parts_of_rows_that_lack_something_are_disjoint_and_whole():
    whole = Part((), ())
    parts = list(whole.lacking((OLD, SIDE)))
    assert parts == [Part((), (OLD,)), Part((OLD,), (SIDE,))]
    assert list(Part((OLD,), ()).lacking((OLD, SIDE))) == [Part((OLD,), (SIDE,))]
    assert list(Part((OLD, SIDE), ()).lacking((OLD, SIDE))) == []


def test_every_mixture_of_vectors_is_in_one_part_and_goes_by_the_first_that_can():
    for held in [(), *every_mixture()]:
        mine = [
            transformation
            for transformation, part in ROUTES.parts
            if set(part.filled) <= set(held) and not set(part.empty) & set(held)
        ]
        left = [
            part
            for part in ROUTES.uncarried
            if set(part.filled) <= set(held) and not set(part.empty) & set(held)
        ]
        name = "-".join(space.name.partition("@")[0] for space in held)
        assert mine == ([CARRIED[name]] if name in CARRIED else [])
        assert len(mine) + len(left) == 1
        assert ROUTES.route_of(held) is (mine[0] if mine else None)


def test_the_digest_of_one_transformation_is_its_own_and_of_several_depends_on_their_order():
    assert Routes((FULL,)).digest == FULL.digest
    other = make_transformation(SIDE, None, NEW, seed=3)
    digests = [
        Routes(several).digest
        for several in [(FULL,), (FULL, BARE), (FULL, BARE, other), (FULL, other, BARE)]
    ]
    assert len(set(digests)) == 4


def test_pending_rows_come_once_with_what_carries_them(gallery):
    gallery.add_space(NEW)
    found = {
        item: transformation
        for transformation, batch in pending(gallery, ROUTES, 1)
        for item in batch.ids
    }
    assert found == {f"{held}.{n}": CARRIED[held] for held in CARRIED for n in (0, 1)}
    assert count_pending(gallery, ROUTES) == len(found)


def test_a_space_that_the_gallery_lacks_is_empty_in_every_row(url):
    gallery = create_gallery(url, OLD, items=[embed(OLD, ["a", "b"])])
    assert count_pending(gallery, Routes((FULL, BARE))) == 2
    assert count_pending(gallery, Routes((FULL,))) == 0


def test_an_upgrade_with_fallbacks_goes_the_whole_way(url, gallery):
    planned = plan_upgrade(gallery, FULL, BARE, FROM_SECOND)
    assert (planned.work.to_do, planned.work.rows) == (12, 14)
    assert [str(one) for one in planned.work.blocked] == [
        "2 rows: no vector in the old space, no vector in second@2 (side.0, side.1)"
    ]
    upgrade = start_upgrade(gallery, FULL, BARE, FROM_SECOND)
    result = upgrade.run(batch_rows=3)
    assert (result.done, result.remaining, result.skipped) == (12, 0, 2)
    assert_every_row_was_carried_by_the_first_that_can(gallery)
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed
    assert (verification.checked, verification.upgraded, verification.wrong) == (12, 12, 0)
    again = Upgrade(open_gallery(url), FULL, BARE, FROM_SECOND)
    assert again.status().verification == "passed"
    assert again.cut_over(query_model="new").serving == NEW


def test_a_verification_recomputes_each_row_by_its_own_transformation(gallery):
    upgrade = run_upgrade(gallery, FULL, BARE, FROM_SECOND)
    for transformation, batch in carried(gallery, ROUTES, 100, ("old.0", "second.1")):
        wrong = Embeddings(batch.ids, batch.vectors[NEW] + 1, NEW)
        gallery.write(wrong, batch.revisions, origin="upgraded")
        assert transformation in (BARE, FROM_SECOND)
    verification = upgrade.verify(sample_rows=None)
    assert verification.wrong_examples == ("old.0", "second.1")


def test_the_gallery_records_every_transformation(gallery):
    Upgrade(gallery, FULL, BARE).start()
    made_by = gallery.made_by(NEW)
    assert made_by.digest == Routes((FULL, BARE)).digest
    assert made_by.digests == [FULL.digest, BARE.digest]
    assert made_by.to_json() == {
        "digest": made_by.digest,
        "old": OLD.to_json(),
        "side": SIDE.to_json(),
        "new": NEW.to_json(),
        "first": FULL.digest,
        "also": [{"digest": BARE.digest, "old": OLD.to_json(), "side": None}],
    }
    assert "also" not in Routes((FULL,)).recorded.to_json()


def test_other_fallbacks_than_an_upgrade_was_started_with_are_refused(gallery):
    Upgrade(gallery, FULL, BARE).start()
    words = (
        f"and the fallback {BARE.digest[:8]}, and now there is the .* and no fallback; .* Go on "
        "with what it was started with, the fallbacks in the same order"
    )
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, FULL).run()
    with pytest.raises(
        UpgradeError, match=f"was started with the transformation {FULL.digest[:8]}"
    ):
        Upgrade(gallery, BARE).run()


def test_fallbacks_that_can_never_be_used_are_refused(gallery):
    elsewhere = make_transformation(OLD, None, Space("elsewhere", 5))
    cases = [
        ((BARE, FULL), r"reads old@1 and side@1, and every row .* give the one that reads more"),
        ((FULL, FULL), r"every row that has these is carried by a transformation before it"),
        ((FULL, elsewhere), r"leads to elsewhere .*, the first transformation to new@3 .*"),
        ((FULL, make_transformation(Space("no", 2), None, NEW)), r"has no vectors in no \(2, l2\)"),
    ]
    for given, words in cases:
        for verb in (Upgrade, plan_upgrade):
            with pytest.raises(UpgradeError, match=words):
                verb(gallery, *given)


def test_items_that_only_the_serving_space_finds_are_not_lost_unseen(url):
    """After a first upgrade, items are added with the second model's vector alone."""
    gallery = create_gallery(url, SECOND, OLD, SIDE, query_model="second")
    gallery.add(*(embed(space, ["kept"]) for space in SPACES))
    gallery.add(embed(SECOND, ["native"]))
    gallery.add(embed(OLD, ["never-found"]))
    upgrade = run_upgrade(gallery, FULL)
    verification = upgrade.verify()
    assert not verification.passed
    assert [(one.reason, one.examples) for one in verification.lost] == [
        ("no vector in the old space", ("native",))
    ]
    gallery.drop_space(NEW)
    both = run_upgrade(gallery, FULL, FROM_SECOND)
    assert both.verify().passed


@pytest.mark.slow
def test_the_command_line_takes_fallbacks(tmp_path):
    gallery = make_gallery(str(tmp_path / "g.lance"))
    gallery.delete(["side.0", "side.1"])  # nothing carries them, and `start` would end with 1
    for name, transformation in (("full", FULL), ("bare", BARE), ("second", FROM_SECOND)):
        transformation.save(tmp_path / name)
    fallbacks = ["--fallback", str(tmp_path / "bare"), "--fallback", str(tmp_path / "second")]
    for command in ("plan", "start", "verify", "cutover", "status"):
        given = [*fallbacks, *(["--unjudged"] if command == "start" else [])]
        words = ["upgrade", command, gallery.url, str(tmp_path / "full"), *given]
        run = CliRunner().invoke(app, words)
        assert run.exit_code == 0, (command, run.output)
    assert_every_row_was_carried_by_the_first_that_can(gallery)
    assert gallery.view().serving == NEW


def test_what_fit_returns_is_not_a_transformation_and_the_message_says_what_is(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    pairs = (
        embed(OLD, [f"i{row}" for row in range(30)]),
        embed(SECOND, [f"i{n}" for n in range(30)]),
    )
    fitted = fit(pairs[0], None, pairs[1], settings=FitSettings(method="ridge"))
    gallery = create_gallery("memory:fitted", OLD, items=[pairs[0]])
    words = (
        r"a Fit was given, and a transformation is needed; give .* fit\(\.\.\.\)\.transformation"
    )
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, fitted)
    assert Upgrade(gallery, fitted.transformation).start().work.to_do == 30
