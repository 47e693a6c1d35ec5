"""Ids and payloads are any text: what a store takes comes back as it was, the rest is refused."""

import json

import jaxtyping
import numpy as np
import pytest
from upgrades import OLD, SIDE, embed

from onward.errors import EmbeddingsError, GalleryError
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Space

NEW = Space("new@2", 5)


@pytest.fixture
def gallery(url):
    return create_gallery(url, OLD, SIDE)


def filled(gallery, payloads=None):
    gallery.add(embed(OLD, "abc"), embed(SIDE, "abc"), payloads=payloads)


NESTED = json.loads("[" * 98 + "]" * 98)
KEPT = {
    "numbers": {"a": [2**70, -0.0, 1e-320, True, None, "1"]},
    "any text": {"a\0": "\x1b[31m\0\r\n\ud800'\"\\", "": "\u2028\ufeff\U0010ffff"},
    "long": {"a": "x" * 3_000_000},
    "deep": {"a": NESTED},
}


@pytest.mark.parametrize("what", KEPT)
def test_a_payload_comes_back_as_it_was_given(url, gallery, what):
    filled(gallery, payloads=[{}, KEPT[what], {}])
    (found,) = open_gallery(url).payloads(["b"])
    assert json.dumps(found) == json.dumps(KEPT[what], sort_keys=True)


CYCLE = {"a": {}}
CYCLE["a"].update(b=CYCLE, c=CYCLE)
NOT_KEPT = {
    "a number as a key": ({1: "x"}, "its key 1 is of type int. Give .* with strings as keys"),
    "none as a key, inside": ({"a": [{None: 1}]}, "its key None is of type NoneType"),
    "too deep": ({"a": [[NESTED]]}, "it is nested more than 100 deep"),
    "far too deep": ({"a": json.loads("[" * 900 + "]" * 900)}, "it is nested more than 100 deep"),
    "a circle": (CYCLE, "Circular reference"),
    "too long a number": ({"a": 10**5000}, "Exceeds the limit"),
}


@pytest.mark.parametrize("what", NOT_KEPT)
def test_a_payload_that_would_not_come_back_is_refused(gallery, monkeypatch, what):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    payload, words = NOT_KEPT[what]
    with pytest.raises(GalleryError, match=rf"the payload of item 'b' cannot be kept .*{words}"):
        filled(gallery, payloads=[{}, payload, {}])
    assert gallery.count() == 0


STRANGE = (
    *("a\0b", "a\0", "\0", "a\nb", "\x1b[31mred", "\r\n", " ", "a ", "\u2028", "\ufeff", "\uffff"),
    *("'", "''", "\\'", "a'b\"c", "%", "NULL", "1", "1.0", "--", "/*", "$1"),
    *("é", "e\u0301", "\U0001f600", "x" * 100_000, "x" * 99_999 + "y"),
)


def test_any_text_is_an_id_and_comes_back_as_it_was_given(url, gallery):
    gallery.add(embed(OLD, STRANGE), embed(SIDE, STRANGE))
    gallery.add_space(NEW)
    gallery = open_gallery(url)
    assert set(gallery.ids()) == set(STRANGE)
    for batch in gallery.scan([OLD], without=[NEW], ids=STRANGE):
        gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded")
    assert gallery.count([NEW]) == len(STRANGE)
    changed = STRANGE[::2]
    gallery.update(embed(OLD, changed, 5))
    np.testing.assert_array_equal(
        gallery.read(OLD, changed).vectors, embed(OLD, changed, 5).vectors
    )
    assert set(gallery.ids(without=[NEW])) == set(changed)
    found = gallery.search(gallery.read(OLD, STRANGE), len(STRANGE), exclude_self=True)
    for row, item in enumerate(STRANGE):
        assert set(found.ids_of(row)) == set(STRANGE) - {item}
    assert gallery.delete(changed) == len(changed)
    assert set(gallery.ids()) == set(STRANGE) - set(changed)


@pytest.mark.parametrize("item", ["\ud800", "a\udcffb", ""])
def test_what_cannot_be_an_id_is_refused_by_every_call(gallery, item):
    filled(gallery)
    calls = {
        "delete": lambda: gallery.delete(["a", item]),
        "scan": lambda: list(gallery.scan([OLD], ids=["a", item])),
        "payloads": lambda: gallery.payloads(["a", item]),
        "read": lambda: gallery.read(OLD, ["a", item]),
    }
    for call in calls.values():
        with pytest.raises(EmbeddingsError, match=r"the id in row 1 is .*ids are strings in UTF-8"):
            call()
    assert gallery.ids() == ("a", "b", "c")
