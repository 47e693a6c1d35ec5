"""What every store keeps of the names of classes, and how labels of two sources meet in it."""

import json
import re

import numpy as np
import pytest
from upgrades import OLD, SIDE, embed, make_gallery

from onward.errors import LabelMismatchError
from onward.gallery import create_gallery, open_gallery
from onward.gallery.record import Record

CATS_AND_OWLS = {0: "cat", 1: "owl"}
CATS_DOGS_OWLS = {0: "cat", 1: "dog", 2: "owl"}


def items(ids, labels=None, names=None, space=OLD):
    from dataclasses import replace

    labels = None if labels is None else np.array(labels)
    return replace(embed(space, tuple(ids)), labels=labels, class_names=names)


def classes(gallery):
    """The name of each item's class, or its number where classes have no names."""
    read = gallery.read(OLD)
    if read.labels is None:
        return dict.fromkeys(read.ids)
    names = read.class_names or {}
    named = [names.get(n, n) if n >= 0 else None for n in read.labels.tolist()]
    return dict(zip(read.ids, named, strict=True))


@pytest.mark.parametrize("later", [False, True])
def test_class_names_go_with_the_items_into_the_gallery_and_out(url, later):
    given = items("abc", [1, 0, -1], CATS_AND_OWLS)
    gallery = create_gallery(url, OLD, SIDE, items=() if later else [given])
    if later:
        gallery.add(given)
    for one in (gallery, open_gallery(url)):
        assert one.class_names() == CATS_AND_OWLS
        assert one.read(OLD).class_names == CATS_AND_OWLS
        assert classes(one) == {"a": "owl", "b": "cat", "c": None}
        assert one.describe().to_json()["named_classes"] == 2
        assert str(one.describe()).splitlines()[0].endswith(", labels of 2 named classes")


def test_items_of_another_numbering_are_added_by_name(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("abc", [0, 1, 2], CATS_DOGS_OWLS)])
    gallery.add(items("de", [1, 0], CATS_AND_OWLS))
    assert gallery.class_names() == CATS_DOGS_OWLS
    gallery.add(items("fgh", [0, 1, 7], {0: "ant", 1: "owl", 7: "emu"}))
    assert gallery.class_names() == {**CATS_DOGS_OWLS, 8: "ant", 7: "emu"}
    assert classes(gallery) == dict(
        zip("abcdefgh", ["cat", "dog", "owl", "owl", "cat", "ant", "owl", "emu"], strict=True)
    )
    gallery.update(items("ab", [0, 1], CATS_AND_OWLS))
    assert classes(gallery) | {"a": "cat", "b": "owl"} == classes(gallery)


def test_names_are_recorded_once_and_logged(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("a", [0], CATS_AND_OWLS)])
    gallery.add(items("b", [1], CATS_AND_OWLS))
    gallery.add(items("c"))
    assert [entry["event"] for entry in gallery.journal()] == ["create"]
    gallery.add(items("d", [0], {0: "ant"}))
    assert [entry["event"] for entry in gallery.journal()] == ["create", "name classes"]


@pytest.mark.parametrize("of_gallery", [CATS_AND_OWLS, None])
def test_names_on_one_side_only_are_refused_and_nothing_is_written(url, of_gallery):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab", [0, 1], of_gallery)])
    given = items("cd", [1, 0], None if of_gallery else CATS_AND_OWLS)
    with_names, without = ("the items", f"gallery {gallery.url}")[:: -1 if of_gallery else 1]
    words = (
        f"the classes of {with_names} have names (0 is 'cat'), those of {without} have none, so "
        "nothing tells whether a label means the same class in both"
    )
    for method in (gallery.add, gallery.update):
        with pytest.raises(LabelMismatchError, match=re.escape(words)):
            method(given)
    assert gallery.ids() == ("a", "b")
    gallery.add(given, same_labels=True)
    assert gallery.class_names() == CATS_AND_OWLS
    assert classes(gallery) == {"a": "cat", "b": "owl", "c": "owl", "d": "cat"}


