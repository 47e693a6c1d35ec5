"""Spaces and embeddings: what they refuse, in which words, and round trips through files."""

import re

import jaxtyping
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onward.data.items import Items
from onward.errors import (
    DataError,
    EmbeddingsError,
    EvaluationError,
    SpaceMismatchError,
    TransformationError,
)
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import Ranking
from onward.quantisation import Quantisation
from onward.spaces import Embeddings, Space, check_same_space
from onward.transformation import linear

OLD = Space("old@1f", 2)


def three(**changes):
    fields = {
        "ids": ("a", "b", "c"),
        "vectors": np.array([[0, 1], [2, 3], [4, 5]], np.float32),
        "space": OLD,
        "labels": np.array([7, 8, 7]),
    }
    return Embeddings(**{**fields, **changes})


def assert_same(found, expected):
    assert found.ids == expected.ids
    assert found.space == expected.space
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.vectors.dtype == np.float32
    if expected.labels is None:
        assert found.labels is None
    else:
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_space_is_equal_only_to_itself():
    assert Space("old", 2) == Space("old", 2, "l2")
    assert len({Space("old", 2), Space("new", 2), Space("old", 3), Space("old", 2, "cosine")}) == 4


def test_a_space_goes_through_json_unchanged():
    for space in (OLD, Space("ü", 7, "cosine"), Space("s", 2, "l2", "int8")):
        assert Space.from_json(space.to_json()) == space
    assert OLD.to_json() == {"name": "old@1f", "dim": 2, "metric": "l2"}
    assert str(OLD) == "old@1f (2, l2)"
    assert Space("s", 2, "l2", "int8").to_json()["format"] == "int8"
    assert str(Space("s", 2, "l2", "float16")) == "s (2, l2, float16)"


def test_a_space_of_inner_products_is_a_space_of_its_own_and_takes_zero_vectors(tmp_path):
    space = Space("dpr", 2, "ip")
    assert str(space) == "dpr (2, ip)"
    assert Space.from_json(space.to_json()) == space != Space("dpr", 2)
    made = Embeddings(("a", "b"), np.array([[0, 0], [3e38, -1]], np.float32), space)
    made.save(tmp_path / "dpr.parquet")
    read = Embeddings.load(tmp_path / "dpr.parquet")
    assert read.space == space
    np.testing.assert_array_equal(read.vectors, made.vectors)


