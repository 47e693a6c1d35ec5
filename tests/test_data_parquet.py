"""Image Parquet as the Hugging Face hub has it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import cells, shard

from onward.data import load_images, open_items, open_payload, open_splits, parquet
from onward.errors import DataError

SHARED = Path(__file__).parents[2] / "shared/data"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, values, labels, **others):
    return shard(path, labels, values=values, **others)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "faces.parquet"


def greys(items):
    return [items.open(row).getpixel((0, 0)) for row in range(len(items))]


def test_a_file_opens_by_its_types_and_ids_tell_file_and_row(file):
    items = open_items(write(file, [10, 20, 30], [4, 5, 4]))
    assert items.ids == ("faces/000000", "faces/000001", "faces/000002")
    assert items.labels.tolist() == [4, 5, 4]
    assert items.class_names == {4: "4", 5: "5"}
    assert items.payloads[2] == {"file": str(file), "row": 2, "column": "image"}
    assert greys(items) == [10, 20, 30]
    assert open_payload(items.payloads[1]).getpixel((0, 0)) == 20


def test_shards_of_a_folder_follow_each_other_and_keep_their_own_ids(tmp_path):
    for number, value in enumerate([10, 20, 30]):
        write(tmp_path / f"data/train-{number:05}-of-00003.parquet", [value], [number])
    items = open_items(tmp_path)
    assert items.ids == tuple(f"data/train-{number:05}-of-00003/000000" for number in range(3))
    assert greys(items) == [10, 20, 30]
    one = open_items(tmp_path / "data" / "train-00001-of-00003.parquet")
    assert one.ids == ("train-00001-of-00003/000000",)


@pytest.mark.parametrize(
    ("labels", "names", "why"),
    [
        pytest.param(
            [1, 2], ["ant", "bee"], r"has label 2 \(label\), but there are 2", id="not-named"
        ),
        pytest.param(
            pa.array([3, 2**63], pa.uint64()),
            None,
            rf"has label {2**63} \(label\), above",
            id="too-large",
        ),
        pytest.param(["cat", None], None, "has a null label", id="null"),
        pytest.param(["cat", ""], None, "has an empty label", id="empty"),
    ],
)
def test_a_row_whose_label_means_nothing_is_an_error_and_can_be_left_out(file, labels, names, why):
    write(file, [10, 20], labels, names=names)
    with pytest.raises(DataError, match=f"row 1 {why}"):
        open_items(file)
    items = open_items(file, skip_bad=True)
    assert (len(items), ["label" in one.why for one in items.left_out]) == (1, [True])
    assert names is None or items.class_names == dict(enumerate(names))


def test_two_classes_of_one_name_are_refused(file):
    write(file, [10, 20], [0, 1], names=["crane", "crane"])
    with pytest.raises(DataError, match="the classes 0 and 1 are both called 'crane'; give each"):
        open_items(file)


def test_columns_are_chosen_by_name(file):
    others = {
        "other": cells([99, 99]),
        "fine": pa.array([7, 8], pa.int32()),
        "key": pa.array(["x", "y"]),
    }
    write(file, [10, 20], [1, 2], **others)
    assert greys(open_items(file)) == [10, 20]  # of two structs, the one called image
    items = open_items(file, image_column="other", label_column="fine", id_column="key")
    assert (items.ids, items.labels.tolist(), greys(items)) == (("x", "y"), [7, 8], [99, 99])


def test_a_number_may_be_the_id_and_is_then_not_taken_for_the_label(file):
    write(file, [10, 20], [], column="", number=pa.array([5, 6]), of=pa.array([1, 2]))
    items = open_items(file, id_column="number", label_column="of")
    assert (items.ids, items.labels.tolist()) == (("5", "6"), [1, 2])


def test_fine_labels_are_preferred_to_coarse_ones(file):
    write(
        file, [10], [], column="", image="img", coarse_label=pa.array([1]), fine_label=pa.array([2])
    )
    assert open_items(file).labels.tolist() == [2]
    assert open_items(file, label_column="coarse_label").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_column": "photo"}, r"no column 'photo'; its columns are image \(struct<.*label"),
        ({"label_column": "class"}, "no column 'class'; its columns are image"),
        ({"id_column": "key"}, "no column 'key'; its columns are image"),
        ({"image_column": "text"}, "column 'text' of .* is string; images need a struct"),
        ({"label_column": "share"}, "column 'share' of .* is double; labels need integers or s"),
        ({"id_column": "image"}, "column 'image' of .* is struct.*; ids need strings"),
    ],
)
def test_a_column_that_is_missing_or_of_a_wrong_type_is_an_error(file, options, words):
    write(file, [10], [1], text=pa.array(["a"]), share=pa.array([0.5]))
    with pytest.raises(DataError, match=words):
        open_items(file, **options)


def test_a_file_without_a_column_that_stands_out_is_an_error_that_lists_them(file):
    write(file, [10], [], column="", text=pa.array(["a"]))
    with pytest.raises(DataError, match=r"no column that is known for .*; .*text \(string\)"):
        open_items(file)
    write(file, [10], [], column="", one=pa.array([1]), two=pa.array([2]))
    with pytest.raises(DataError, match=r"no column that is known for .*Name one: label_column="):
        open_items(file)
    write(file, [], pa.array([], pa.int64()))
    with pytest.raises(DataError, match=r"faces.parquet has no item"):
        open_items(file)
    pq.write_table(pa.table({"label": [1]}), file)
    with pytest.raises(DataError, match=r"no single image column, .*Name one: image_column="):
        open_items(file)


@pytest.mark.parametrize("value", [None, "null"])
def test_null_bytes_are_an_error_that_names_file_and_row(file, value):
    items = open_items(write(file, [10, 20, value, 30], [1, 1, 1, 1]))
    with pytest.raises(DataError, match=r"faces.parquet, row 2 holds nothing: its cell is null"):
        items.open(2)
    assert len(open_items(file, skip_bad=True)) == 3


def test_a_negative_label_says_that_the_class_is_not_known(file):
    write(file, [10, 20, 30], [3, -1, -7])
    items = open_items(file)
    assert (items.labels.tolist(), items.classes) == ([3, -1, -1], (3,))
    assert "the class of 2 items is not known" in items.reading


def test_an_unreadable_image_is_an_error_that_names_file_and_row(file):
    items = open_items(write(file, [10, b"no image", b""], [1, 1, 1]))
    with pytest.raises(DataError, match=r"faces.parquet, row 1 cannot be read as an image: no"):
        items.open(1)
    with pytest.raises(DataError, match=r"row 2 cannot be read as an image: it has 0 bytes"):
        load_images(items, 4, 1, rows=[2, 0])


def test_bad_rows_are_left_out_and_told_if_asked_for(file):
    values = [10, b"", None, 20, 30, 40, 50]
    keys = pa.array(["a", "b", "c", "a", "d", None, ""])
    write(file, values, [1, 1, 1, 1, None, 1, 1], key=keys)
    items = open_items(file, id_column="key", skip_bad=True)
    assert items.ids == ("a",)
    assert [str(left).removeprefix(f"{file}, ") for left in items.left_out] == [
        "row 1 cannot be read as an image: it has 0 bytes",
        "row 2 holds nothing: its cell is null",
        f"row 3 has the same id 'a' (key) as {file}, row 0",
        "row 4 has a null label (label)",
        "row 5 has a null id (key)",
        "row 6 has an empty id (key)",
    ]
    assert open_items(write(file, [10, None, 30], [1] * 3), skip_bad=True).ids == (
        "faces/000000",
        "faces/000002",
    )


def test_two_columns_of_one_name_are_an_error_that_lists_them(file):
    columns = [cells([1]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "label", "label"]), file)
    with pytest.raises(DataError, match="has two columns 'label'; its columns are image"):
        open_items(file)


def test_a_damaged_page_of_labels_is_an_error_that_names_the_file(file):
    write(file, [10] * 9, list(range(9)), rows=9)
    start = pq.read_metadata(file).row_group(0).column(2)
    place = start.dictionary_page_offset or start.data_page_offset
    content = bytearray(file.read_bytes())
    content[place : place + 30] = b"\xff" * 30
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"faces.parquet is not a readable Parquet file: .*; fetch"):
        open_items(file)


def test_shards_with_different_columns_are_an_error_that_names_both(tmp_path):
    write(tmp_path / "a.parquet", [10], [1])
    write(tmp_path / "b.parquet", [10], pa.array([1], pa.int8()))
    with pytest.raises(DataError, match=r"column 'label' of .*b.parquet is int8, that of .*a.parq"):
        open_items(tmp_path)
    write(tmp_path / "b.parquet", [10], [1], image="photo")
    with pytest.raises(DataError, match=r"column 'image' of .*b.parquet is not there, that of"):
        open_items(tmp_path)


def test_a_missing_shard_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", [10], [1])
    with pytest.raises(DataError, match=r"train-00001-of-00002.parquet is missing, though"):
        open_items(tmp_path)
    assert len(open_items(tmp_path / "train-00000-of-00002.parquet")) == 1


def test_train_and_test_shards_are_the_split(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", [10, 20], [1, 2])
    write(tmp_path / "validation-00000-of-00001.parquet", [30], [1])
    train, test = open_splits(tmp_path)
    assert (greys(train), greys(test)) == ([10, 20], [30])
    write(tmp_path / "test-00000-of-00001.parquet", [40], [2])
    write(tmp_path / "unlabelled.parquet", [50], [-1])  # not opened where the parts are stated
    with pytest.raises(DataError, match=r"files of no part, such as unlabelled.parquet. Say which"):
        open_splits(tmp_path)
    train, test = open_splits(tmp_path, train_part="train", test_part="test")
    assert (train.ids, test.ids) == (
        ("train-00000-of-00001/000000", "train-00000-of-00001/000001"),
        ("test-00000-of-00001/000000",),
    )


def test_an_id_in_train_and_test_is_an_error(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", [10], [1], key=pa.array(["x"]))
    with pytest.raises(
        DataError, match=r"train.parquet, row 0 has the same id 'x' \(key\) as .*test.parq"
    ):
        open_splits(tmp_path, id_column="key")


def test_the_digest_changes_with_the_images_and_not_with_the_place(file):
    before = open_items(write(file, [10, 20], [1, 1])).digest
    moved = file.rename(file.parent / "moved").rename(file)
    assert open_items(moved).digest == before
    assert open_items(write(file, [10, 21], [1, 1])).digest != before


def test_no_more_row_groups_are_held_than_agreed(file, monkeypatch):
    items = open_items(write(file, list(range(20)), [1] * 20))
    size = parquet.read_group(str(file), 0, "image").nbytes
    held = parquet.HeldGroups()
    monkeypatch.setattr(parquet, "_held", held)
    monkeypatch.setattr(parquet, "HELD_BYTES", 3 * size)
    assert greys(items) == list(range(20))
    assert greys(items.select(np.arange(20)[::-1])) == list(range(20))[::-1]
    assert held.nbytes <= 3 * size
    monkeypatch.setattr(parquet, "HELD_BYTES", 1)
    assert greys(items) == list(range(20))
    assert held.nbytes < 2 * size  # the one group in use


def test_a_file_that_was_replaced_is_read_anew(file):
    items = open_items(write(file, [10, 20], [1, 1]))
    assert greys(items) == [10, 20]
    write(file, [30, 40, 50], [1, 1, 1])
    assert greys(items) == [30, 40]


def test_a_row_or_column_that_is_gone_is_an_error_that_says_so(file):
    items = open_items(write(file, [10, 20], [1, 1]))
    write(file, [10], [1], image="photo")
    with pytest.raises(DataError, match=r"has 1 rows and no row 1; it was changed"):
        items.open(1)
    with pytest.raises(DataError, match=r"has no column 'image' with a field 'bytes'; it was ch"):
        items.open(0)
    file.unlink()
    with pytest.raises(DataError, match=r"faces.parquet cannot be read: No such file"):
        items.open(0)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cifar100").is_dir(), reason="CIFAR-100 is not at hand")
def test_cifar100_opens_with_its_official_labels():
    train, test = open_splits(SHARED / "cifar100")
    assert (len(train), len(test)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [500] * 100
    assert len(test.of_classes(range(50))) == 5_000
    pixels = load_images(test, 32, 3, rows=range(0, 2_000, 2))
    mean = pixels.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(mean, (0.507, 0.487, 0.441), atol=0.02)


@pytest.mark.skipif(not (SHARED / "orl_faces").is_dir(), reason="the ORL faces are not at hand")
def test_orl_faces_open_as_grey_images_of_forty_people():
    items = open_items(SHARED / "orl_faces")
    assert (len(items), items.classes) == (400, tuple(range(40)))
    assert (items.open(0).mode, items.open(0).size) == ("L", (92, 112))
