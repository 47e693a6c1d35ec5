"""Files of embeddings: what each says is read from it, and compared with what the others say."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from onward import Embeddings, Space, create_gallery
from onward.cli.app import app
from onward.cli.options import is_gallery
from onward.errors import EmbeddingsError, LabelMismatchError, SpaceMismatchError

CLIP, DINO = Space("clip@aaaa1111", 2, "cosine"), Space("dino@bbbb2222", 2)
SPACE_KEY = b"onward.space"


def save(path, first, space=CLIP, *, labels=None, names=None, rows=3):
    """Write embeddings whose ids and vectors count from `first` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.arange(first, first + rows)
    vectors = np.stack([numbers, numbers + 1], axis=1).astype(np.float32)
    labels = None if labels is None else np.array(labels, np.int64)
    ids = tuple(f"i{n}" for n in numbers)
    Embeddings(ids, vectors, space, labels, names).save(path)


def write(path, first, space=None, metadata=None, *, rows=3, **columns):
    """Write a table of another program: without a space, and with any columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    table = pa.table(
        {
            "id": [f"i{n}" for n in numbers],
            "vector": pa.array([[float(n), n + 1.0] for n in numbers], pa.list_(pa.float64())),
            **columns,
        }
    )
    said = {} if space is None else {SPACE_KEY: json.dumps(space.to_json())}
    pq.write_table(table.replace_schema_metadata({**said, **(metadata or {})}), path)


def assert_in_order(found, expected):
    """The vector of item i7 is [7, 8]: every vector is with its id."""
    assert list(found.ids) == expected
    numbers = np.array([int(item[1:]) for item in found.ids])
    np.testing.assert_array_equal(found.vectors, np.stack([numbers, numbers + 1], axis=1))


def named(found):
    return [None if label < 0 else found.class_names[label] for label in found.labels.tolist()]


# One space in all files.


def test_a_folder_is_all_of_its_files_by_name_also_behind_a_link(tmp_path):
    save(tmp_path / "all" / "part-1.parquet", 3)
    save(tmp_path / "all" / "part-0.parquet", 0)
    save(tmp_path / "disk" / "x.parquet", 6)
    (tmp_path / "disk" / "x.parquet").rename(tmp_path / "disk" / "part-00000")
    (tmp_path / "all" / "more").symlink_to(tmp_path / "disk")
    found = Embeddings.load(tmp_path / "all")
    assert_in_order(found, ["i6", "i7", "i8", "i0", "i1", "i2", "i3", "i4", "i5"])
    assert (found.space, found.labels) == (CLIP, None)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(DINO, id="name"),
        pytest.param(Space(CLIP.name, 2, "l2"), id="metric"),
        pytest.param(Space(CLIP.name, 3, "cosine"), id="dimension"),
        pytest.param(Space(CLIP.name, 2, "cosine", "float16"), id="format"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_file_of_another_space_is_named_and_refused(tmp_path, other, first):
    mine, theirs = ("b", "a") if first else ("a", "b")
    save(tmp_path / f"{mine}.parquet", 1)
    save(tmp_path / "c.parquet", 4)
    vectors = np.eye(3, other.dim, dtype=np.float32) + 1
    Embeddings(("x", "y", "z"), vectors, other).save(tmp_path / f"{theirs}.parquet")
    apart, (a, b) = ("b.parquet", (CLIP, other)) if not first else ("b.parquet", (other, CLIP))
    words = f"{tmp_path / apart} holds vectors in {b}, but {tmp_path / 'a.parquet'} is in {a}"
    with pytest.raises(SpaceMismatchError, match=re.escape(words)):
        Embeddings.load(tmp_path)
    words = f"{theirs}.parquet holds vectors in {other}, but what was asked for is in {CLIP}"
    with pytest.raises(SpaceMismatchError, match=re.escape(words)):
        Embeddings.load(tmp_path, space=CLIP)


@pytest.mark.parametrize("silent", ["a", "b"])
def test_a_file_that_names_no_space_is_refused_until_one_is_stated(tmp_path, silent):
    save(tmp_path / ("b.parquet" if silent == "a" else "a.parquet"), 1)
    write(tmp_path / f"{silent}.parquet", 4)
    words = f"{tmp_path / silent}.parquet does not say which space its vectors are in; give one"
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path)
    assert len(Embeddings.load(tmp_path, space=CLIP)) == 6
    with pytest.raises(SpaceMismatchError, match="asked for is in dino@bbbb2222"):
        Embeddings.load(tmp_path, space=DINO)


def test_a_file_without_a_space_and_of_another_dimension_is_named(tmp_path):
    write(tmp_path / "a.parquet", 1)
    write(tmp_path / "b.parquet", 4, vector=[[1.0, 2.0, 3.0]] * 3)
    words = f"row 0 of {tmp_path / 'b.parquet'} holds 3 numbers; {CLIP} needs 2"
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path, space=CLIP)


def test_the_commands_refuse_a_folder_of_two_spaces(tmp_path):
    save(tmp_path / "shards" / "a.parquet", 1)
    save(tmp_path / "shards" / "b.parquet", 4, DINO)
    asked = tmp_path / "queries.parquet"
    save(asked, 1)
    for arguments in (
        ["gallery", "create", tmp_path / "g.lance", tmp_path / "shards"],
        ["evaluate", asked, tmp_path / "shards", "--include-self"],
    ):
        told = CliRunner().invoke(app, [str(each) for each in arguments])
        assert isinstance(told.exception, SpaceMismatchError), arguments
    assert not (tmp_path / "g.lance").exists()


def test_a_folder_of_embeddings_is_told_from_a_gallery(tmp_path):
    save(tmp_path / "shards" / "more" / "a.parquet", 1)
    save(tmp_path / "one.parquet", 1)
    create_gallery(str(tmp_path / "g.lance"), CLIP)
    (tmp_path / "empty").mkdir()
    told = {name: is_gallery(tmp_path / name) for name in ("shards", "one.parquet", "g.lance")}
    assert told == {"shards": False, "one.parquet": False, "g.lance": True}
    assert is_gallery(tmp_path / "empty")  # so that it is asked for by that name


# Which files are read.


def test_a_gallery_for_a_file_of_embeddings_is_told_to_be_exported(tmp_path):
    create_gallery(tmp_path / "g.lance", CLIP)
    with pytest.raises(EmbeddingsError, match=r"g.lance is a gallery, .*gallery\.read\(space\)"):
        Embeddings.load(tmp_path / "g.lance")


def test_hidden_files_and_what_systems_leave_are_passed_over(tmp_path):
    save(tmp_path / "part-0.parquet", 1)
    for leftover in (
        "_SUCCESS", "._SUCCESS.crc", ".part-0.parquet.crc", "_metadata", "_temporary/0/x.parquet",
        ".hidden/x.parquet", "@eaDir/part-0.parquet", "__MACOSX/part-0.parquet", "Thumbs.db",
        "part-0.parquet~", "#recycle/x.parquet", "System Volume Information/x.parquet",
    ):  # fmt: skip
        path = tmp_path / leftover
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    assert_in_order(Embeddings.load(tmp_path), ["i1", "i2", "i3"])


@pytest.mark.parametrize("name", ["README.md", "part-1.parquet", "vectors.npy", "more/part-1"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1 but no more"])
def test_a_file_that_is_no_parquet_is_named_and_refused(tmp_path, name, content):
    save(tmp_path / "part-0.parquet", 1)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    words = f"{tmp_path / name} is not a readable Parquet file: "
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path)


@pytest.mark.parametrize("inside", [None, "_SUCCESS", "deeper/_SUCCESS"])
def test_a_folder_without_a_file_of_embeddings_is_refused(tmp_path, inside):
    if inside:
        (tmp_path / inside).parent.mkdir(exist_ok=True)
        (tmp_path / inside).touch()
    with pytest.raises(EmbeddingsError, match=r"the folder .* holds no file of embeddings; give a"):
        Embeddings.load(tmp_path)


def test_links_that_lead_back_up_or_to_nothing_are_no_trap(tmp_path):
    save(tmp_path / "part-0.parquet", 1)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "up").symlink_to(tmp_path)
    assert_in_order(Embeddings.load(tmp_path), ["i1", "i2", "i3"])
    (tmp_path / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EmbeddingsError, match=r"gone\.parquet is not a readable Parquet file: it"):
        Embeddings.load(tmp_path)


def test_an_id_that_stands_in_two_files_is_named_with_both(tmp_path):
    save(tmp_path / "a.parquet", 1)
    save(tmp_path / "b.parquet", 3)
    words = (
        f"id 'i3' stands in {tmp_path / 'a.parquet'} and in {tmp_path / 'b.parquet'}; every item "
        "needs an id of its own"
    )
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path)


def test_a_file_that_lacks_a_column_or_has_it_twice_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(EmbeddingsError, match=r"has the columns \['x'\], not \['id', 'vector'\]"):
        Embeddings.load(tmp_path)
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array([[1.0, 2.0]]), pa.array([1]), pa.array([2])],
        names=["id", "vector", "label", "label"],
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(EmbeddingsError, match=r"a\.parquet has two columns 'label'"):
        Embeddings.load(tmp_path / "a.parquet", space=CLIP)


def test_empty_files_count_for_their_space_only(tmp_path):
    save(tmp_path / "a.parquet", 1, labels=[0, 1, 0])
    save(tmp_path / "b.parquet", 9, rows=0)
    found = Embeddings.load(tmp_path)
    assert_in_order(found, ["i1", "i2", "i3"])
    assert found.labels.tolist() == [0, 1, 0]
    save(tmp_path / "c.parquet", 9, DINO, rows=0)
    with pytest.raises(SpaceMismatchError, match=r"c\.parquet holds vectors in dino"):
        Embeddings.load(tmp_path)


def test_files_that_are_all_empty_make_empty_embeddings(tmp_path):
    save(tmp_path / "a.parquet", 0, rows=0, labels=[])
    assert Embeddings.load(tmp_path / "a.parquet").labels.tolist() == []
    save(tmp_path / "a.parquet", 0, rows=0)
    assert len(Embeddings.load(tmp_path)) == len(Embeddings.load(tmp_path / "a.parquet")) == 0


def test_many_row_groups_and_chunks_keep_their_order(tmp_path):
    numbers = np.arange(1, 1001)
    vectors = np.stack([numbers, numbers + 1], axis=1).astype(np.float32)
    table = pa.table({"id": [f"i{n}" for n in numbers], "vector": vectors.tolist()})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    found = Embeddings.load(tmp_path / "a.parquet", space=CLIP)
    assert_in_order(found, [f"i{n}" for n in numbers])


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(pa.list_(pa.float32()), id="list"),
        pytest.param(pa.large_list(pa.float64()), id="large-list"),
        pytest.param(pa.list_(pa.float16(), 2), id="fixed-size-list"),
        pytest.param(pa.list_view(pa.float32()), id="list-view"),
        pytest.param(pa.large_list_view(pa.float32()), id="large-list-view"),
        pytest.param(pa.list_(pa.int8()), id="list-of-whole-numbers"),
    ],
)
def test_vectors_are_read_from_any_kind_of_list(tmp_path, kind):
    vectors = pa.array([[1, 2], [2, 3], [3, 4]], kind)
    pq.write_table(pa.table({"id": ["i1", "i2", "i3"], "vector": vectors}), tmp_path / "a.parquet")
    assert_in_order(Embeddings.load(tmp_path / "a.parquet", space=CLIP), ["i1", "i2", "i3"])


def test_ids_for_a_file_that_has_its_own_are_refused(tmp_path):
    save(tmp_path / "a.parquet", 1)
    with pytest.raises(
        EmbeddingsError, match=r"ids were given for .*a\.parquet, which is not a .npy"
    ):
        Embeddings.load(tmp_path / "a.parquet", ids=["x", "y", "z"])


# Labels and class names.


def test_partitions_of_numbers_are_labels_not_positions(tmp_path):
    labels = np.array([70, 50, 10, 900] * 7 + [70, 50])
    rows = [[float(n), n + 1.0] for n in range(30)]
    table = pa.table({"id": [f"i{n}" for n in range(30)], "vector": rows, "label": labels})
    for start in range(0, 30, 10):
        pq.write_to_dataset(table.slice(start, 10), tmp_path / "parts", partition_cols=["label"])
    (tmp_path / "parts" / "_SUCCESS").touch()
    found = Embeddings.load(tmp_path / "parts", space=DINO)
    assert_in_order(found, list(found.ids))
    assert sorted(found.ids) == sorted(f"i{n}" for n in range(30))
    numbers = [int(item[1:]) for item in found.ids]
    assert found.labels.tolist() == labels[numbers].tolist()
    assert found.class_names is None


def test_partitions_of_words_are_class_names(tmp_path):
    words = ["owl", "cat", "a/b=c", None]
    rows = [[1.0, 2.0]] * 4
    table = pa.table({"id": list("abcd"), "vector": rows, "label": words})
    pq.write_to_dataset(table, tmp_path, partition_cols=["label"])
    found = Embeddings.load(tmp_path, space=CLIP).align("abcd")
    assert named(found) == words
    assert found.class_names == {0: "a/b=c", 1: "cat", 2: "owl"}


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        pytest.param(["10", "9", "-1"], [10, 9, -1], None, id="whole-numbers"),
        pytest.param(["01", "02", "10"], [1, 2, 10], None, id="leading-zeros"),
        pytest.param(["7", "__HIVE_DEFAULT_PARTITION__", "8"], [7, -1, 8], None, id="no-value"),
        pytest.param(
            ["1", "01", "2"], [1, 0, 2], {0: "01", 1: "1", 2: "2"}, id="two-of-one-number"
        ),
        pytest.param(["1", "2", "x"], [0, 1, 2], {0: "1", 1: "2", 2: "x"}, id="a-word-among-them"),
        pytest.param(["1.0", "2", "3"], [0, 1, 2], {0: "1.0", 1: "2", 2: "3"}, id="a-fraction"),
    ],
)
def test_partitions_are_numbers_if_all_of_them_are(tmp_path, values, labels, names):
    for row, value in enumerate(values):
        write(tmp_path / f"label={value}" / "x.parquet", row, CLIP, rows=1)
    found = Embeddings.load(tmp_path).align(["i0", "i1", "i2"])
    assert found.labels.tolist() == labels
    assert found.class_names == names


def test_a_partition_without_a_name_is_refused(tmp_path):
    write(tmp_path / "label=" / "x.parquet", 0, CLIP, rows=1)
    with pytest.raises(EmbeddingsError, match="class 0 is ''"):
        Embeddings.load(tmp_path)


def test_other_partitions_mean_nothing_here(tmp_path):
    write(tmp_path / "date=2020" / "label=7" / "x.parquet", 1, CLIP)
    write(tmp_path / "date=2021" / "label=7" / "x.parquet", 4, CLIP)
    assert Embeddings.load(tmp_path).labels.tolist() == [7] * 6
    assert Embeddings.load(tmp_path / "date=2020" / "label=7" / "x.parquet").labels is None


def test_a_partition_beside_a_column_of_labels_is_refused(tmp_path):
    write(tmp_path / "label=7" / "x.parquet", 1, CLIP, label=[7, 7, 7])
    with pytest.raises(EmbeddingsError, match="has a column 'label' and lies in a folder label=7"):
        Embeddings.load(tmp_path)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(["owl", "cat", None]), id="text"),
        pytest.param(pa.array(["owl", "cat", None], pa.large_string()), id="large-text"),
        pytest.param(pa.array(["owl", "cat", None], pa.string_view()), id="text-view"),
        pytest.param(pa.array(["owl", "cat", None]).dictionary_encode(), id="dictionary"),
        pytest.param(
            pa.DictionaryArray.from_arrays([2, 0, None], ["cat", "dog", "owl"]),
            id="dictionary-with-an-unused-word",
        ),
    ],
)
def test_words_are_class_names(tmp_path, column):
    write(tmp_path / "a.parquet", 1, CLIP, label=column)
    found = Embeddings.load(tmp_path / "a.parquet")
    assert named(found) == ["owl", "cat", None]
    assert found.labels.tolist() == [1, 0, -1]
    found.save(tmp_path / "b.parquet")
    assert named(Embeddings.load(tmp_path / "b.parquet")) == ["owl", "cat", None]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([70, 5, None]), id="int64"),
        pytest.param(pa.array([70, 5, None], pa.uint64()), id="uint64"),
        pytest.param(pa.array([70, 5, None], pa.int8()), id="int8"),
        pytest.param(pa.array([70.0, 5.0, None]), id="float-that-is-whole"),
        pytest.param(pa.array([70, 5, None]).dictionary_encode(), id="dictionary"),
        pytest.param(pa.array([70, 5, -1]), id="minus-one"),
    ],
)
def test_numbers_are_labels_and_gaps_are_not_known(tmp_path, column):
    write(tmp_path / "a.parquet", 1, CLIP, label=column)
    found = Embeddings.load(tmp_path / "a.parquet")
    assert found.labels.tolist() == [70, 5, -1]
    assert found.class_names is None


def test_large_labels_are_exact_beside_gaps(tmp_path):
    write(tmp_path / "a.parquet", 1, CLIP, label=[2**53 + 1, 2**63 - 1, None])
    assert Embeddings.load(tmp_path / "a.parquet").labels.tolist() == [2**53 + 1, 2**63 - 1, -1]


NAMES_KEY = b"onward.class_names"


@pytest.mark.parametrize(
    ("metadata", "columns", "words"),
    [
        ({}, {"label": [1.5, 2.0, 3.0]}, "is double: the labels are not all whole"),
        ({}, {"label": [np.nan, 1.0, 2.0]}, "is double: the labels are not all whole"),
        ({}, {"label": [True, False, True]}, "is bool; labels are whole numbers, or text"),
        ({}, {"label": pa.array([2**63, 1, 2], pa.uint64())}, "is uint64: "),
        ({}, {"label": [[1], [2], [3]]}, "is list<element: int64>; labels are whole"),
        ({}, {"label": [b"a", b"b", b"c"]}, "is binary; labels are whole"),
        ({}, {"label": pa.array([0, 1, 2], pa.timestamp("s"))}, "is timestamp"),
        ({}, {"label": ["cat", "", "owl"]}, "names its class ''; give the class a name"),
        ({}, {"id": [["x"], ["y"], ["z"]]}, "has the id ['x']; ids are strings"),
        ({}, {"id": [1, 2, 3]}, "has the id 1; ids are strings"),
        ({}, {"id": ["x", None, "z"]}, "has the id None; ids are strings"),
        ({SPACE_KEY: b'{"name": "x", "dim": true}'}, {}, "; that is not a space in JSON"),
        ({NAMES_KEY: b'{"0": "cat"}'}, {"label": [0, 1, 0]}, "class 1 has no name, and 1 other"),
        *(
            ({NAMES_KEY: bad}, {"label": [0, 1, 2]}, f"says {bad!r} of its class names; that is n")
            for bad in (b"{", b"[]", b'{"x": "cat"}', b"7", b"\xff")
        ),
    ],
)
def test_a_file_that_says_what_none_may_say_is_named_and_refused(
    tmp_path, metadata, columns, words
):
    save(tmp_path / "a.parquet", 1)
    write(tmp_path / "b.parquet", 4, CLIP, metadata, **columns)
    with pytest.raises(EmbeddingsError, match=rf"b\.parquet.*{re.escape(words)}"):
        Embeddings.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        pytest.param(["7", "10", "7"], [7, 10, 7], id="whole-numbers"),
        pytest.param(["07", "10", "7"], [0, 1, 2], id="leading-zeros"),
        pytest.param(["-1", "10", "7"], [0, 1, 2], id="below-zero"),
        pytest.param(["7", "9" * 19, "10"], [1, 2, 0], id="beyond-64-bits"),
    ],
)
def test_names_that_are_whole_numbers_are_their_own_labels(tmp_path, words, labels):
    write(tmp_path / "a.parquet", 1, CLIP, label=words)
    found = Embeddings.load(tmp_path / "a.parquet")
    assert found.labels.tolist() == labels
    assert named(found) == words


def test_words_are_numbered_alike_in_all_files(tmp_path):
    write(tmp_path / "a.parquet", 1, CLIP, label=["owl", "cat", "owl"])
    write(tmp_path / "b.parquet", 4, CLIP, label=["dog", "cat", "e\u0301"])
    found = Embeddings.load(tmp_path)
    assert named(found) == ["owl", "cat", "owl", "dog", "cat", "\u00e9"]


def test_files_that_number_their_classes_otherwise_are_brought_together_by_name(tmp_path):
    save(tmp_path / "a.parquet", 1, labels=[0, 1, -1], names={0: "cat", 1: "owl"})
    save(tmp_path / "b.parquet", 4, labels=[0, 1, 2], names={0: "cat", 1: "dog", 2: "owl"})
    write(tmp_path / "c.parquet", 7, CLIP, label=["owl", "ant", None])
    found = Embeddings.load(tmp_path)
    assert named(found) == ["cat", "owl", None, "cat", "dog", "owl", "owl", "ant", None]


@pytest.mark.parametrize("unknown", [pa.array([None] * 3, pa.string()), [-1] * 3, [None] * 3])
@pytest.mark.parametrize("labels", [[5, 7, 5], ["owl", "cat", "owl"]])
@pytest.mark.parametrize("first", [False, True])
def test_a_file_in_which_no_class_is_known_goes_with_any(tmp_path, unknown, labels, first):
    write(tmp_path / ("a" if first else "c"), 1, CLIP, label=unknown)
    write(tmp_path / "b", 4, CLIP, label=labels)
    found = Embeddings.load(tmp_path).align([f"i{n}" for n in range(1, 7)])
    if isinstance(labels[0], str):
        assert named(found) == [None] * 3 + labels
    else:
        assert found.labels.tolist() == [-1] * 3 + labels
        assert found.class_names is None


def test_class_labels_of_the_datasets_library_are_class_names(tmp_path):
    features = {"label": {"names": ["owl", "cat"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    write(tmp_path / "a.parquet", 1, CLIP, metadata, label=[0, 1, -1])
    assert named(Embeddings.load(tmp_path / "a.parquet")) == ["owl", "cat", None]


@pytest.mark.parametrize("names", [["cat", "e\u0301"], ["cat", "\u00e9"]])
def test_one_name_written_in_two_ways_is_one_class(tmp_path, names):
    stored = {b"onward.class_names": json.dumps(dict(enumerate(names))).encode()}
    write(tmp_path / "a.parquet", 1, CLIP, stored, label=[0, 1, 0])
    save(tmp_path / "b.parquet", 4, labels=[1, 0, 1], names={0: "cat", 1: "\u00e9"})
    found = Embeddings.load(tmp_path)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.class_names == {0: "cat", 1: "\u00e9"}


def test_names_in_some_files_only_are_refused(tmp_path):
    save(tmp_path / "a.parquet", 1, labels=[0, 1, 0], names={0: "cat", 1: "owl"})
    save(tmp_path / "b.parquet", 4, labels=[0, 1, 0])
    words = (
        f"{tmp_path / 'a.parquet'} says what its classes are called and {tmp_path / 'b.parquet'} "
        "does not, so nothing tells whether a label means the same class in both"
    )
    with pytest.raises(LabelMismatchError, match=re.escape(words)):
        Embeddings.load(tmp_path)


def test_names_that_are_the_numbers_go_with_numbers(tmp_path):
    save(tmp_path / "a.parquet", 1, labels=[0, 1, 0], names={0: "0", 1: "1"})
    save(tmp_path / "b.parquet", 4, labels=[1, 12, 0])
    found = Embeddings.load(tmp_path)
    assert named(found) == ["0", "1", "0", "1", "12", "0"]


@pytest.mark.parametrize("bare", ["a", "b"])
def test_labels_in_some_files_only_are_refused(tmp_path, bare):
    labelled = "b" if bare == "a" else "a"
    save(tmp_path / f"{labelled}.parquet", 1, labels=[0, 1, 0])
    save(tmp_path / f"{bare}.parquet", 4)
    words = f"{tmp_path / labelled}.parquet has labels and {tmp_path / bare}.parquet has none"
    with pytest.raises(EmbeddingsError, match=re.escape(words)):
        Embeddings.load(tmp_path)


def test_origins_are_of_each_file(tmp_path):
    space = Space("s", 1)
    for name, origins in (("a", ("upgraded", None)), ("b", None), ("c", ("embedded", "embedded"))):
        ids = (f"{name}-0", f"{name}-1")
        Embeddings(ids, np.ones((2, 1), "f4"), space, origins=origins).save(
            tmp_path / f"{name}.parquet"
        )
    found = Embeddings.load(tmp_path).origins
    assert found == ("upgraded", None, None, None, "embedded", "embedded")


@pytest.mark.parametrize(
    ("column", "origins"),
    [
        pytest.param(pa.array(["Rome", "upgraded"]), None, id="places"),
        pytest.param(pa.array([1, 2]), None, id="numbers"),
        pytest.param(pa.array([{"x": 1}, None]), None, id="structs"),
        pytest.param(pa.array([None, None]), None, id="nulls"),
        pytest.param(
            pa.array(["upgraded", None]).dictionary_encode(), ("upgraded", None), id="dictionary"
        ),
    ],
)
def test_a_column_of_other_origins_is_left_alone(tmp_path, column, origins):
    path = tmp_path / "some.parquet"
    Embeddings(("a", "b"), np.ones((2, 1), "f4"), Space("s", 1)).save(path)
    pq.write_table(pq.read_table(path).append_column("origin", column), path)
    assert Embeddings.load(path).origins == origins
