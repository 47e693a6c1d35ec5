"""Class names: what brings the labels of two sources together, and what refuses to guess."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from onward import Embeddings, Relevance, Space, evaluate_embeddings
from onward.cli.app import app
from onward.errors import EmbeddingsError, LabelMismatchError
from onward.labels import as_class_names, as_labels, into, numbering_note, renumber

S = Space("s@1", 2)
SOURCES = ("the queries", "the gallery")


def labelled(labels, names=None, prefix="i"):
    """Return items whose vectors are apart by class: the class's first letter, or its number."""
    place = [ord(names[label][0]) if names and label >= 0 else label for label in labels]
    vectors = np.array([[p, 0] for p in place], np.float32)
    ids = tuple(f"{prefix}{row}" for row in range(len(labels)))
    return Embeddings(ids, vectors, S, np.array(labels), names)


CATS_AND_OWLS = {0: "cat", 1: "owl"}
CATS_DOGS_OWLS = {0: "cat", 1: "dog", 2: "owl"}


# How two numberings meet.


@pytest.mark.parametrize(
    ("given", "to", "expected"),
    [
        pytest.param(CATS_AND_OWLS, CATS_DOGS_OWLS, {1: 2}, id="a-class-is-missing"),
        pytest.param(CATS_DOGS_OWLS, CATS_AND_OWLS, {1: 3, 2: 1}, id="a-class-is-new"),
        pytest.param({0: "b", 1: "a"}, {0: "a", 1: "b"}, {0: 1, 1: 0}, id="another-order"),
        pytest.param({0: "a", 5: "f"}, {0: "a", 1: "b"}, {}, id="a-new-class-keeps-a-free-number"),
        pytest.param({0: "x", 1: "y"}, {0: "a", 1: "b"}, {0: 2, 1: 3}, id="nothing-in-common"),
        pytest.param({0: "3", 1: "7"}, {3: "3", 7: "7"}, {0: 3, 1: 7}, id="numbers-as-names"),
        pytest.param(None, None, {}, id="neither-has-names"),
        pytest.param(None, {0: "0", 1: "1"}, {}, id="one-is-named-by-its-numbers"),
        pytest.param({0: "0", 1: "1"}, None, {}, id="the-other-is-named-by-its-numbers"),
        pytest.param({0: "e\u0301"}, {4: "\u00e9"}, {0: 4}, id="two-ways-to-write-one-name"),
        pytest.param({2**63 - 1: "z"}, {2**63 - 1: "a"}, {2**63 - 1: 0}, id="the-largest-label"),
    ],
)
def test_labels_are_translated_by_the_names_of_their_classes(given, to, expected):
    given, to = (names and as_class_names(names, np.array([], np.int64)) for names in (given, to))
    labels = np.array([*(given or {0: ""}), -1, 99], np.int64)
    new = renumber(labels, given, to, same_labels=False, sources=SOURCES)
    assert new.tolist() == [expected.get(label, label) for label in labels.tolist()]


@pytest.mark.parametrize("turned", [False, True])
def test_names_on_one_side_only_are_refused_unless_the_numbering_is_stated(turned):
    given, to = (None, CATS_AND_OWLS) if turned else (CATS_AND_OWLS, None)
    first, second = SOURCES[::-1] if turned else SOURCES
    words = (
        f"the classes of {first} have names (0 is 'cat'), those of {second} have none, so nothing "
        "tells whether a label means the same class in both. Embed again from data with class "
        "names; or, if both number their classes the same, say so: same_labels=True"
    )
    with pytest.raises(LabelMismatchError, match=re.escape(words)):
        renumber(np.array([0]), given, to, same_labels=False, sources=SOURCES)
    labels = np.array([0, 7])
    assert renumber(labels, given, to, same_labels=True, sources=SOURCES) is labels


def test_only_a_comparison_by_number_is_noted():
    assert numbering_note(CATS_AND_OWLS, CATS_DOGS_OWLS, same_labels=False) is None
    for names in [(None, None), (None, {0: "0", 5: "5"})]:
        for one, other in (names, names[::-1]):
            told = numbering_note(one, other, same_labels=False)
            assert told is not None
            assert "same number is taken to mean the same class" in told
            assert numbering_note(one, other, same_labels=True) is None
    # What is refused unless it is stated is not told to be done.
    assert numbering_note(CATS_AND_OWLS, None, same_labels=False) is None
    assert numbering_note(None, CATS_AND_OWLS, same_labels=False) is None


PAIRS = st.tuples(st.integers(0, 9), st.sampled_from("abcdefgh"))
NUMBERINGS = st.lists(PAIRS, unique_by=(lambda pair: pair[0], lambda pair: pair[1])).map(dict)


