"""Items: ids, labels and where the images are; the bundled digits; splits."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import put_part, shard
from PIL import Image
from sklearn.datasets import load_digits

from onward.data import Items, LeftOut, images, load_images, open_items, open_payload, open_splits
from onward.data.items import split_by_id
from onward.data.payloads import find_fault, read_digits, with_digest
from onward.errors import ConfigurationError, DataError


def make_items(of_classes, **changes):
    given = {
        "ids": tuple(f"item{row}" for row in range(len(of_classes))),
        "labels": np.array(of_classes, dtype=np.int64),
        "class_names": {label: str(label) for label in of_classes},
        "payloads": tuple({"digits": row} for row in range(len(of_classes))),
        "source": "a test",
    }
    return Items(**{**given, **changes})


def test_the_bundled_digits_are_those_of_scikit_learn():
    theirs = load_digits()
    values, labels = read_digits()
    np.testing.assert_array_equal(values, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)
    assert values.dtype == np.uint8


def test_digits_open_as_grey_images_from_0_to_255():
    items = open_items("digits")
    assert len(items) == 1797
    assert items.classes == tuple(range(10))
    assert (items.ids[0], items.ids[-1]) == ("digits/0000", "digits/1796")
    image = items.open(5)
    assert (image.mode, image.size) == ("L", (8, 8))
    expected = np.round(load_digits().images[5] * 255 / 16)
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_digits_split_by_class_is_the_same_every_time():
    train, test = open_splits("digits")
    again = open_splits("digits")
    assert (train.digest, test.digest) == (again[0].digest, again[1].digest)
    assert set(train.ids) | set(test.ids) == set(open_items("digits").ids)
    assert not set(train.ids) & set(test.ids)
    for label in range(10):
        in_class = np.sum(read_digits()[1] == label)
        assert len(test.of_classes([label])) == round(in_class / 4)
    assert test.ids[:3] == ("digits/0000", "digits/0002", "digits/0006")  # on every machine


def test_a_split_does_not_depend_on_the_order_of_the_items_or_on_other_classes():
    items = open_items("digits")
    _, test = split_by_id(items)
    backwards = items.select(np.arange(len(items))[::-1])
    assert set(split_by_id(backwards)[1].ids) == set(test.ids)
    of_three = split_by_id(items.of_classes([3]))[1]
    assert of_three.ids == test.of_classes([3]).ids


@pytest.mark.parametrize(("count", "tested"), [(1, 0), (2, 1), (3, 1), (4, 1), (8, 2)])
def test_a_small_class_gives_a_quarter_to_the_test_and_keeps_one_for_training(count, tested):
    train, test = split_by_id(make_items([7] * count))
    assert (len(train), len(test)) == (count - tested, tested)


def test_what_was_left_out_is_told_once_after_a_split():
    items = make_items([1, 1, 1], left_out=(LeftOut("a.jpg", "it has 0 bytes"),))
    train, test = split_by_id(items)
    assert train.left_out == items.left_out
    assert test.left_out == ()


def test_classes_are_chosen_by_label_number():
    items = make_items([10, 2, 9, 2])
    assert items.of_classes(range(2, 10, 7)).ids == ("item1", "item2", "item3")
    assert items.classes == (2, 9, 10)


def test_a_class_without_items_is_an_error_that_lists_the_classes():
    with pytest.raises(
        DataError, match="class 5 has no item in a test; its 6 classes are 0, 1, 2, 7, 9, 10"
    ):
        make_items([0, 1, 2, 7, 9, 10]).of_classes([1, 5])
    with pytest.raises(DataError, match="no class was asked for"):
        make_items([0]).of_classes([])


def test_items_are_selected_by_positions_a_mask_or_nothing():
    items = make_items([4, 5, 6])
    assert items.select([2, 0]).ids == ("item2", "item0")
    assert items.select(np.array([False, True, False])).payloads == ({"digits": 1},)
    assert len(items.select([])) == 0


def test_labels_cannot_be_changed():
    given = np.array([1, 2])
    items = make_items([1, 2], labels=given)
    given[0] = 7
    assert items.labels[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        items.labels[0] = 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": ("a", "a")}, "a test: id 'a' stands in rows 0 and 1"),
        ({"ids": ("a", "")}, "a test: the id in row 1 is ''"),
        ({"ids": ("a",)}, "1 ids, labels of shape .2,. and 2 payloads"),
        ({"payloads": ()}, "2 ids, labels of shape .2,. and 0 payloads"),
        ({"class_names": {1: "one"}}, "class 2 has no name"),
    ],
)
def test_items_that_do_not_fit_together_are_refused(changes, words):
    with pytest.raises(DataError, match=words):
        make_items([1, 2], **changes)


def test_items_print_what_they_are():
    assert str(open_items("digits")) == "1,797 items of 10 classes from digits"
    one_left_out = make_items([1], left_out=(LeftOut("b.jpg", "is empty"),))
    assert str(one_left_out) == "1 items of 1 classes from a test, 1 left out"
    assert str(one_left_out.left_out[0]) == "b.jpg is empty"


def test_the_digest_changes_with_ids_labels_order_and_images():
    items = make_items([1, 2])
    others = [
        make_items([1, 2], ids=("item0", "other")),
        make_items([1, 3]),
        make_items([1, 2], payloads=({"digits": 0}, {"digits": 2})),
        items.select([1, 0]),
        items.select([0]),
    ]
    assert len({item.digest for item in (items, *others)}) == 6
    assert make_items([1, 2]).digest == items.digest


def test_a_payload_opens_its_image_again():
    items = open_items("digits")
    again = open_payload(items.payloads[3])
    np.testing.assert_array_equal(np.asarray(again), np.asarray(items.open(3)))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"digits": 1797}, "there are 1797 digits, counted from 0, and no digit 1797"),
        ({"where": "there"}, "does not say where an image or a text is; it needs 'path'"),
        ({"path": "gone/a.jpg"}, "gone/a.jpg cannot be read: No such file or directory"),
        ({"file": "gone.parquet", "row": 1, "column": "image"}, "gone.parquet cannot be read"),
        ({"path": 17}, "has 17 as 'path', which locates no item; write the name"),
        ({"path": "a\0b"}, "as 'path', which locates no item"),
        ({"file": "a.parquet", "row": "1", "column": "image"}, "has '1' as 'row'.*write a number"),
        ({"digits": None}, "has None as 'digits'.*write a number"),
        ({"digits": True}, "has True as 'digits', which locates no item; write a num"),
        ({"digits": -1}, "there are 1797 digits, counted from 0, and no digit -1"),
        ({"digits": 1.0}, "has 1.0 as 'digits'.*write a number"),
        ({"digits": 10**30}, "there are 1797 digits, counted from 0, and no digit 10000"),
        ({"file": "a.parquet", "row": False, "column": "image"}, "has False as 'row'.*a number"),
        ({"file": "a.parquet", "row": 1.0, "column": "image"}, "has 1.0 as 'row'.*write a number"),
        ({"file": "a.parquet", "row": 1, "column": 1}, "has 1 as 'column'.*the name of a file or"),
        (
            {"file": "a.parquet"},
            "does not say where an image or a text is; it needs 'path', or 'file', 'row'",
        ),
        (
            {"file": "a.parquet", "row": 1},
            "does not say where an image or a text is; it needs 'path'",
        ),
        ({"path": True}, "has True as 'path', which locates no item"),
        ({"path": None}, "has None as 'path', which locates no item"),
        ({"path": ["a.jpg"]}, "as 'path', which locates no item; write the name"),
        ({"path": "\ud800.jpg"}, "as 'path', which locates no item; write the name"),
        ({"path": "/"}, "/ is not a file; name the file that holds the image"),
        ({"path": "/dev/zero"}, "/dev/zero is not a file; name the file that holds the image"),
        ({"path": "x" * 300}, "cannot be read: File name too long"),
        ({}, "the payload {} does not say where an image or a text is"),
    ],
)
def test_a_payload_that_leads_nowhere_is_an_error(payload, words):
    with pytest.raises(DataError, match=words):
        open_payload(payload)


@pytest.mark.parametrize(
    "payload",
    [{"digits": True}, {"file": "a.parquet"}, {"file": "a", "row": True}, {}, {"path": 1}],
)
def test_a_payload_that_leads_nowhere_has_a_fault_and_no_digest(payload):
    assert find_fault(payload)
    with pytest.raises(
        DataError, match=r"locates no item|does not say where an image or a text is"
    ):
        _ = make_items([1], payloads=(payload,)).digest


def test_what_is_no_image_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is not a file; name the file that holds the image"):
        open_payload({"path": str(tmp_path / "pipe")})


def test_a_cell_that_holds_no_bytes_is_an_error(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": 17}]}), tmp_path / "a.parquet")
    payload = {"file": str(tmp_path / "a.parquet"), "row": 0, "column": "image"}
    with pytest.raises(DataError, match=r"column 'image' of .* holds int, not bytes of an image"):
        open_payload(payload)


def test_a_digest_may_be_written_in_capitals(tmp_path):
    Image.new("L", (3, 3), 7).save(tmp_path / "a.png")
    payload = with_digest({"path": str(tmp_path / "a.png")})
    assert open_payload({**payload, "sha256": payload["sha256"].upper()}).size == (3, 3)


def test_items_open_images_of_as_many_pixels_as_is_stated(tmp_path):
    Image.new("L", (30, 20), 7).save(tmp_path / "a.png")
    payload = {"path": str(tmp_path / "a.png")}
    items = make_items([1], payloads=(payload,), max_pixels=600)
    assert items.open(0).size == (30, 20)
    few = replace(items, max_pixels=599)
    with pytest.raises(DataError, match=r"it has more than 599 pixels.* max_pixels="):
        few.open(0)
    assert find_fault(payload) is None
    assert "more than 599 pixels" in str(find_fault(payload, 599))


def test_an_image_that_has_changed_is_not_taken_for_the_one_that_it_was(tmp_path):
    file = tmp_path / "a.png"
    Image.new("L", (3, 3), 7).save(file)
    payload = with_digest({"path": str(file), "taken": "2024"})
    assert payload["taken"] == "2024"
    assert payload["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    sized = {"path": str(file), "bytes": file.stat().st_size}
    assert open_payload(payload).getpixel((0, 0)) == open_payload(sized).getpixel((0, 0)) == 7
    Image.new("L", (300, 3), 8).save(file)
    with pytest.raises(DataError, match=r"a.png has changed since .*SHA-256 is .*; put the image"):
        open_payload(payload)
    with pytest.raises(DataError, match=rf"has changed .*: it has \d+ bytes, not {sized['bytes']}"):
        open_payload(sized)


def test_a_cell_of_parquet_has_a_digest_and_a_bundled_digit_needs_none(tmp_path):
    file = tmp_path / "a.parquet"
    images = [{"bytes": b"first", "path": None}, {"bytes": b"second", "path": None}]
    pq.write_table(pa.table({"image": images}), file)
    payload = with_digest({"file": str(file), "row": 1, "column": "image"})
    assert payload["sha256"] == hashlib.sha256(b"second").hexdigest()
    assert with_digest({"digits": 3}) == {"digits": 3}


@pytest.mark.parametrize("source", ["digits", "folder", "shard.parquet"])
def test_every_image_comes_through_decode_and_opening_a_source_decodes_none(
    tmp_path, monkeypatch, source
):
    put_part(tmp_path / "folder")
    shard(tmp_path / "shard.parquet", [0, 0, 1, 1])

    def refuse(content, where, max_pixels):
        raise AssertionError(f"{where} was opened")

    monkeypatch.setattr(images, "decode", refuse)
    path = source if source == "digits" else tmp_path / source
    items, _ = open_items(path), open_splits(path)
    assert items.digest
    with pytest.raises(AssertionError, match=r"(row 0|0.png) was opened"):
        items.open(0)
    with pytest.raises(AssertionError, match="was opened"):
        load_images(items, 8, 1, rows=[1])


def test_digits_have_no_columns():
    with pytest.raises(ConfigurationError, match=r"digits has no columns; .* are for Parquet"):
        open_items("digits", label_column="label")


def test_a_source_that_is_not_there_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*nowhere; give 'digits', .* image folder"):
        open_items(tmp_path / "nowhere")


def test_opening_items_loads_no_torch():
    code = (
        "import sys, onward.data as data; items = data.open_items('digits');"
        "assert not {'torch', 'PIL', 'pyarrow'} & set(sys.modules);"
        "data.load_images(items, 8, 1, rows=[0]);"
        "assert not {'torch', 'torchvision', 'kornia'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
