"""Every error says what was given, what is needed and what to do, as fields and in its text."""

import pickle

import pytest

from onward import errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.OnwardError)
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.MissingExtraError])
@pytest.mark.parametrize("needed", ["", "20 are needed"])
@pytest.mark.parametrize("do", ["", "give more items"])
def test_the_text_of_an_error_holds_its_fields_in_order(kind, needed, do):
    error = kind("there are 3 items", do, needed=needed)

    assert (error.given, error.needed, error.do) == ("there are 3 items", needed, do)
    assert str(error).split("; ") == [part for part in ("there are 3 items", needed, do) if part]


def test_an_error_keeps_its_fields_on_the_way_from_another_process():
    error = errors.DataError("there are 3 items", "give more", needed="20 are needed", step="fit")

    again = pickle.loads(pickle.dumps(error))

    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_missing_extra_says_what_installs_it():
    error = errors.MissingExtraError("torch", "fit")

    assert error.given == "torch is not installed"
    assert error.do.endswith("pip install 'onward[fit]'")