def test_a_space_says_how_many_bytes_a_stored_vector_takes():
    sizes = {form: Space("s", 10, "l2", form).bytes for form in ("float32", "float16", "int8")}
    assert sizes == {"float32": 40, "float16": 20, "int8": 10}
    assert len({Space("s", 10, "l2", form) for form in sizes}) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", 2), "was given as ''; give text in UTF-8, such as 'resnet50@2f1c90ab'"),
        (("old", 0), "space old has 0 dimensions; it needs a whole number, at least 1"),
        (("old", True), "space old has True dimensions; it needs a whole number"),
        (("old", 2.5), "space old has 2.5 dimensions; it needs a whole number"),
        (("old", 2.0), "space old has 2.0 dimensions; it needs a whole number"),
        (("old", "2"), "space old has '2' dimensions; it needs a whole number"),
        ((7, 2), "was given as 7; give text in UTF-8"),
        (("old\udcff", 2), "was given as 'old\\udcff'; give text"),
        (("old", 2, ["l2"]), "space old has the metric ['l2']"),
        (("old", 2, "dot"), "space old has the metric 'dot'; choose 'l2' or 'cosine' or 'ip'"),
        (
            ("old", 2, "l2", "int4"),
            "space old has the format 'int4'; choose 'float32' or 'float16' or 'int8'",
        ),
    ],
)
def test_a_space_refuses_what_cannot_be_one(arguments, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Space(*arguments)


def test_a_space_takes_whole_numbers_of_numpy(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    assert Space("old", np.int64(2)) == Space("old", 2)
    assert type(Space("old", np.uint8(2)).dim) is int


def test_comparing_across_spaces_says_which_upgrade_is_missing():
    check_same_space(OLD, Space("old@1f", 2))
    words = (
        "the queries are in new@2e (2, l2), the gallery in old@1f (2, l2); distances between them "
        "mean nothing. Upgrade the gallery from old@1f to new@2e first, or embed the "
        "queries with the old model"
    )
    with pytest.raises(SpaceMismatchError, match=re.escape(words)):
        check_same_space(Space("new@2e", 2), OLD)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"vectors": np.zeros((3, 4), np.float32)},
            "vectors of shape (3, 4) do not lie in old@1f (2, l2); give one row of 2 numbers an",
            id="dimension",
        ),
        pytest.param(
            {"vectors": np.zeros(3, np.float32)},
            "vectors of shape (3,) do not lie in old@1f (2, l2)",
            id="one-dimensional",
        ),
        pytest.param(
            {"ids": ("a", "b")}, "2 ids for 3 vectors; give one id a vector", id="too-few-ids"
        ),
        pytest.param(
            {"ids": ("a", "b", "a")},
            "id 'a' stands in rows 0 and 2; every item needs an id of its own",
            id="id-twice",
        ),
        pytest.param(
            {"ids": ("a", "", "c")},
            "the id in row 1 is ''; ids are strings in UTF-8 that are not empty",
            id="empty-id",
        ),
        pytest.param(
            {"ids": ("a", "b", 3)},
            "the id in row 2 is 3; ids are strings in UTF-8 that are not empty",
            id="number-as-id",
        ),
        pytest.param(
            {"ids": ("a", "b", "\udcff.png")},
            "the id in row 2 is '\\udcff.png'; ids are strings in UTF-8 that are not empty",
            id="id-that-cannot-be-written",
        ),
        pytest.param(
            {"vectors": [["x", "y"]] * 3},
            "the vectors are not numbers (they are of type <U1)",
            id="words",
        ),
        *(
            pytest.param({"vectors": vectors}, f"the vectors are not numbers ({why}", id=kind)
            for kind, vectors, why in [
                ("durations", np.ones((3, 2), "m8[s]"), "they are of type timedelta64[s]"),
                ("fields", np.zeros((3, 2), [("x", "f4")]), "they are of type [('x', '<f4')]"),
                ("objects", np.full((3, 2), "1", object), "some of them are text, complex or"),
                ("huge-integer", [[10**400, 1]] * 3, "int too large"),
            ]
        ),
        pytest.param(
            {"vectors": np.full((3, 2), 1e300)},
            "the vector of item 'a' (row 0) has NaN or infinite values; leave these",
            id="beyond-float32",
        ),
        pytest.param(
            {"vectors": np.array([[0, 1], [2, np.nan], [np.inf, 5]], np.float32)},
            "the vector of item 'b' (row 1) has NaN or infinite values; leave these "
            "items out or mend the model that made them (2 of 3 vectors)",
            id="not-finite",
        ),
        pytest.param(
            {"vectors": np.eye(3, 2, dtype=np.float32), "space": Space("old", 2, "cosine")},
            "the vector of item 'c' (row 2) is zero and has no direction, which old (2, "
            "cosine) needs; leave these items out or use the l2 metric (1 of 3 vectors)",
            id="zero-with-the-cosine",
        ),
        *(
            pytest.param(
                {"vectors": np.array([[0, 1], [2, value], [4, 5]]), "space": stored},
                f"the vector of item 'b' (row 1) does not lie in s (2, l2, {stored.format}), whose "
                f"vectors are {wanted}; make them with the quantisation",
                id=f"{stored.format}-{value}",
            )
            for stored, value, wanted in [
                (Space("s", 2, "l2", "int8"), 0.5, "whole numbers from -127 to 127"),
                (Space("s", 2, "l2", "int8"), -128.0, "whole numbers from -127 to 127"),
                (Space("s", 2, "l2", "int8"), 1e9, "whole numbers from -127 to 127"),
                (Space("s", 2, "l2", "float16"), 1 / 3, "numbers that float16 holds exactly"),
                (Space("s", 2, "l2", "float16"), 1e6, "numbers that float16 holds exactly"),
            ]
        ),
        pytest.param(
            {"labels": np.array([1, 2])},
            "labels of shape (2,) for 3 items; give one an item",
            id="labels",
        ),
    ],
)
def test_embeddings_refuse_what_cannot_be_ones(changes, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        three(**changes)


STRANGE = [
    pytest.param(np.array([[1 + 2j, 2]]), id="complex"),
    pytest.param(np.ma.masked_array([[1.0, 2.0]], [[True, False]]), id="masked"),
    pytest.param(np.array([["2020-01-01", "2020-01-02"]], "M8[D]"), id="dates"),
    pytest.param(np.array([["1", "2"]]), id="text"),
]


@pytest.mark.parametrize("values", STRANGE)
def test_strange_arrays_are_refused_wherever_numbers_are_taken(values, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    ids, space = ("a", "b"), Space("old@1f", 2)
    labels = np.array([0, 1])
    row = values[0]
    with pytest.raises(EmbeddingsError, match="the vectors are not numbers"):
        Embeddings(("a",), values, space)
    with pytest.raises(EmbeddingsError, match="the labels are not all whole numbers"):
        Embeddings(ids, np.eye(2), space, row)
    with pytest.raises(EmbeddingsError, match="the labels are not all whole numbers"):
        Relevance.of_labels(ids, ids, labels, row, exclude_self=True)
    with pytest.raises(DataError, match="the labels are not all whole numbers"):
        Items(ids, row, {0: "cat"}, ({}, {}), "here")
    with pytest.raises(TransformationError, match="the weight of a transformation holds no numb"):
        linear(space, None, Space("new", 1), values, np.zeros(1), made_by={})
    with pytest.raises(TransformationError, match="the bias of a transformation holds no numbers"):
        linear(space, None, Space("new", 2), np.eye(2), row, made_by={})
    with pytest.raises(EvaluationError, match="the distances of a ranking are not numbers"):
        Ranking(("q",), ids, np.array([[0, 1]]), values, False)
    with pytest.raises(EvaluationError, match="the rows of a ranking are not numbers"):
        Ranking(("q",), ids, values, np.array([[0, 1]]), False)
    with pytest.raises(EmbeddingsError, match="the scale of a quantisation holds no numbers"):
        Quantisation(space, "int8", row)


def test_embeddings_are_read_only_float32_with_integer_labels(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    made = three(ids=["a", "b", "c"], vectors=[[0, 1], [2, 3], [4, 5]], labels=[7, 8, 7])
    assert made.ids == ("a", "b", "c")
    assert (made.vectors.dtype, made.labels.dtype) == (np.float32, np.int64)
    for array in (made.vectors, made.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9


def test_embeddings_say_how_many_they_are_and_where():
    assert len(three()) == 3
    assert str(three()) == "3 embeddings in old@1f (2, l2)"


def test_no_items_are_embeddings_too(tmp_path):
    none = three().select([])
    assert len(none) == 0
    none.save(tmp_path / "none.parquet")
    assert_same(Embeddings.load(tmp_path / "none.parquet"), none)


def test_rows_are_selected_by_position_or_by_mask():
    assert three().select([2, 0]).ids == ("c", "a")
    assert three().select([2, 0]).labels.tolist() == [7, 7]
    assert three().select(np.array([False, True, True])).vectors.tolist() == [[2, 3], [4, 5]]
    assert three(labels=None).select([1]).labels is None


def test_rows_are_aligned_by_id():
    assert_same(three().align(iter(["c", "a"])), three().select([2, 0]))
    with pytest.raises(
        EmbeddingsError,
        match=r"2 of 3 ids have no embedding in old@1f \(2, l2\), the first 'x'; embed these items",
    ):
        three().align(["x", "a", "y"])


@given(
    hnp.arrays(
        np.float32, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    ),
    st.lists(st.text(min_size=1), min_size=3, max_size=3, unique=True),
    st.none() | hnp.arrays(np.int64, 3),
)
@settings(max_examples=25, deadline=None)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory, vectors, ids, labels):
    path = tmp_path_factory.mktemp("saved") / "vectors.parquet"
    made = Embeddings(tuple(ids), vectors, Space("ä", 2, "l2"), labels)
    made.save(path)
    assert_same(Embeddings.load(path), made)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_has_the_columns_of_the_format(tmp_path):
    three().save(tmp_path / "vectors.parquet")
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table.column_names == ["id", "vector", "label"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert b"old@1f" in table.schema.metadata[b"onward.space"]


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_a_smaller_format_is_stored_as_such(tmp_path, form):
    path, space = tmp_path / "side.parquet", Space("side@2e", 2, "l2", form)
    side = three(vectors=np.array([[0, 1], [-127, 3], [127, 5]], np.float32), space=space)
    side.save(path)
    assert_same(Embeddings.load(path), side)
    stored = pq.read_table(path).schema.field("vector").type
    assert stored == pa.list_({"float16": pa.float16(), "int8": pa.int8()}[form], 2)


def test_a_numpy_file_needs_its_ids_and_its_space(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, three().vectors)
    assert_same(Embeddings.load(path, ids=["a", "b", "c"], space=OLD), three(labels=None))
    with pytest.raises(
        EmbeddingsError, match=r"give its ids and its space: Embeddings.load\(PATH, ids"
    ):
        Embeddings.load(path)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [3.0]], r"row 1 of .*column.parquet holds 1 numbers; old@1f .* needs 2"),
        ([[1.0], [2.0, 3.0, 4.0]], r"row 0 of .*column.parquet holds 1 numbers"),  # 4 in all
        ([[1.0, 2.0], None], r"row 1 of .*column.parquet holds 0 numbers"),
        ([1.0, 2.0], r"the column 'vector' of .* is double; old@1f .* needs a list of 2 numbers"),
        ([["a", "b"], ["c", "d"]], "the vectors are not numbers"),
        ([[1.0, None], [2.0, 3.0]], "item 'a' .row 0. has NaN"),
    ],
)
def test_a_column_of_other_things_than_vectors_is_refused(tmp_path, vectors, words):
    path = tmp_path / "column.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "vector": vectors}), path)
    with pytest.raises(EmbeddingsError, match=words):
        Embeddings.load(path, space=OLD)


