import re

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onward.errors import EmbeddingsError, SpaceMismatchError
from onward.quantisation import Quantisation, fit_quantisation
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation, linear

SIDE = Space("old-layers@1f2e3d4c", 2)


def embeddings(vectors, space=SIDE):
    rows = np.array(vectors, np.float32)
    return Embeddings(tuple(f"item-{row}" for row in range(len(rows))), rows, space)


def drawn(rows, seed=0, dim=2):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dim)) * np.geomspace(0.01, 100, dim)
    return embeddings(vectors, Space("side@1", dim))


def test_int8_codes_worked_by_hand():
    by_hand = Quantisation(SIDE, "int8", np.array([0.5, 10], np.float32))
    coded = by_hand.apply(embeddings([[0.74, -14], [-0.1, 1e30], [-500, 15.1], [0.75, 0]]))
    assert coded.vectors.tolist() == [[1, -1], [0, 127], [-127, 2], [2, 0]]
    assert coded.ids == ("item-0", "item-1", "item-2", "item-3")
    assert not np.signbit(coded.vectors[1, 0])  # 0 has one code


def test_what_overflows_is_clipped_too():
    tiny = Quantisation(SIDE, "int8", np.array([1e-30, 1], np.float32))
    assert tiny.apply(embeddings([[3e38, 3e38]])).vectors.tolist() == [[127, 127]]


def test_the_scale_reaches_the_largest_value_or_five_deviations_of_the_widest_dimension():
    light = [[1, 3], [-1, -4], [1, 0], [-1, 0]]  # root mean squares 1 and 2.5
    fitted = fit_quantisation(embeddings(light), "int8")
    np.testing.assert_allclose(fitted.scale, [12.5 / 127, 12.5 / 127], rtol=1e-6)
    heavy = np.zeros((100, 2))
    heavy[0] = 8, -20  # root mean squares 0.8 and 2
    fitted = fit_quantisation(embeddings(heavy), "int8")
    np.testing.assert_allclose(fitted.scale, [20 / 127, 20 / 127], rtol=1e-6)
    assert fitted.apply(embeddings(heavy)).vectors[0].tolist() == [51, -127]


def test_a_narrow_dimension_has_a_finer_scale_of_its_own_but_never_clips():
    narrow = np.zeros((4, 2))
    narrow[:, 0], narrow[:, 1] = [0.1, -0.1, 0.1, -0.1], [100, -100, 100, -100]
    fitted = fit_quantisation(embeddings(narrow), "int8")
    np.testing.assert_allclose(fitted.scale, [0.05, 500 / 127], rtol=1e-6)
    spiked = np.zeros((10_000, 2))
    spiked[0, 0], spiked[:, 1] = 10, 100  # a root mean square of 0.1, and one value of 10
    fitted = fit_quantisation(embeddings(spiked), "int8")
    np.testing.assert_allclose(fitted.scale[0], 10 / 127, rtol=1e-6)
    assert fitted.apply(embeddings(spiked)).vectors[0, 0] == 127


def test_float16_keeps_the_nearest_number_that_it_holds_and_clips_what_it_does_not():
    fitted = fit_quantisation(embeddings([[1, 2]]), "float16")
    assert fitted.scale is None
    kept = fitted.apply(embeddings([[1 / 3, 2049], [-1e9, 65520]])).vectors
    assert kept.tolist() == [[np.float16(1 / 3), 2048], [-65504, 65504]]


@given(
    hnp.arrays(
        np.float32,
        (5, 2),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    )
)
@settings(deadline=None)
def test_a_code_is_within_half_a_scale_of_what_was_fitted_on(vectors):
    fitted = fit_quantisation(embeddings(vectors), "int8")
    back = fitted.apply(embeddings(vectors)).vectors.astype(np.float64) * fitted.scale
    assert (np.abs(back - vectors) <= 0.501 * fitted.scale).all()


def test_int8_loses_little_of_the_variance_of_others_too():
    fitted = fit_quantisation(drawn(1000, dim=6), "int8")
    others = drawn(1000, seed=1, dim=6)
    back = fitted.apply(others).vectors * fitted.scale
    lost, varies = ((back - others.vectors) ** 2).mean(axis=0), others.vectors.var(axis=0)
    assert (lost / varies).max() < 0.03  # 2 codes a deviation: (1 / 12) / 4 of the variance
    assert lost.sum() / varies.sum() < 1e-3