@settings(deadline=None)
@given(given=NUMBERINGS, to=NUMBERINGS)
def test_every_label_keeps_its_name_in_any_numbering(given, to):
    labels = np.array([*given, -1], np.int64)
    new, names = into(labels, given, to, same_labels=False, sources=SOURCES)
    assert [names.get(label) for label in new.tolist()] == [given.get(n) for n in labels.tolist()]
    assert names.items() >= to.items()
    assert sorted(names.values()) == sorted({*to.values(), *given.values()})


# What embeddings refuse.


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param({0: "cat"}, "class 1 has no name, and 1 other classes have one", id="lacking"),
        pytest.param({0: "cat", 1: "cat"}, "the classes 0 and 1 are both called 'cat'", id="twice"),
        pytest.param(
            {0: "e\u0301", 1: "\u00e9"}, "the classes 0 and 1 are both called", id="twice-in-NFC"
        ),
        pytest.param({0: "cat", 1: 7}, "the name of class 1 is 7; class names are", id="number"),
        pytest.param({0: "cat", 1: ""}, "the name of class 1 is ''; class names are", id="empty"),
        pytest.param({0: "cat", 1: "\udcff"}, "the name of class 1 is", id="no-text"),
        pytest.param({"0": "cat"}, "a class name is given for '0'; class names", id="text-label"),
        pytest.param(["cat", "owl"], "the class names are given as a list; give a name", id="list"),
        pytest.param({True: "cat"}, "a class name is given for True; class names", id="boolean"),
    ],
)
def test_class_names_that_are_none_are_refused(names, words):
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        as_class_names(names, np.array([0, 1]))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([1.5, 2.0], id="halves"),
        pytest.param([np.nan, 1.0], id="nan"),
        pytest.param([2.0**60, 1.0], id="floats-that-are-not-exact"),
        pytest.param(np.array([2**63, 1], np.uint64), id="above-64-bits"),
        pytest.param([2**64, 1], id="far-above-64-bits"),
        pytest.param([True, False], id="booleans"),
        pytest.param([1j, 2j], id="complex"),
        pytest.param(np.array(["2020-01-01", "2020-01-02"], "M8[D]"), id="dates"),
        pytest.param(np.array([1, 2], "m8[s]"), id="durations"),
        pytest.param(np.ma.masked_array([1, 2], [False, True]), id="masked"),
        pytest.param(["cat", "dog"], id="words"),
        pytest.param([None, 1], id="none"),
        pytest.param(np.array([1, 1.5], object), id="objects"),
        pytest.param(np.array([1, True], object), id="objects-that-are-booleans"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_refused(labels):
    with pytest.raises(EmbeddingsError, match=r"whole numbers of 64 bits \(.*\); give each item"):
        as_labels(labels)


def test_labels_of_other_whole_types_are_taken():
    for labels in ([1.0, -1.0], np.array([1, -1], np.int8), [1, -1], np.array([1, -1], object)):
        assert as_labels(labels).tolist() == [1, -1]


def test_class_names_stay_with_the_embeddings(tmp_path):
    made = labelled([2, 0, -1], CATS_DOGS_OWLS)
    assert made.class_names == CATS_DOGS_OWLS
    assert made.select([1]).class_names == CATS_DOGS_OWLS
    assert made.align(["i2", "i0"]).class_names == CATS_DOGS_OWLS
    made.save(tmp_path / "a.parquet")
    assert Embeddings.load(tmp_path / "a.parquet").class_names == CATS_DOGS_OWLS


def test_without_labels_there_are_no_class_names():
    assert Embeddings(("a",), np.zeros((1, 2), np.float32), S, None, {0: "cat"}).class_names is None


def test_negative_labels_have_no_name():
    assert labelled([0, -1], {0: "cat", -1: "unknown"}).class_names == {0: "cat"}


# Relevance.


def test_a_query_source_that_lacks_a_class_is_compared_by_name():
    queries = labelled([0, 1], CATS_AND_OWLS, "q")
    gallery = labelled([0, 1, 2, 0, 1, 2], CATS_DOGS_OWLS)
    found = evaluate_embeddings(queries, gallery, exclude_self=False)
    assert (found.cmc(1), found.map, found.queries) == (1, 1, 2)


def test_a_class_that_the_gallery_lacks_is_not_taken_for_another_one():
    queries = labelled([0, 1], {0: "ant", 1: "cat"}, "q")
    relevance = Relevance.between(queries, labelled([0, 1], CATS_AND_OWLS), exclude_self=False)
    assert relevance.counts(queries.ids).tolist() == [0, 1]


def test_relevance_of_old_embeddings_without_names_needs_the_numbering_stated():
    queries, gallery = labelled([0, 1], None, "q"), labelled([0, 1], CATS_AND_OWLS)
    with pytest.raises(LabelMismatchError, match="the classes of the gallery have names"):
        Relevance.between(queries, gallery, exclude_self=False)
    stated = Relevance.between(queries, gallery, exclude_self=False, same_labels=True)
    assert stated.counts(queries.ids).tolist() == [1, 1]


def test_queries_of_classes_that_the_gallery_does_not_name_are_counted():
    """Else names that are written otherwise ("tench", "n01440764") look like bad search."""
    queries = labelled([0, 1, 2, -1], CATS_DOGS_OWLS, "q")
    relevance = Relevance.between(queries, labelled([0, 1], CATS_AND_OWLS), exclude_self=False)
    assert relevance.left_out == {"queries_without_label": 1, "queries_of_other_classes": 1}
    found = evaluate_embeddings(queries, labelled([0], {0: "Cat"}), exclude_self=False)
    assert "0 queries; 4 more skipped" in str(found)
    assert "3 queries are of classes that the gallery lacks: skipped." in str(found)


# The command line.


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


NOTE = "labels without class names: the same number is taken to mean the same class"


def test_the_gallery_commands_carry_class_names_and_add_by_them(tmp_path):
    labelled([0, 1, 2], CATS_DOGS_OWLS, "a").save(tmp_path / "first.parquet")
    labelled([0, 1], CATS_AND_OWLS, "b").save(tmp_path / "second.parquet")
    labelled([0, 2], None, "c").save(tmp_path / "bare.parquet")
    gallery, out = tmp_path / "g.lance", tmp_path / "out.parquet"
    assert run("gallery", "create", gallery, tmp_path / "first.parquet").exit_code == 0
    added = run("gallery", "add", gallery, tmp_path / "second.parquet")
    assert (added.exit_code, NOTE in added.stderr) == (0, False)
    refused = run("gallery", "add", gallery, tmp_path / "bare.parquet")
    assert isinstance(refused.exception, LabelMismatchError)
    stated = run("gallery", "add", gallery, tmp_path / "bare.parquet", "--same-labels")
    assert (stated.exit_code, NOTE in stated.stderr) == (0, False)
    assert run("gallery", "export", gallery, out).exit_code == 0
    found = Embeddings.load(out)
    names = [found.class_names[label] for label in found.align(["b0", "b1", "c0", "c1"]).labels]
    assert names == ["cat", "owl", "cat", "owl"]
    told = run("evaluate", tmp_path / "second.parquet", out, "--exclude-self", "--json")
    assert json.loads(told.stdout)["cmc@1"] == 1.0


def test_info_says_whether_labels_have_names(tmp_path):
    labelled([0, 1, -1], CATS_AND_OWLS).save(tmp_path / "named.parquet")
    labelled([0, 1]).save(tmp_path / "bare.parquet")
    told = run("info", tmp_path / "named.parquet").stdout
    assert "with labels of 2 named classes, of 1 items not known" in " ".join(told.split())
    told = run("info", tmp_path / "bare.parquet").stdout
    assert "with labels without class names" in " ".join(told.split())
    told = json.loads(run("info", tmp_path / "named.parquet", "--json").stdout)
    assert (told["named_classes"], told["unknown_labels"], told["labels"]) == (2, 1, True)


@pytest.mark.slow
def test_commands_say_that_labels_without_names_are_compared_by_number(tmp_path):
    labelled([0, 5], prefix="a").save(tmp_path / "first.parquet")
    labelled([5, 0], prefix="b").save(tmp_path / "second.parquet")
    labelled([0, 1], CATS_AND_OWLS, "c").save(tmp_path / "named.parquet")
    gallery = tmp_path / "g.lance"
    created = run("gallery", "create", gallery, tmp_path / "first.parquet")
    added = run("gallery", "add", gallery, tmp_path / "second.parquet")
    files = (tmp_path / "first.parquet", tmp_path / "second.parquet", "--include-self")
    evaluated = run("evaluate", *files, "--json")
    assert [NOTE in one.stderr for one in (created, added, evaluated)] == [False, True, True]
    assert json.loads(evaluated.stdout)["cmc@1"] == 1.0
    named = (tmp_path / "named.parquet", tmp_path / "second.parquet", "--include-self")
    assert isinstance(run("evaluate", *named).exception, LabelMismatchError)
    assert run("evaluate", *named, "--same-labels").exit_code == 0