@pytest.mark.parametrize(
    "stored", [b"{", b"[]", b"\xff", b'{"name": "x"}', b'{"name": "x", "dim": "y", "metric": "l2"}']
)
def test_a_file_whose_space_cannot_be_read_shows_what_it_says(tmp_path, stored):
    path = tmp_path / "vectors.parquet"
    table = pa.table({"id": ["a"], "vector": [[1.0, 2.0]]})
    pq.write_table(table.replace_schema_metadata({b"onward.space": stored}), path)
    words = f"says {stored!r} of the space of its vectors; that is not a space in JSON, such as"
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(path)


def test_a_numpy_file_that_holds_no_numbers_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"junk")
    with pytest.raises(EmbeddingsError, match=r"vectors\.npy is not a readable array of numbers: "):
        Embeddings.load(path, ids=["a"], space=OLD)


def test_a_parquet_file_of_others_is_read_once_its_space_is_given(tmp_path):
    path = tmp_path / "vectors.parquet"
    vectors = pa.array([[0.0, 1.0], [2.0, 3.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "vector": vectors, "price": [1, 2]}), path)
    assert Embeddings.load(path, space=OLD).vectors.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(
        EmbeddingsError, match=r"which space its vectors are in; give one: Embeddings.load"
    ):
        Embeddings.load(path)


