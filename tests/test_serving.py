"""What to serve, by what queries found: the rule by hand, and what it never does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.evaluation.serving import EVEN, PRIOR, WEIGHTS, Found, advise

CLASSES = np.repeat(np.arange(30), 20)
WHY = "less is asked here"
NOISE = np.random.default_rng(0).uniform(-0.02, 0.02, 600)


def found(cmc, ap=None):
    """Return what 600 queries of 30 classes find, with a little noise of each candidate's own."""
    return Found({"cmc@1": cmc + NOISE * (1 + cmc), "map": (cmc if ap is None else ap) + NOISE})


def ask(old, new, fused, **said):
    """Return the advice, and the weights that it asked for."""
    asked = []

    def find(weight):
        asked.append(weight)
        return found(*fused.get(weight, (0.3,)))

    said = {"by": "label", "lenient": WHY, **said}
    return advise(found(*old), found(*new), find, CLASSES.tolist(), **said), asked


LEVEL = dict.fromkeys(WEIGHTS, (0.5, 0.5))
STRICT = {"lenient": None}


@pytest.mark.parametrize(
    ("old", "new", "fused", "said", "expected"),
    [
        pytest.param((0.4,), (0.5,), {0.6: (0.6,), 0.7: (0.7,)}, STRICT, ("fused", 0.7), id="best"),
        pytest.param((0.6,), (0.5,), {0.6: (0.7,)}, {}, ("fused", 0.6), id="above-doing-nothing"),
        pytest.param((0.6,), (0.5,), {0.6: (0.601,)}, {}, ("old", 0.6), id="within-the-noise"),
        pytest.param((0.4,), (0.5,), LEVEL, STRICT, ("new", 0.1), id="level"),
        pytest.param(
            *((0.2,), (0.5, 0.3), {0.5: (0.7, 0.29), 0.4: (0.6, 0.31)}, STRICT, ("fused", 0.4)),
            id="one-metric-below-the-new-space",
        ),
        pytest.param(
            *((0.4, 0.5), (0.6, 0.4), {0.5: (0.9, 0.49)}, STRICT, ("new", 0.5)),
            id="one-metric-below-the-old-space",
        ),
    ],
)
def test_a_pair_is_served_that_is_clearly_better_and_loses_nothing(old, new, fused, said, expected):
    advice, asked = ask(old, new, fused, **said)
    assert (advice.advised, advice.weight) == expected
    assert asked == list(WEIGHTS)
    assert ("fused search is not clearly better" in advice.reason) == (advice.advised != "fused")


@pytest.mark.parametrize(
    ("fused", "expected", "tried"),
    [
        pytest.param(LEVEL, ("fused", PRIOR), [0.3], id="level"),
        pytest.param({0.3: (0.4,), 0.2: (0.496,)}, ("fused", 0.2), [0.3, 0.2], id="the-nearest"),
        pytest.param(
            {0.3: (0.6, 0.494), 0.4: (0.7, 0.496)}, ("fused", 0.4), [0.3, 0.2, 0.4], id="one-metric"
        ),
        pytest.param(
            {0.5: (0.48,), 0.6: (0.9,)}, ("new", 0.5), [0.3, 0.2, 0.4, 0.1, 0.5], id="all-lose"
        ),
    ],
)
def test_where_less_is_asked_the_pair_that_does_no_harm_is_served(fused, expected, tried):
    """By half a point of each metric; never with a weight above a half."""
    advice, asked = ask((0.4,), (0.5,), fused)
    assert ((advice.advised, advice.weight), asked) == (expected, tried)
    assert advice.reason.endswith(WHY) == (advice.advised == "fused")


def test_what_may_lose_two_points_within_the_noise_does_harm():
    rng = np.random.default_rng(0)
    new, old = rng.uniform(0.4, 0.6, 600), np.zeros(600)
    off = rng.normal(size=30)[CLASSES]
    for width, advised in ((0.02, "fused"), (0.2, "new")):
        given = {"by": "label", "lenient": WHY}
        other = Found({"map": np.clip(new + width * (off - off.mean()), 0, 1)})
        single = Found({"map": old}), Found({"map": new})
        found = advise(*single, lambda _, other=other: other, CLASSES.tolist(), **given)
        assert found.advised == advised


def test_agreement_judges_nothing_and_says_what_would():
    advice, asked = ask((0.9,), (0.5,), {0.5: (1.0,)}, by="agreement", **STRICT)
    assert (advice.advised, advice.weight, advice.gained, asked) == ("new", EVEN, None, [])
    assert advice.reason.endswith("cannot judge it; give labels, or real queries with judgements")


def test_without_a_pair_the_better_space_is_served():
    assert ask((0.4,), (0.5,), {}, weights=())[0].advised == "new"
    advice, _ = ask((0.6,), (0.5,), {}, weights=())
    assert (advice.advised, advice.weight, advice.reason) == ("old", EVEN, "it finds most")


def test_the_one_weight_of_a_pair_that_is_known_is_judged_alone():
    assert ask((0.4,), (0.5,), LEVEL, weights=(0.5,))[1] == [0.5]
    assert ask((0.4,), (0.5,), {0.6: (0.9,)}, weights=(0.6,))[0].advised == "new"
    assert ask((0.4,), (0.5,), {0.6: (0.9,)}, weights=(0.6,), **STRICT)[0].advised == "fused"


def test_the_reason_names_weight_gain_and_what_is_beaten():
    advice, _ = ask((0.4,), (0.5,), {0.6: (0.6,)}, **STRICT)
    assert advice.reason.startswith("with the weight 0.6 of the old, +10.")
    assert advice.reason.endswith(
        "600 queries in 30 clusters) of the mean of cmc@1 and map above the new space alone"
    )
    assert (advice.gained.estimate, advice.gained.low > 0) == (pytest.approx(0.1, abs=0.01), True)


@given(st.lists(st.sampled_from([0.3, 0.5, 0.5001, 0.6]), min_size=11, max_size=11), st.booleans())
def test_no_pair_is_served_that_is_below_the_better_space_by_more_than_half_a_point(values, strict):
    old, new, *pairs = values
    fused, said = dict(zip(WEIGHTS, pairs, strict=True)), STRICT if strict else {}
    advice, _ = ask((old,), (new,), {weight: (one,) for weight, one in fused.items()}, **said)
    served = {"old": old, "new": new, "fused": fused[advice.weight]}
    assert served[advice.advised] >= max(old, new) - 0.0051