def test_codes_keep_the_proportions_of_dimensions():
    wide = drawn(1000, dim=2).vectors * np.array([50, 0.05], np.float32)  # deviations 0.5 and 5
    codes = fit_quantisation(embeddings(wide), "int8").apply(embeddings(wide)).vectors
    np.testing.assert_allclose(codes.std(axis=0)[1] / codes.std(axis=0)[0], 10, rtol=0.1)


def test_a_dimension_that_is_always_zero_stays_zero():
    fitted = fit_quantisation(embeddings([[0, 1], [0, 2]]), "int8")
    assert fitted.scale[0] == 1
    assert fitted.apply(embeddings([[0, 2]])).vectors[0, 0] == 0


def test_another_format_or_scale_is_another_space_with_the_given_name():
    some = drawn(20)
    one, two = fit_quantisation(some, "int8"), fit_quantisation(drawn(20, seed=1), "int8")
    half = fit_quantisation(some, "float16")
    assert len({some.space, one.space, two.space, half.space}) == 4
    assert one.space == fit_quantisation(some, "int8").space == one.apply(some).space
    assert re.fullmatch("side-int8@[0-9a-f]{8}", one.space.name)
    assert str(half.space).endswith("(2, l2, float16)")
    for metric in ("cosine", "ip"):
        brought = Quantisation(Space("clip", 2, metric), "float16").space
        assert (brought.name.split("@")[0], brought.metric) == ("clip-float16", metric)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SIDE, "int4"), "cannot be quantised to 'int4'; choose 'float16' or 'int8', or leave"),
        ((SIDE, "int8"), "a scale of shape None does not quantise old-layers@1f2e3d4c (2, l2) to"),
        ((SIDE, "float16", np.ones(2, np.float32)), "float16 needs None"),
        ((SIDE, "int8", np.ones(3, np.float32)), "int8 needs one of shape (2,)"),
        ((SIDE, "int8", np.zeros(2, np.float32)), "int8 needs finite scales above 0; give dim"),
        ((Space("s", 2, "l2", "int8"), "int8"), "s (2, l2, int8) is quantised already; quantise"),
    ],
)
def test_a_quantisation_refuses_what_does_not_fit(arguments, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Quantisation(*arguments)


def test_fitting_refuses_what_cannot_be_fitted(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EmbeddingsError, match="cannot be fitted on no embeddings; give some of"):
        fit_quantisation(drawn(2).select([]), "int8")
    with pytest.raises(EmbeddingsError, match=r"holds numbers up to 65504, .* has 70000; choose"):
        fit_quantisation(embeddings([[7e4, 1]]), "float16")
    with pytest.raises(EmbeddingsError, match="quantised to 'float32'; choose"):
        fit_quantisation(drawn(2), "float32")
    coded = fit_quantisation(drawn(9), "int8").apply(drawn(9))
    with pytest.raises(EmbeddingsError, match="is quantised already"):
        fit_quantisation(coded, "int8")


def test_a_saved_transformation_knows_the_format_of_its_side_information(tmp_path):
    old, new, side = Space("old@1", 1), Space("new@2", 2), drawn(5)
    quantisation = fit_quantisation(side, "int8")
    coded = quantisation.apply(side)
    weight = np.array([[1, 2, 0], [0, 0, 3]], np.float32)
    h = linear(old, coded.space, new, weight, np.zeros(2, np.float32), made_by={})
    h.save(tmp_path / "h")
    loaded = Transformation.load(tmp_path / "h")
    assert (loaded.side, loaded.digest) == (coded.space, h.digest)
    by_old = Embeddings(side.ids, np.ones((5, 1), np.float32), old)
    expected = np.stack([1 + 2 * coded.vectors[:, 0], 3 * coded.vectors[:, 1]], axis=1)
    np.testing.assert_allclose(loaded.apply(by_old, coded).vectors, expected, rtol=1e-6)
    with pytest.raises(SpaceMismatchError, match=r"was fitted with side-information in .*int8"):
        loaded.apply(by_old, side)


def test_embeddings_of_another_space_are_refused():
    fitted = fit_quantisation(drawn(9), "int8")
    words = "are in new (2, l2), but the quantisation was fitted on side@1 (2, l2); its scales mean"
    with pytest.raises(SpaceMismatchError, match=re.escape(words)):
        fitted.apply(embeddings([[1, 2]], Space("new", 2)))