def test_a_file_that_is_no_embeddings_is_refused(tmp_path):
    with pytest.raises(
        EmbeddingsError, match=r"there is no file .*none\.parquet; make it by embed"
    ):
        Embeddings.load(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(EmbeddingsError, match=r"text\.parquet is not a readable Parquet file: "):
        Embeddings.load(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"], "x": [1]}), tmp_path / "other.parquet")
    words = (
        "has the columns ['id', 'x'], not ['vector']; embeddings have `id` (string) and `vector`"
    )
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path / "other.parquet", space=OLD)
    with pytest.raises(EmbeddingsError, match=r"embeddings are saved as Parquet; .* must end in"):
        three().save(tmp_path / "vectors.csv")


ORIGINS = ("embedded", "upgraded", None)


def test_origins_go_where_their_items_go(tmp_path):
    made = Embeddings(("a", "b", "c"), np.eye(3, dtype="f4"), Space("s", 3), origins=ORIGINS)
    assert made.select([2, 1]).origins == (None, "upgraded")
    assert made.align(["c", "a", "b"]).origins == (None, "embedded", "upgraded")
    assert made.select([2]).origins is None  # nothing is known of any
    made.save(tmp_path / "some.parquet")
    loaded = Embeddings.load(tmp_path / "some.parquet")
    assert loaded.origins == ORIGINS
    loaded.select([2]).save(tmp_path / "bare.parquet")
    assert pq.read_schema(tmp_path / "bare.parquet").names == ["id", "vector"]
    assert Embeddings.load(tmp_path / "bare.parquet").origins is None


@pytest.mark.parametrize(
    ("origins", "words"),
    [
        pytest.param(("embedded",), "1 origins for 2 items; give one an item", id="too-few"),
        pytest.param(("embedded", "new"), "an origin is 'new'; it is 'embedded', 'upg", id="word"),
    ],
)
def test_origins_that_say_nothing_of_the_items_are_refused(origins, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EmbeddingsError, match=words):
        Embeddings(("a", "b"), np.eye(2, dtype="f4"), Space("s", 2), origins=origins)
