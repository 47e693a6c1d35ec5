"""An upgrade that ends in a fused pair: verified, cut over, rolled back and completed as one."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from worlds import NEW, OLD, scaled, world

from onward.errors import GalleryError, UpgradeError
from onward.evaluation import retrieval
from onward.fusion import FusedEmbeddings, Fusion, Scale, Serving
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.upgrading import Canaries, Requirement, Upgrade
from onward.upgrading.upgrade import verify_and_cut_over

PAIR = Fusion(OLD, NEW, 0.4, Scale(4.0, 0.5), Scale(20.0, 0.5))


def run_upgrade(**options):
    """Return a gallery with an upgrade that has run, and true new embeddings of its items."""
    gallery, new, h = world(**options)
    upgrade = Upgrade(gallery, replace(h, serving=Serving("fused", PAIR)))
    upgrade.start()
    upgrade.run()
    return gallery, upgrade, new


def test_a_pair_is_verified_cut_over_and_rolled_back():
    gallery, upgrade, new = run_upgrade()
    gallery.serve(OLD, query_model="model a")
    with pytest.raises(UpgradeError, match="not verified; verify it first"):
        upgrade.cut_over(query_model="model b", serve="fused")
    assert upgrade.verify(serve="fused").passed
    status = upgrade.cut_over(query_model="model b", serve="fused")
    assert (status.fusion, status.is_cut_over, status.previous) == (PAIR, True, OLD)
    assert (status.query_model, status.old_query_model) == ("model b", "model a")
    assert str(PAIR) in str(status)
    assert "model b and model a" in str(status)
    old, carried = gallery.read(OLD), gallery.read(NEW)
    queries = new.select(range(5))
    found = gallery.search(queries, 5, queries_old=old.align(queries.ids))
    wanted = retrieval.search(
        FusedEmbeddings(PAIR, old.align(queries.ids), queries),
        FusedEmbeddings(PAIR, old, carried),
        5,
        exclude_self=False,
    )
    assert [found.ids_of(row) for row in range(5)] == [wanted.ids_of(row) for row in range(5)]
    back = upgrade.roll_back()
    assert (back.fusion, back.serving, back.query_model) == (None, OLD, "model a")


def test_the_pair_and_its_new_space_alone_are_verified_each_by_itself():
    _, upgrade, _ = run_upgrade()
    upgrade.verify()
    with pytest.raises(UpgradeError, match="that the new space alone may serve, not the fused"):
        upgrade.cut_over(query_model=None, serve="fused")
    upgrade.verify(serve="fused")
    status = upgrade.cut_over(query_model="b", serve="fused")
    assert status.verified == "fused"
    alone = upgrade.cut_over(query_model=None)  # its own verification is still fresh
    assert (alone.fusion, alone.query_model, alone.previous) == (None, "b", OLD)
    fused = upgrade.cut_over(query_model=None, serve="fused", old_query_model="a")
    assert (fused.fusion, fused.old_query_model, fused.previous) == (PAIR, "a", OLD)
    assert upgrade.roll_back().serving == OLD


def test_that_one_pair_may_serve_says_nothing_of_another():
    _, upgrade, _ = run_upgrade()
    upgrade.verify(serve="fused")
    other = replace(PAIR, weight=0.9)
    with pytest.raises(UpgradeError, match=r"may serve, not .*0.9 of the old; .* the same fusion"):
        upgrade.cut_over(query_model=None, serve="fused", fusion=other)
    upgrade.verify(serve="fused", fusion=other)
    assert upgrade.status().verification == "passed"
    assert upgrade.cut_over(query_model=None, serve="fused", fusion=other).fusion == other


def after_a_pair():
    """Return a gallery that answers from a pair, with an item that has its old vector only."""
    gallery, _, h = world()
    gallery.add(Embeddings(("no side",), np.ones((1, 6), np.float32), OLD))
    upgrade = Upgrade(gallery, replace(h, serving=Serving("fused", PAIR)))
    upgrade.start()
    upgrade.run()
    upgrade.verify(serve="fused")
    upgrade.cut_over(query_model=None, serve="fused")
    third = Space("third@3", 8)
    following = Upgrade(gallery, scaled(2.0, NEW, third))
    following.start()
    following.run()
    return gallery, following, third


def test_what_a_pair_finds_by_its_old_space_alone_the_next_upgrade_does_not_lose_unsaid():
    _, following, third = after_a_pair()
    verification = following.verify()
    assert not verification.passed
    assert [one.examples for one in verification.lost] == [("no side",)]
    assert following.verify(leave_out=True).passed
    kept = Fusion(OLD, third, 0.4, Scale(12.0, 4.0), Scale(60.0, 20.0))
    assert following.verify(serve="fused", fusion=kept).passed
    by_new = replace(kept, old=NEW)
    assert not following.verify(serve="fused", fusion=by_new).passed


def test_rolling_back_to_a_pair_finds_what_has_either_of_its_vectors():
    gallery, following, third = after_a_pair()
    following.verify(leave_out=True)
    following.cut_over(query_model=None)
    late = [Embeddings(("late",), np.ones((1, of.dim), np.float32), of) for of in (OLD, third)]
    gallery.add(*late)
    assert following.status().natives is None
    assert following.roll_back().fusion == PAIR


def test_an_upgrade_into_the_old_space_of_a_pair_is_not_aborted():
    gallery, following, third = after_a_pair()
    pair = Fusion(NEW, third, 0.4, Scale(1.0, 1.0), Scale(1.0, 1.0))
    gallery.serve(pair, query_model=None)
    _, _, h = world()
    with pytest.raises(UpgradeError, match="cannot be aborted: rolling back returns to it"):
        Upgrade(gallery, h).abort()
    following.complete(now=True)
    with pytest.raises(UpgradeError, match="cannot be aborted: it answers queries"):
        Upgrade(gallery, h).abort()


def test_the_next_step_after_verifying_the_pair_is_to_serve_it():
    _, upgrade, _ = run_upgrade()
    verification = upgrade.verify(serve="fused")
    assert verification.to_json()["next_steps"][0]["step"] == "cut_over_fused"
    assert upgrade.status().to_json()["next_steps"][0]["step"] == "cut_over_fused"
    assert "verification of the fused pair passed" in str(verification)


def test_a_row_that_cannot_be_carried_is_found_by_its_old_vector_in_the_pair():
    gallery, new, h = world()
    gallery.add(Embeddings(("no side",), np.ones((1, 6), np.float32), OLD))
    upgrade = Upgrade(gallery, replace(h, serving=Serving("fused", PAIR)))
    upgrade.start()
    upgrade.run()
    assert not upgrade.verify().passed
    assert upgrade.verify(serve="fused").passed
    upgrade.cut_over(query_model=None, serve="fused")
    asked = Embeddings(("q",), np.ones((1, 6), np.float32), OLD)
    both = Embeddings(("q",), new.vectors[:1], NEW)
    found = gallery.search(both, 201, queries_old=asked)
    assert "no side" in found.ids_of(0)
    with pytest.raises(UpgradeError, match="was not cut over: the verification of its upgrade"):
        upgrade.cut_over(query_model=None)  # alone, the new space would lose it


def test_canaries_ask_the_pair_by_both_models():
    gallery, upgrade, new = run_upgrade()
    some = new.select(range(0, 200, 4))
    labelled = replace(some, labels=gallery.read(OLD).align(some.ids).labels)
    with pytest.raises(UpgradeError, match="the canaries are by the new model alone"):
        upgrade.verify(
            serve="fused", canaries=Canaries(labelled, require=Requirement.parse("map >= 0.1"))
        )
    old = gallery.read(OLD).align(some.ids)
    verification = upgrade.verify(serve="fused", canaries=Canaries(labelled, old))
    assert verification.canaries is not None
    assert list(verification.canaries.cells) == ["fused", "old/old"]
    alone = upgrade.verify(canaries=Canaries(labelled, old))
    assert alone.canaries is not None
    fused, one = (v.canaries.cells for v in (verification, alone))
    assert fused["fused"].value("map") > one["old/old"].value("map")
    assert fused["fused"].value("map") != one["new/old"].value("map")


def test_completing_a_pair_ends_rolling_back_and_keeps_both_spaces():
    gallery, upgrade, _ = run_upgrade()
    upgrade.verify(serve="fused")
    upgrade.cut_over(query_model=None, serve="fused")
    with pytest.raises(UpgradeError, match="needs the old vectors: nothing was dropped"):
        upgrade.complete(now=True, drop_original=True)
    with pytest.raises(UpgradeError, match="cannot be completed before"):
        upgrade.complete(rollback_window=timedelta(days=1))
    completion = upgrade.complete(now=True)
    assert completion.kept[OLD] == "it answers queries, in the fused pair"
    assert (gallery.view().fusion, gallery.view().previous) == (PAIR, None)
    assert set(gallery.spaces()) >= {OLD, NEW}


def test_from_a_pair_that_is_complete_one_goes_to_the_new_space_alone():
    _, upgrade, _ = run_upgrade()
    upgrade.verify(serve="fused")
    upgrade.cut_over(query_model="b", serve="fused")
    upgrade.complete(now=True)
    upgrade.verify()
    status = upgrade.cut_over(query_model=None)
    assert (status.fusion, status.serving, status.query_model) == (None, NEW, "b")


def test_verify_and_cut_over_serves_a_pair_with_indexes_of_both_spaces():
    gallery, upgrade, _ = run_upgrade()
    status = verify_and_cut_over(upgrade, query_model="b", serve="fused", old_query_model="a")
    assert (status.fusion, status.old_query_model) == (PAIR, "a")
    built = [one["space"]["name"] for one in gallery.journal() if one["event"] == "build index"]
    assert built == [OLD.name, NEW.name]


def test_what_a_pair_needs_is_said():
    gallery, _, h = world()
    upgrade = Upgrade(gallery, h)
    upgrade.start()
    with pytest.raises(UpgradeError, match="does not say how old and new distances are fused"):
        upgrade.verify(serve="fused")
    other = replace(PAIR, old=Space("elsewhere@1", 6))
    with pytest.raises(UpgradeError, match=r"cannot answer queries of gallery .* the gallery has"):
        upgrade.verify(serve="fused", fusion=other)
    with pytest.raises(UpgradeError, match="but the new space alone is to serve"):
        upgrade.cut_over(query_model=None, fusion=PAIR)


def test_a_derived_space_that_a_pair_answers_from_is_kept_by_a_later_upgrade():
    first, second, third = (Space(f"line@{n}", 1) for n in (1, 2, 3))
    items = Embeddings(("a", "b"), np.array([[1.0], [2.0]], np.float32), first)
    gallery = create_gallery("memory:chain-fused", first, items=[items])
    for old, new in ((first, second), (second, third)):
        pair = Fusion(old, new, 0.5, Scale(1.0, 0.5), Scale(1.0, 0.5))
        h = replace(scaled(2.0, old, new), serving=Serving("fused", pair))
        upgrade = Upgrade(gallery, h)
        upgrade.start()
        upgrade.run()
        upgrade.verify(serve="fused")
        upgrade.cut_over(query_model=None, serve="fused")
    completion = upgrade.complete(now=True)
    assert completion.kept[second] == "it answers queries, in the fused pair"
    with pytest.raises(GalleryError, match="answers the queries"):
        gallery.drop_space(second)
