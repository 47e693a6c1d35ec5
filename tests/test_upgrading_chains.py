"""What is embedded, or collected, after vectors were made of something else, on every store."""

import numpy as np
import pytest
from upgrades import OLD, SECOND, SECOND_TO_THIRD, SIDE, THIRD, TO_SECOND, TO_THIRD, embed
from upgrades import make_transformation as transformation_of

from onward.gallery import create_gallery
from onward.upgrading import Upgrade
from onward.upgrading.backfill import Budget, backfill, embeddings_given

WITHOUT_SIDE = transformation_of(OLD, None, SECOND, seed=7)


@pytest.fixture
def gallery(url):
    return create_gallery(url, OLD, SIDE, items=(embed(OLD, "abc"),))


def run(gallery, *transformations):
    upgrade = Upgrade(gallery, *transformations)
    upgrade.start()
    upgrade.run()
    assert upgrade.verify(sample_rows=None).passed
    return upgrade


def embed_later(gallery, space, ids):
    given = embeddings_given(embed(space, ids, seed=9))
    return backfill(gallery, space, given, budget=Budget(share=1.0), ids=ids, order="random")


def test_what_a_fallback_made_is_right_also_when_side_information_comes_later(gallery):
    upgrade = run(gallery, TO_SECOND, WITHOUT_SIDE)
    before = gallery.read(SECOND).vectors
    assert embed_later(gallery, SIDE, "ab").done == 2
    np.testing.assert_array_equal(gallery.read(SECOND).vectors, before)
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed
    assert (verification.checked, verification.wrong) == (3, 0)


def test_a_vector_that_none_of_the_transformations_makes_is_wrong(gallery):
    upgrade = run(gallery, TO_SECOND, WITHOUT_SIDE)
    embed_later(gallery, SIDE, "ab")
    batch = next(gallery.scan([], ids="b"))
    gallery.write(embed(SECOND, "b", seed=3), batch.revisions, origin="upgraded")
    verification = upgrade.verify(sample_rows=None)
    assert (verification.wrong, verification.wrong_examples) == (1, ("b",))


def test_what_was_made_of_a_vector_is_made_again_when_a_model_has_replaced_it(gallery):
    run(gallery, TO_SECOND, WITHOUT_SIDE)
    upgrade = run(gallery, TO_THIRD, SECOND_TO_THIRD)
    before = gallery.read(THIRD)
    assert embed_later(gallery, SECOND, "a").done == 1
    assert gallery.ids([THIRD]) == ("b", "c")
    assert upgrade.run().done == 1
    after = gallery.read(THIRD)
    assert [bool(one) for one in (after.vectors == before.vectors).all(axis=1)] == [
        False,
        True,
        True,
    ]
    assert upgrade.verify(sample_rows=None).passed


def test_what_a_model_has_made_stays_whatever_it_could_be_made_of(gallery):
    run(gallery, TO_SECOND, WITHOUT_SIDE)
    run(gallery, TO_THIRD, SECOND_TO_THIRD)
    embed_later(gallery, THIRD, "a")
    embed_later(gallery, SECOND, "ab")
    assert gallery.ids([THIRD]) == ("a", "c")
    np.testing.assert_array_equal(gallery.read(THIRD, "a").vectors, embed(THIRD, "a", 9).vectors)
    np.testing.assert_array_equal(gallery.read(OLD).vectors, embed(OLD, "abc").vectors)


def test_what_is_given_where_nothing_was_clears_nothing(gallery):
    run(gallery, TO_SECOND, WITHOUT_SIDE)
    run(gallery, TO_THIRD, SECOND_TO_THIRD)
    embed_later(gallery, SIDE, "abc")
    assert gallery.ids([SECOND, THIRD]) == ("a", "b", "c")
