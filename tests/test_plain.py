"""Results as plain values."""

import json
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onward.evaluation.intervals import Interval
from onward.plain import Plain, fields_of, plain
from onward.spaces import Space


@dataclass(frozen=True)
class Share:
    of: Space
    counts: dict[str, int]


@dataclass(frozen=True)
class Answer(Plain):
    shares: tuple[Share, ...]
    gain: Interval | None
    curve: np.ndarray


NEW = Space("new@2", 3)
UNKNOWN = Interval(0.5, float("nan"), float("nan"), 0.95, True, "by hand")


def test_fields_become_plain_by_their_names_and_what_says_more_of_itself_is_asked():
    answer = Answer((Share(NEW, {"a": 1}),), UNKNOWN, np.array([0.25, 1.0]))
    expected = {
        "shares": [{"of": NEW.to_json(), "counts": {"a": 1}}],
        "gain": {**vars(UNKNOWN), "low": None, "high": None},
        "curve": [0.25, 1.0],
    }
    assert answer.to_json() == json.loads(json.dumps(answer.to_json())) == expected
    assert fields_of(answer, without=("gain", "shares")) == {"curve": [0.25, 1.0]}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda one: st.lists(one) | st.dictionaries(st.text(), one), max_leaves=10
)


@given(value=VALUES)
def test_what_is_plain_already_stays_as_it_is(value):
    assert plain(value) == value
    assert plain((value, np.float64(0.5), np.int64(3))) == [value, 0.5, 3]
