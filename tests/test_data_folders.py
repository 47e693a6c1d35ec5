"""Image folders: one sub-folder a class."""

import os

import pytest
from pictures import put, put_part

from onward.data import open_items, open_splits
from onward.data.items import natural_key
from onward.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photos"


def test_names_are_ordered_as_a_person_does():
    names = ["img10", "img9", "IMG2", "b", "a1", "a01", "10", "9", ""]
    assert sorted(names, key=natural_key) == [
        "", "9", "10", "a01", "a1", "b", "IMG2", "img9", "img10",
    ]  # fmt: skip


def test_folders_named_by_numbers_keep_their_numbers_as_labels(folder):
    put_part(folder, ["0", "1", "2", "9", "10", "53"], images=1)
    items = open_items(folder)
    assert items.ids == ("0/0.png", "1/0.png", "2/0.png", "9/0.png", "10/0.png", "53/0.png")
    assert items.labels.tolist() == [0, 1, 2, 9, 10, 53]
    assert items.class_names[53] == "53"


def test_labels_of_named_folders_follow_natural_order(folder):
    put_part(folder, ["class10", "class9", "Zebra", "ant"], images=1)
    items = open_items(folder)
    assert items.class_names == {0: "ant", 1: "class9", 2: "class10", 3: "Zebra"}
    assert dict(zip(items.ids, items.labels.tolist(), strict=True))["class9/0.png"] == 1


def test_nested_folders_belong_to_their_class_and_ids_have_forward_slashes(folder):
    put(folder / "cat" / "beach" / "1.png")
    put(folder / "cat" / "2.png")
    items = open_items(folder)
    assert items.ids == ("cat/2.png", "cat/beach/1.png")
    assert items.labels.tolist() == [0, 0]


def test_linked_folders_elsewhere_are_followed(folder, tmp_path):
    put(tmp_path / "elsewhere" / "0.png")
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    assert open_items(folder).ids == ("cat/0.png",)


def test_what_is_no_file_is_never_waited_for(folder):
    put_part(folder, ["cat"], images=1)
    os.mkfifo(folder / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"cat/pipe.png: is not a file with an image in it"):
        open_items(folder)
    assert open_items(folder, skip_bad=True).ids == ("cat/0.png",)


def test_a_name_that_is_not_utf_8_is_an_error_and_can_be_left_out(folder):
    put_part(folder, ["cat"], images=1)
    (folder / "cat" / "0.png").rename(folder / "cat" / os.fsdecode(b"\xff.png"))
    put_part(folder, ["cat"], images=1)
    with pytest.raises(DataError, match=": has a name that is not UTF-8, and ids are text; rename"):
        open_items(folder)
    items = open_items(folder, skip_bad=True)
    assert items.ids == ("cat/0.png",)
    told = str(items.left_out[0]).encode().decode()  # can be written
    assert told.endswith("has a name that is not UTF-8, and ids are text; rename it")
    (folder / "cat").rename(folder / os.fsdecode(b"\xff"))
    put_part(folder, ["dog"], images=1)
    with pytest.raises(DataError, match=r"the name of class 1, '.*', is not UTF-8; rename it"):
        open_items(folder, skip_bad=True)


def test_payloads_open_from_any_working_directory(folder, tmp_path, monkeypatch):
    put_part(folder, ["cat"], images=1)
    monkeypatch.chdir(tmp_path)
    items = open_items("photos")
    monkeypatch.chdir("/")
    assert items.payloads[0] == {"path": str(folder / "cat" / "0.png")}
    assert items.open(0).size == (6, 6)


def damage(folder):
    """Put three kinds of bad files beside one good image."""
    put_part(folder, ["cat", "dog"], images=1)
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "dog" / "text.png").write_text("not an image")


def test_an_image_that_cannot_be_read_is_an_error_that_names_the_file(folder):
    put_part(folder, ["cat"], images=1)
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "text.png").write_text("not an image")
    items = open_items(folder)
    assert items.ids == ("cat/0.png", "cat/cut.png", "cat/text.png")
    for row in (1, 2):
        with pytest.raises(DataError, match=rf"{items.ids[row]} cannot be read as an image"):
            items.open(row)


def test_a_file_without_an_image_suffix_counts_by_its_content(folder):
    put_part(folder, ["cat"], images=1)
    (folder / "cat" / "0.png").rename(folder / "cat" / "picture")
    assert open_items(folder).ids == ("cat/picture",)
    (folder / "cat" / "notes.doc").write_text("two cats")
    with pytest.raises(
        DataError, match=r"notes.doc: is not an image that is read: no image f.*; mend or remove"
    ):
        open_items(folder)


def test_bad_files_are_left_out_and_told_if_asked_for(folder):
    damage(folder)
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "fox").mkdir()
    items = open_items(folder, skip_bad=True)
    assert items.ids == ("cat/0.png", "dog/0.png")
    told = {str(left.where).removeprefix(f"{folder}/"): left.why for left in items.left_out}
    assert set(told) == {"cat/cut.png", "cat/empty.jpg", "dog/gone.png", "dog/text.png", "fox"}
    assert told["cat/empty.jpg"] == "cannot be read as an image: it has 0 bytes"
    assert told["dog/text.png"].startswith("cannot be read as an image: no image format was rec")
    assert told["fox"] == "holds no image, as a class folder must"
    assert items.class_names == {0: "cat", 1: "dog", 2: "fox"}


def test_a_folder_of_which_nothing_is_left_is_an_error(folder):
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no item; the first of 1 left out is .*cat/1.png"):
        open_items(folder, skip_bad=True)


def test_an_empty_class_folder_is_an_error_that_names_it(folder):
    put_part(folder, ["cat"], images=1)
    (folder / "dog").mkdir()
    with pytest.raises(DataError, match="photos/dog: holds no image, as a class folder must"):
        open_items(folder)


def test_a_folder_without_class_folders_is_an_error_that_shows_the_layout(folder):
    put(folder / "1.png")
    with pytest.raises(DataError, match=r"no class folders; .* one sub-folder a class .*cat/1.jpg"):
        open_items(folder)


def test_two_folders_with_the_same_number_are_an_error(folder):
    put_part(folder, ["1", "01", "2"], images=1)
    with pytest.raises(
        DataError, match=r"'01' and '1' among the class folders of .* both mean class 1"
    ):
        open_items(folder)


def test_a_class_folder_beyond_64_bits_is_an_error_that_names_it(folder):
    put_part(folder, ["7", "123456789012345678901"], images=1)
    with pytest.raises(
        DataError, match=r"'123456789012345678901' among .* is a number, and numbers are la"
    ):
        open_items(folder)


def test_the_test_folder_comes_before_the_validation_folder(folder):
    for part in ("train", "val", "test"):
        put_part(folder / part, ["a"], images=1)
    assert open_splits(folder)[1].ids == ("test/a/0.png",)
    assert len(open_items(folder)) == 3


def test_the_digest_is_that_of_the_data_not_of_the_place(folder):
    put_part(folder, ["a", "b"], images=1)
    before = open_items(folder).digest
    moved = folder.rename(folder.with_name("moved"))
    assert open_items(moved).digest == before
    put(moved / "a" / "0.png", size=(50, 70))
    assert open_items(moved).digest != before


def test_a_file_that_vanished_is_an_error_that_names_it(folder):
    put_part(folder, ["a"], images=1)
    items = open_items(folder)
    (folder / "a" / "0.png").unlink()
    with pytest.raises(DataError, match=r"a/0.png cannot be read: No such file"):
        items.open(0)
    with pytest.raises(DataError, match=r"a/0.png cannot be read: No such file"):
        _ = items.digest