def test_a_number_that_the_gallery_has_no_name_for_cannot_be_of_its_numbering(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab", [0, 1], CATS_AND_OWLS)])
    words = "are said to be numbered as gallery .*, but label 7 is none of the 2 classes there"
    with pytest.raises(LabelMismatchError, match=words):
        gallery.add(items("c", [7]), same_labels=True)
    assert gallery.ids() == ("a", "b")


def test_names_that_do_not_cover_the_rows_leave_the_gallery_without(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab", [0, 7])])
    gallery.add(items("c", [1], CATS_AND_OWLS), same_labels=True)
    assert gallery.class_names() is None
    assert classes(gallery) == {"a": 0, "b": 7, "c": 1}


def test_without_names_on_either_side_numbers_mean_the_same(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab", [0, 5])])
    gallery.add(items("c", [5]))
    assert gallery.class_names() is None
    assert classes(gallery) == {"a": 0, "b": 5, "c": 5}


def test_names_that_are_the_numbers_go_with_numbers(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab", [0, 5], {0: "0", 5: "5"})])
    gallery.add(items("c", [12]))
    assert gallery.class_names() == {0: "0", 5: "5", 12: "12"}
    other = create_gallery(f"{url}2", OLD, SIDE, items=[items("ab", [0, 5])])
    other.add(items("c", [5], {0: "0", 5: "5"}))
    assert classes(other) == {"a": 0, "b": 5, "c": 5}


def test_a_gallery_without_labels_takes_the_names_of_the_first_that_have_some(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("ab"), items("ab", space=SIDE)])
    gallery.add(items("c", [-1], CATS_AND_OWLS))
    assert gallery.class_names() is None
    gallery.add(items("d", [1], CATS_AND_OWLS))
    assert classes(gallery) == {"a": None, "b": None, "c": None, "d": "owl"}
    gallery.update(items("a", [0], CATS_AND_OWLS))
    gallery.update(items("d", [-1]))
    assert classes(gallery) == {"a": "cat", "b": None, "c": None, "d": None}


def test_embeddings_of_the_same_items_give_their_labels_together(url):
    gallery = create_gallery(url, OLD, SIDE)
    gallery.add(
        items("abc", [0, 1, -1], CATS_AND_OWLS), items("abc", [0, 2, 1], CATS_DOGS_OWLS, SIDE)
    )
    assert classes(gallery) == {"a": "cat", "b": "owl", "c": "dog"}
    gallery.add(items("de", [0, 1]), items("de", [0, 1], CATS_AND_OWLS, SIDE))
    assert classes(gallery) | {"d": "cat", "e": "owl"} == classes(gallery)
    with pytest.raises(LabelMismatchError, match="only one has class names, and item 'g' has its"):
        gallery.add(items("fg", [0, 1]), items("fg", [0, -1], CATS_AND_OWLS, SIDE))
    words = "'f' is of class 'cat' in those in old@1 .* and of class 'owl' in those in side@1"
    with pytest.raises(LabelMismatchError, match=words):
        gallery.add(items("f", [0], CATS_AND_OWLS), items("f", [0], {0: "owl"}, SIDE))


def test_two_processes_that_name_classes_at_once_give_them_numbers_of_their_own(url, monkeypatch):
    gallery = create_gallery(url, OLD, SIDE, items=[items("a", [0], {0: "cat"})])
    other = open_gallery(url)
    change, done = type(gallery._store).change_record, []

    def late(store, record, entry):
        if not done:
            done.append(1)
            other.add(items("b", [0], {0: "dog"}))
        return change(store, record, entry)

    monkeypatch.setattr(type(gallery._store), "change_record", late)
    gallery.add(items("c", [0], {0: "owl"}))
    assert classes(gallery) == {"a": "cat", "b": "dog", "c": "owl"}


def test_a_record_of_before_has_no_names_and_takes_none_without_a_word(url):
    gallery = make_gallery(url, 3, labels=np.array([0, 1, 0]))
    written = gallery._store.read_record().to_json()
    del written["class_names"]
    before = Record.from_json("g", {**written, "revision": written["revision"] + 1, "format": 1})
    assert before.class_names is None
    assert gallery._store.change_record(before, {"number": before.revision, "event": "before"})
    assert gallery.read(OLD).class_names is None
    with pytest.raises(LabelMismatchError, match="the classes of the items have names"):
        gallery.add(items("a", [0], CATS_AND_OWLS))
    gallery.add(items("a", [0]))
    gallery.add(items("b", [1], CATS_AND_OWLS), same_labels=True)
    assert set(classes(gallery).values()) == {"cat", "owl"}


def test_the_record_in_json_gives_the_names_back(url):
    gallery = create_gallery(url, OLD, SIDE, items=[items("a", [3], {3: "caf\u00e9 \n"})])
    written = json.loads(json.dumps(gallery._store.read_record().to_json()))
    assert Record.from_json("g", written).class_names == {3: "caf\u00e9 \n"}
