"""Layouts of image data are stated or refused, never guessed in silence.

The variants of this class of errors, each with a test below:

- names of parts, in any case and spelling, of folders and of shards; names that only look like them
- a third folder beside the parts; two parts of one role; a test part alone; parts that are classes
- Tiny-ImageNet: `train/CLASS/images`, `val/images` with a list; a part without any labels
- configurations of the hub; shards of two generations; Parquet and images in one folder
- the column of labels: known by name or metadata, stated, or refused; strings
- classes in another order in the shards of train and test; classes that only the test part has
- thumbnails and leftovers of systems, file servers and file managers
- images too deep, or one folder too high; links in rings and to the neighbours
- names that differ in case or in their Unicode alone
- labels that must not depend on which images can be read
"""

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from pictures import CLASSES, put, put_part, shard
from rights import without_the_rights_of_root
from typer.testing import CliRunner

from onward import open_items, open_splits
from onward.artifacts import LEFT_BEHIND
from onward.cli.app import app
from onward.cli.options import DataOptions
from onward.data import Stated, describe_data
from onward.data.items import natural_key
from onward.data.parts import role_of, split_name
from onward.errors import ConfigurationError, DataError

OTHERS = {".Trash-1000", ".ipynb_checkpoints", "a~", "~$a", "1.jpg:Zone.Identifier", "._1.jpg"}


def names_in(items):
    """The name of each item's class."""
    return [items.class_names[label] for label in items.labels.tolist()]


def run(*arguments) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


# --- names of parts


PAIRS = (
    "train/test, Training/Testing, TRAIN/TEST, training_set/test_set, train-images/test-images, "
    "Training Data/Testing Data, TrainData/TestData, train2017/val2017, train/valid, "
    "train/Validation, train/dev, train/eval, trainval/test, trn/tst, train/held-out"
)


@pytest.mark.parametrize("names", PAIRS.split(", "))
def test_parts_are_known_by_their_names(tmp_path, names):
    train, test = names.split("/")
    put_part(tmp_path / train, images=3)
    put_part(tmp_path / test, images=1)
    learn, judge = open_splits(tmp_path)
    assert set(learn.class_names.values()) == set(CLASSES)
    assert {item.split("/")[0] for item in learn.ids} == {train}
    assert {item.split("/")[0] for item in judge.ids} == {test}
    assert names_in(judge) == list(CLASSES)
    assert f"train with {train}, test with {test}" in learn.reading == judge.reading
    assert len(open_items(tmp_path)) == 12


ALIKE = [
    "",
    "bullet train",
    *["trainer", "strain", "testament", "value", "device", "evaluator", "a", "7"],
]


@pytest.mark.parametrize("name", ALIKE)
def test_names_that_only_look_like_parts_are_none(name):
    assert role_of(name) is None


@pytest.mark.parametrize(
    ("name", "word", "role", "rest"),
    [
        ("cifar10-train", "train", "train", "cifar10"),
        ("train_clean", "train", "train", "clean"),
        ("mnist.test", "test", "test", "mnist"),
        ("train-test-split", "", None, "train-test-split"),
        ("faces", "", None, "faces"),
        ("train_val", "train_val", "train", ""),
    ],
)
def test_a_word_in_a_name_tells_the_part(name, word, role, rest):
    assert split_name(name) == (word, role, rest)


@given(st.text(max_size=30))
def test_any_name_is_read_without_an_error(name):
    word, role, rest = split_name(name)
    assert (role is None) == (word == "")
    assert len(word) + len(rest) <= len(name) or role is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001", "test-00000-of-00001"),
        ("train-00000-of-00001-0123456789abcdef", "test-00000-of-00001-fedcba9876543210"),
        ("cifar10-train", "cifar10-test"),
        ("Training", "Testing"),
        ("data/train_0", "data/dev_0"),
        ("default/train/0000", "default/validation/0000"),
        ("default/partial-train/0000", "default/partial-test/0000"),
        ("TRAIN2017", "VAL2017"),
        ("split=train/0", "split=test/0"),  # as Spark writes it
    ],
)
def test_shards_are_known_by_the_same_names(tmp_path, train, test):
    shard(tmp_path / f"{train}.parquet", [0, 1, 1])
    shard(tmp_path / f"{test}.parquet", [1, 0])
    learn, judge = open_splits(tmp_path)
    assert (learn.labels.tolist(), judge.labels.tolist()) == ([0, 1, 1], [1, 0])


def test_a_shard_whose_folder_names_another_part_is_refused(tmp_path):
    shard(tmp_path / "train/test.parquet", [0])
    with pytest.raises(
        DataError, match=r"test.parquet names two parts, 'train' and 'test'; rename"
    ):
        open_items(tmp_path)


# --- what leaves a choice is refused, with the option that settles it


@pytest.mark.parametrize("third", ["extra", "unlabelled", "masks", "gallery"])
def test_a_third_folder_beside_the_parts_is_refused_and_the_parts_can_be_named(tmp_path, third):
    for part in ("train", "test", third):
        put_part(tmp_path / part)
    with pytest.raises(
        DataError, match=rf"train, which may be parts .*, beside {third}. Say which "
    ):
        open_items(tmp_path)
    learn, judge = open_splits(tmp_path, train_part="train", test_part="test")
    assert (len(learn), len(judge)) == (6, 6)
    assert f"not read: {third}" in learn.reading
    assert len(open_items(tmp_path, train_part="train", test_part="test")) == 12
    assert len(open_splits(tmp_path, train_part=third, test_part="test")[0]) == 6
    as_classes = open_items(tmp_path, read_as="classes")
    assert set(as_classes.class_names.values()) == {"train", "test", third}


def test_a_folder_without_images_beside_the_parts_is_passed_over_and_told(tmp_path):
    put_part(tmp_path / "train")
    put_part(tmp_path / "test")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.xml").write_text("<boxes/>")
    items = open_items(tmp_path)
    assert set(items.class_names.values()) == set(CLASSES)
    assert "folders without an image: 1 (annotations)" in items.reading


def test_two_parts_of_one_role_are_refused(tmp_path):
    for part in ("train", "train2017", "test"):
        put_part(tmp_path / part)
    with pytest.raises(DataError, match=r"several parts to train with, train, train2017. Say wh"):
        open_splits(tmp_path)
    learn, judge = open_splits(tmp_path, train_part="train2017")
    assert learn.ids[0].startswith("train2017/")
    assert judge.ids[0].startswith("test/")
    assert len(open_items(tmp_path)) == 18


def test_a_test_part_alone_is_not_trained_with_in_silence(tmp_path):
    put_part(tmp_path / "test")
    assert len(open_items(tmp_path)) == 6
    with pytest.raises(DataError, match=r"no part to train with; it has test. Say which ones"):
        open_splits(tmp_path)


def test_of_a_training_part_alone_a_quarter_is_to_test_with_and_that_is_said(tmp_path):
    put_part(tmp_path / "train", images=4)
    learn, judge = open_splits(tmp_path)
    assert (len(learn), len(judge)) == (9, 3)
    assert "a quarter of each class of train, chosen by a digest of the id" in learn.reading


def test_parts_that_are_not_there_are_named(tmp_path):
    put_part(tmp_path / "train")
    put_part(tmp_path / "test")
    with pytest.raises(DataError, match="has no part 'fold-1'; what it has: train, test"):
        open_splits(tmp_path, train_part="fold-1")
    with pytest.raises(DataError, match=r"'train' of .* cannot be both for training and for"):
        open_splits(tmp_path, train_part="train", test_part="train")
    assert len(open_splits(tmp_path, train_part="TRAIN")[0]) == 6
    undivided = shard(tmp_path / "x.parquet", [0, 1])
    with pytest.raises(
        DataError, match="no part 'train'; what it has: its classes are not divided"
    ):
        open_splits(undivided, train_part="train")


def test_classes_that_are_called_like_parts_are_classes_only_where_that_is_sure(tmp_path):
    put_part(tmp_path, ["train", "ship", "aeroplane"])  # images beside each other: trains
    items = open_items(tmp_path)
    assert set(items.class_names.values()) == {"train", "ship", "aeroplane"}
    assert "train is taken for a class, not for a part" in items.reading
    put_part(tmp_path, ["test"])
    with pytest.raises(DataError, match=r"test, train, which may be parts .*read_as='classes'"):
        open_items(tmp_path)
    assert len(open_items(tmp_path, read_as="classes").classes) == 4


@pytest.mark.parametrize("name", ["test", "valid", "dev", "training"])
def test_a_folder_of_images_called_like_a_part_beside_classes_is_refused(tmp_path, name):
    put_part(tmp_path, [name, "ship", "aeroplane"])
    with pytest.raises(
        DataError, match=rf"holds {name}, which may be parts .*, beside aeroplane, s"
    ):
        open_items(tmp_path)


def test_labels_are_the_same_whichever_parts_are_stated(tmp_path):
    put_part(tmp_path / "photos/train", ["b", "c"])
    put_part(tmp_path / "photos/fold", ["b"])
    put_part(tmp_path / "photos/val", ["a", "b"])
    learn, judge = open_splits(tmp_path / "photos", train_part="train", test_part="fold")
    assert learn.class_names == judge.class_names == {0: "a", 1: "b", 2: "c"}
    _, judge = open_splits(tmp_path / "photos", test_part="fold")
    assert judge.labels.tolist() == [1, 1]
    assert open_items(tmp_path / "photos", test_part="fold").labels.tolist() == [1, 1]
    for part, labels in (("train", ["b", "c"]), ("test", ["b"]), ("val", ["a", "b"])):
        shard(tmp_path / f"shards/{part}.parquet", labels)
    learn, judge = open_splits(tmp_path / "shards")
    assert (learn.labels.tolist(), judge.labels.tolist()) == ([1, 2], [1])
    assert open_items(tmp_path / "shards").class_names == learn.class_names


def test_a_name_is_read_in_no_time_however_it_repeats_itself():
    assert role_of("train" + "dataset" * 40 + "x") is None
    assert role_of("train" + "dataset" * 40) == "train"


def test_class_folders_that_are_all_called_like_parts_are_refused(tmp_path):
    put_part(tmp_path, ["train", "test"])
    with pytest.raises(DataError, match=r"test, train: names of parts .*no class folders in them"):
        open_items(tmp_path)
    items = open_items(tmp_path, read_as="classes")
    assert set(items.class_names.values()) == {"train", "test"}


def test_folders_of_any_name_are_parts_where_that_is_stated(tmp_path):
    for part in ("2023", "2024"):
        put_part(tmp_path / part)
    assert set(open_items(tmp_path, read_as="parts").class_names.values()) == set(CLASSES)
    assert len(open_splits(tmp_path, train_part="2023", test_part="2024")[1]) == 6


# --- classes of the parts


def test_a_test_part_with_classes_that_the_train_part_lacks_is_an_error_that_names_them(tmp_path):
    put_part(tmp_path / "train", ["cat", "dog"])
    put_part(tmp_path / "test", ["cat", "Dog", "owl"])
    with pytest.raises(
        DataError, match=r"test of .* has classes that train lacks: 'Dog', 'owl'. .*open_set=True"
    ):
        open_splits(tmp_path)
    _, judge = open_splits(tmp_path, open_set=True)
    assert set(names_in(judge)) == {"cat", "Dog", "owl"}
    assert len(open_items(tmp_path).classes) == 4


def test_a_class_that_the_test_part_lacks_is_fine(tmp_path):
    put_part(tmp_path / "train")
    put_part(tmp_path / "test", ["tumour"])
    learn, judge = open_splits(tmp_path)
    assert (set(learn.classes), set(judge.classes)) == ({0, 1, 2}, {2})


@pytest.mark.parametrize("opens", [open_items, open_splits])
def test_parts_whose_classes_stand_in_another_order_are_never_compared_by_number(tmp_path, opens):
    shard(tmp_path / "train.parquet", [0, 1], names=["cat", "dog"])
    shard(tmp_path / "test.parquet", [0, 1], names=["dog", "cat"])
    with pytest.raises(DataError, match="give the classes of 'label' different names; the shards"):
        opens(tmp_path)
    shard(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(DataError, match="give the classes of 'label' different names; the shards"):
        opens(tmp_path)


def test_sources_that_are_opened_apart_carry_their_names(tmp_path):
    for part, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        shard(tmp_path / f"{part}.parquet", [0, 1], names=names)
    learn, judge = (open_items(tmp_path / f"{part}.parquet") for part in ("train", "test"))
    assert (names_in(learn), names_in(judge)) == (["cat", "dog"], ["dog", "cat"])
    assert learn.named
    assert not open_items(shard(tmp_path / "plain.parquet", [0, 1])).named


# --- Tiny-ImageNet


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny"
    kinds = ["n001", "n002", "n003"]
    put_part(root / "train", kinds, images=4, inner="images")
    for kind in kinds:
        (root / "train" / kind / f"{kind}_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
    for number in range(6):
        put(root / f"val/images/val_{number}.png")
    lines = [f"val_{number}.png\t{kinds[2 - number % 3]}\t0\t0\t9\t9\n" for number in range(6)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet_is_read_with_its_list_of_labels(tiny):
    learn, judge = open_splits(tiny)
    assert (len(learn), names_in(learn)[:5]) == (12, ["n001"] * 4 + ["n002"])
    by_id = dict(zip(judge.ids, names_in(judge), strict=True))
    assert by_id["val/images/val_0.png"] == "n003"
    assert by_id["val/images/val_1.png"] == "n002"
    assert len(by_id) == 6
    assert judge.open(0).size == (6, 6)
    assert "texts and tables beside images: 3 (train/n001/n001_boxes.txt, ...)" in learn.reading
    assert "12 items lie in folders below their class folder" in learn.reading


def test_images_beside_the_list_are_read_too(tiny):
    for number in range(6):
        (tiny / f"val/images/val_{number}.png").rename(tiny / f"val/val_{number}.png")
    (tiny / "val/images").rmdir()
    assert open_splits(tiny)[1].ids[0] == "val/val_0.png"


def test_a_part_without_labels_is_refused_by_name(tiny):
    put(tiny / "test/images/test_0.png")
    with pytest.raises(DataError, match=r"neither class folders nor a list .*tiny/test/images"):
        open_items(tiny)
    with pytest.raises(DataError, match=r"test_annotations.txt. say the classes .* Name the parts"):
        open_splits(tiny)
    assert len(open_splits(tiny, test_part="val")[1]) == 6
    put(tiny / "test/1.png")
    (tiny / "test/images/test_0.png").unlink()
    (tiny / "test/images").rmdir()
    with pytest.raises(DataError, match=r"images in .*tiny/test. Name the .*read_as='parts'"):
        open_splits(tiny)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "val_0.png\tn009\n",
            r"line 7 of .*val_annotations.txt is 'val_0.png.tn009'; it should be",
        ),
        ("val_0.png\tn001\n", "line 7 of .* and each file have one class"),
        ("val_9.png\n", "line 7 of .* it should be the name of a file, a tab and one of the cla"),
        ("val_9.png\tn001\n", "val_9.png is in the list of classes, but there is no such file"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error_that_names_the_line(tiny, line, words):
    with (tiny / "val/val_annotations.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=words):
        open_splits(tiny)


def test_an_image_that_the_list_lacks_is_an_error_and_can_be_left_out(tiny):
    put(tiny / "val/images/val_7.png")
    with pytest.raises(DataError, match=r"val_7.png is not in the list that gives each image its"):
        open_splits(tiny)
    learn, judge = open_splits(tiny, skip_bad=True)
    assert (len(judge), len(learn.left_out), judge.left_out) == (6, 1, ())


# --- configurations, generations, mixtures


@pytest.fixture
def hub(tmp_path):
    for config in ("clean", "noisy"):
        folder = tmp_path / "hub" / config
        shard(folder / "train-00000-of-00001.parquet", [0, 1, 1], names=["a", "b"])
        shard(folder / "test-00000-of-00001.parquet", [1, 0], names=["a", "b"])
    return tmp_path / "hub"


def test_a_configuration_is_chosen_by_its_name(hub):
    learn, judge = open_splits(hub, config="noisy")
    assert (len(learn), len(judge)) == (3, 2)
    assert all(item.startswith("noisy/") for item in learn.ids)
    assert "configuration noisy" in learn.reading
    assert len(open_items(hub, config="*")) == 10
    assert len(open_items(hub / "clean")) == 5
    with pytest.raises(DataError, match="has no configuration 'foggy'; it has 'clean', 'noisy'"):
        open_items(hub, config="foggy")


@pytest.mark.parametrize(
    "paths",
    [
        ["clean-train", "noisy-train"],
        ["train-clean", "train-noisy"],
        ["data/clean/train", "data/noisy/train"],
        ["clean/train/0000", "noisy/train/0000"],
        ["train/clean/0000", "train/noisy/0000"],
        ["clean/0000", "noisy/0000"],
    ],
)
def test_configurations_are_found_wherever_their_names_stand(tmp_path, paths):
    for path in paths:
        shard(tmp_path / f"{path}.parquet", [0, 1])
    with pytest.raises(DataError, match=r"2 configurations, .*clean', .*noisy'. Name one: config="):
        open_items(tmp_path)
    assert len(open_items(tmp_path, config="clean")) == 2


def test_shards_of_two_generations_are_refused(tmp_path):
    shard(tmp_path / "train-00000-of-00001-0123456789abcdef.parquet", [0])
    shard(tmp_path / "train-00000-of-00001-fedcba9876543210.parquet", [0])
    with pytest.raises(DataError, match="are shards of one part that was written twice; remove"):
        open_items(tmp_path)
    for old in tmp_path.iterdir():
        old.unlink()
    for name in ("0-of-2", "1-of-2", "2-of-3"):
        shard(tmp_path / f"train-{name}.parquet", [0])
    with pytest.raises(DataError, match="are shards of one part that was written twice; remove"):
        open_items(tmp_path)


def test_parquet_beside_image_folders_is_refused_unless_it_is_said_which(tmp_path):
    put_part(tmp_path)
    shard(tmp_path / "all.parquet", [0, 1])
    with pytest.raises(DataError, match=r"holds Parquet files .all.parquet. and images in folders"):
        open_items(tmp_path)
    assert len(open_items(tmp_path, read_as="parquet")) == 2
    assert len(open_items(tmp_path, read_as="classes")) == 6


def test_names_too_long_to_be_those_of_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"one of 5,000 characters, 'xxx.*Are these the labels\?"):
        open_items(shard(tmp_path / "b.parquet", ["x" * 5000]))


def test_what_is_stated_of_another_kind_of_source_is_refused(tmp_path, hub):
    put_part(tmp_path / "photos")
    with pytest.raises(ConfigurationError, match="has no configurations; config is for Parquet"):
        open_items(tmp_path / "photos", config="clean")
    with pytest.raises(ConfigurationError, match="is a file; read_as = 'classes' is for image fol"):
        open_items(hub / "clean/test-00000-of-00001.parquet", read_as="classes")
    with pytest.raises(DataError, match="has no Parquet file; leave out read_as='parquet'"):
        open_items(tmp_path / "photos", read_as="parquet")
    with pytest.raises(ConfigurationError, match="read_as is 'guess'; Input should be 'auto'"):
        open_items(tmp_path / "photos", read_as="guess")
    with pytest.raises(
        ConfigurationError, match="max_pixels is 0; Input should be greater than or equal to 1"
    ):
        open_items(tmp_path / "photos", max_pixels=0)


# --- columns


@pytest.mark.parametrize("column", ["width", "frame", "identity_count", "split", "coarse_label"])
def test_the_only_column_of_integers_is_not_taken_for_the_labels(tmp_path, column):
    file = shard(tmp_path / "x.parquet", [3, 4], column=column)
    with pytest.raises(DataError, match=rf"known for the labels; .*{column} .*label_column=..."):
        open_items(file)
    assert open_items(file, label_column=column).labels.tolist() == [3, 4]


@pytest.mark.parametrize("column", ["label", "labels", "Label", "class", "target", "category"])
def test_a_column_that_is_called_like_a_label_is_taken_and_told(tmp_path, column):
    items = open_items(shard(tmp_path / "x.parquet", [3, 4], column=column, size=pa.array([1, 2])))
    assert items.labels.tolist() == [3, 4]
    assert f"images in the column 'image', labels in '{column}', ids by file" in items.reading


def test_a_column_that_the_metadata_calls_a_label_is_taken(tmp_path):
    names = ["ann", "bob"]
    items = open_items(shard(tmp_path / "x.parquet", [1, 0], column="who", names=names))
    assert names_in(items) == ["bob", "ann"]


def test_two_columns_that_may_be_the_labels_are_refused(tmp_path):
    file = shard(tmp_path / "x.parquet", [1, 0], target=pa.array([5, 6]))
    with pytest.raises(DataError, match="no single column of labels: target and label may hold"):
        open_items(file)
    assert open_items(file, label_column="target").labels.tolist() == [5, 6]


def test_strings_are_names_and_no_part_shifts_their_numbers(tmp_path):
    shard(tmp_path / "train.parquet", ["dog", "cat", "owl"])
    shard(tmp_path / "test.parquet", ["owl", "dog"])
    learn, judge = open_splits(tmp_path)
    assert learn.class_names == judge.class_names == {0: "cat", 1: "dog", 2: "owl"}
    assert (names_in(learn), names_in(judge)) == (["dog", "cat", "owl"], ["owl", "dog"])
    assert learn.named


def test_strings_in_a_dictionary_and_strings_of_digits_are_labels_too(tmp_path):
    coded = shard(tmp_path / "a.parquet", [0, 0], column="", label=pa.array(["b", "a"]))
    table = pq.read_table(coded)
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, "label", table["label"].dictionary_encode()), coded)
    assert names_in(open_items(coded)) == ["b", "a"]
    assert open_items(shard(tmp_path / "b.parquet", ["10", "9"])).labels.tolist() == [10, 9]


# --- what is passed over


@pytest.mark.parametrize("name", sorted(LEFT_BEHIND | OTHERS))
@pytest.mark.parametrize("upper", [False, True])
def test_what_systems_and_file_servers_leave_behind_is_no_class_and_no_item(tmp_path, name, upper):
    put_part(tmp_path, ["cat", "dog"])
    left = name.upper() if upper else name
    put(tmp_path / left / "cat" / "thumb.png")
    put(tmp_path / "cat" / left / "thumb.png")
    items = open_items(tmp_path)
    assert items.class_names == {0: "cat", 1: "dog"}  # no label has moved
    assert len(items) == 4
    assert sum(one.count for one in items.passed_over) == 2
    assert left in items.reading


def test_leftovers_beside_parts_and_shards_are_no_parts(tmp_path):
    put_part(tmp_path / "photos/train")
    put_part(tmp_path / "photos/test")
    put(tmp_path / "photos/__MACOSX/train/benign/._0.png")
    put(tmp_path / "photos/train/benign/._0.png")
    assert len(open_splits(tmp_path / "photos")[0]) == 6
    shard(tmp_path / "shards/train.parquet", [0, 1])
    shard(tmp_path / "shards/__MACOSX/._train.parquet", [0, 1])
    shard(tmp_path / "shards/.cache/train.parquet", [0, 1])
    (tmp_path / "shards/README.md").write_text("about")
    items = open_items(tmp_path / "shards")
    assert len(items) == 2
    assert "files that are not Parquet: 1 (README.md)" in items.reading
    assert "hidden: 1 (.cache)" in items.reading


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("1.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "is not an image that is read: no image format"),
        ("1.NEF", b"II*\0\x08\0\0\0", "is a raw photo, and only its small preview could be"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, name, content, words):
    put_part(tmp_path, ["cat"])
    (tmp_path / "cat" / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_items(tmp_path)


# --- depth, links, spelling


@pytest.mark.parametrize(
    ("folders", "place"),
    [
        pytest.param(["101_ObjectCategories"], "101_ObjectCategories", id="one-level-too-high"),
        pytest.param(["deep/er/still"], "deep/er/still", id="three-levels-too-high"),
        pytest.param(["data/train", "data/test"], "data", id="parts-in-another-folder"),
        pytest.param(["2023", "2024"], "2023", id="parts-of-other-names"),
        pytest.param(["train/animals", "test/animals"], "train/animals", id="classes-in-parts"),
    ],
)
def test_folders_that_hold_the_class_folders_are_not_taken_for_classes(tmp_path, folders, place):
    for folder in folders:
        put_part(tmp_path / folder)
    words = rf"the class may be the upper or the lower .*, such as {tmp_path / place}\. If the upp"
    with pytest.raises(DataError, match=words):
        open_items(tmp_path)
    items = open_items(tmp_path, read_as="parts" if "animals" in place else "classes")
    assert len(items) == 6 * len(folders)


def test_classes_in_classes_are_refused_unless_each_has_images_of_its_own(tmp_path):
    put_part(tmp_path / "animals", ["cat", "dog"])
    put_part(tmp_path / "vehicles", ["car", "bus"])
    for folder in ("vehicles", "animals"):
        with pytest.raises(DataError, match=r"folder of animals/cat, animals/dog; .*read_as=.clas"):
            open_items(tmp_path)
        put(tmp_path / folder / "1.png")
    items = open_items(tmp_path)
    assert set(items.class_names.values()) == {"animals", "vehicles"}
    assert "8 items lie in folders below their class folder (animals/cat/0.png)" in items.reading


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(["a/cat/1", "a/dog/1", "b/cat/1", "extra/1"], id="parts-of-other-names"),
        pytest.param(["a/cat/1", "a/dog/1", "b/cat/1", "b/1"], id="one-with-an-image-of-its-own"),
        pytest.param(["cat/1", "dog/1", "masks/cat/1"], id="called-like-a-class"),
        pytest.param(["faces/1", "faces/ann/1", "faces/bob/1"], id="one-class-folder-alone"),
        pytest.param(["cat/images/1", "cat/masks/1", "dog/images/1", "x/1"], id="two-in-each"),
        pytest.param(["a/cat/1", "b/cat/1", "c/dog/1"], id="one-in-each-and-one-name-in-two"),
        pytest.param(["a/cat/jpg/1", "b/cat/1", "c/dog/images/1"], id="and-folders-of-files"),
        pytest.param(["a/cat/x/1", "b/cat/y/1", "c/dog/x/1"], id="and-folders-that-differ"),
    ],
)
def test_folders_that_may_be_the_classes_are_refused(tmp_path, images):
    for image in images:
        put(tmp_path / "data" / f"{image}.png")
    with pytest.raises(
        DataError, match=r"may be the upper or the lower folder of .*read_as='classes'"
    ):
        open_items(tmp_path / "data")
    assert len(open_items(tmp_path / "data", read_as="classes")) == len(images)
    for image in images:
        put(tmp_path / "parts/train" / f"{image}.png")
    with pytest.raises(
        DataError, match=r"may be the upper or the lower folder of .*read_as='parts'"
    ):
        open_items(tmp_path / "parts")
    assert len(open_items(tmp_path / "parts", read_as="parts")) == len(images)


@pytest.mark.parametrize(("link", "to"), [("dog", "cat"), ("up", ".."), ("loop", ".")])
def test_a_class_folder_that_leads_back_into_the_data_set_is_refused(tmp_path, link, to):
    put_part(tmp_path, ["cat"])
    (tmp_path / link).symlink_to(to)
    words = rf"{link} is a link that leads back to .*would count twice; remove the link"
    with pytest.raises(DataError, match=words):
        open_items(tmp_path)


@pytest.mark.parametrize("to", ["../dog", "..", "."])
def test_a_link_in_a_class_folder_that_leads_back_brings_no_images_along(tmp_path, to):
    put_part(tmp_path, ["cat", "dog"])
    (tmp_path / "cat" / "friends").symlink_to(to)
    items = open_items(tmp_path)
    assert len(items) == 4
    assert "links that lead back into the data set: 1 (cat/friends)" in items.reading


def test_a_test_part_that_is_the_training_part_is_refused(tmp_path):
    put_part(tmp_path / "train")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(DataError, match=r"leads back to .*train"):
        open_splits(tmp_path)


def test_links_in_a_ring_are_an_error_and_no_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DataError, match=r"a cannot be read: Too many levels of symbolic links"):
        open_items(tmp_path / "a")
    with pytest.raises(DataError, match=r"a cannot be .*: Too many levels of symbolic links"):
        open_items(tmp_path)  # rings where classes should be
    put_part(tmp_path / "photos", ["cat"])
    (tmp_path / "photos/cat/ring").symlink_to("ring")
    with pytest.raises(DataError, match=r"ring .*cannot be read: Too many levels of symbolic"):
        open_items(tmp_path / "photos")


def test_a_class_folder_that_is_gone_is_an_error_and_keeps_its_number(tmp_path):
    put_part(tmp_path, ["b", "c"])
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a cannot be used: .*a cannot be read: No such file"):
        open_items(tmp_path)
    items = open_items(tmp_path, skip_bad=True)
    assert items.class_names == {0: "a", 1: "b", 2: "c"}
    assert set(items.labels.tolist()) == {1, 2}


def test_a_folder_that_may_not_be_read_is_an_error_and_can_be_left_out(tmp_path):
    own = Path(tempfile.gettempdir()).resolve()
    for above in (tmp_path, *tmp_path.parents):
        if own in above.parents:
            above.chmod(0o755)
    put_part(tmp_path, ["cat", "dog", "owl"])
    (tmp_path / "dog").chmod(0)
    with without_the_rights_of_root():
        with pytest.raises(DataError, match=r"dog cannot be read: Permission denied. Give yours"):
            open_items(tmp_path)
        items = open_items(tmp_path, skip_bad=True)
        with pytest.raises(DataError, match=r"dog.*cannot be read: Permission denied"):
            open_items(tmp_path / "dog" / "deeper")
    assert set(names_in(items)) == {"cat", "owl"}
    assert items.class_names == {0: "cat", 1: "dog", 2: "owl"}


def test_names_that_look_the_same_are_refused_and_those_that_differ_in_case_are_told(tmp_path):
    put_part(tmp_path, ["Cat", "cat", "dog"])
    assert "Cat and cat are classes of their own, though alike" in open_items(tmp_path).reading
    put_part(tmp_path / "forms" / "train", ["caf\u00e9", "bar"])
    put_part(tmp_path / "forms" / "test", ["cafe\u0301", "bar"])
    with pytest.raises(DataError, match="the classes 2 and 1 are both called"):
        open_splits(tmp_path / "forms")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "there is no a.b; give 'digits'"),
        (os.fsdecode(b"\xff"), r"there is no .*give 'digits'"),
    ],
)
def test_paths_that_cannot_be_are_an_error(name, words):
    with pytest.raises(DataError, match=words):
        open_items(name)


def test_a_shard_whose_path_is_not_utf_8_is_an_error(tmp_path):
    shard(tmp_path / "x.parquet", [0]).rename(tmp_path / os.fsdecode(b"\xff.parquet"))
    with pytest.raises(DataError, match="is not UTF-8, and payloads are text; rename it"):
        open_items(tmp_path)


def test_a_source_that_is_neither_a_file_nor_a_folder_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is neither a file nor a folder; give one with"):
        open_items(tmp_path / "pipe")
    put(tmp_path / "photo.jpg")
    with pytest.raises(
        DataError, match=r"photo.jpg is not a readable Parquet file: .*image folder"
    ):
        open_items(tmp_path / "photo.jpg")
    folder = tmp_path / os.fsdecode(b"\xff")
    put_part(folder)
    with pytest.raises(DataError, match="is not UTF-8, and payloads are text; rename it"):
        open_items(folder)


# --- labels do not depend on which images can be read


def test_leaving_out_bad_rows_changes_the_labels_of_no_other(tmp_path):
    path = tmp_path / "x.parquet"
    shard(path, ["a", "b", "c"], values=[b"no image", 0, 0])
    items = open_items(path, skip_bad=True)
    assert (items.labels.tolist(), items.class_names) == ([1, 2], {0: "a", 1: "b", 2: "c"})


# --- what was understood is said


def test_a_description_says_what_was_understood(tmp_path):
    put_part(tmp_path / "Training", images=3)
    put_part(tmp_path / "Testing", images=1)
    (tmp_path / "readme.txt").write_text("about")
    told = str(describe_data(tmp_path))
    assert told.splitlines()[1:] == [
        "  12 items of 3 classes: 0 benign, 1 cyst, 2 tumour",
        "  part Training (train): 9 items of 3 classes",
        "  part Testing (test): 3 items of 3 classes",
        "  split: train with Training, test with Testing",
        "  passed over: files beside the class folders: 1 (readme.txt)",
    ]
    fields = describe_data(tmp_path).to_json()
    assert fields["parts"][0] == {"name": "Training", "role": "train", "items": 9, "classes": 3}
    assert fields["class_names"] == {"0": "benign", "1": "cyst", "2": "tumour"}
    assert json.loads(json.dumps(fields)) == fields


def test_a_description_says_why_a_source_cannot_be_divided(tmp_path):
    put_part(tmp_path / "train", ["cat", "dog"])
    put_part(tmp_path / "test", ["cat", "owl"])
    assert "refused: the part test" in describe_data(tmp_path).split
    assert (
        describe_data(tmp_path, Stated(open_set=True)).split == "train with train, test with test"
    )


def test_a_description_of_parquet_names_its_columns(hub):
    description = describe_data(hub, Stated(config="clean"))
    columns = {"image": "image", "label": "label", "id": None, "text": None}
    assert description.to_json()["columns"] == columns
    assert (description.kind, description.config) == ("image Parquet", "clean")
    assert [str(part) for part in description.parts] == [
        "train: 3 items of 2 classes",
        "test: 2 items of 2 classes",
    ]


def test_info_tells_of_images_what_was_understood(tmp_path, hub):
    put_part(tmp_path / "photos")
    put(tmp_path / "photos" / "@eaDir" / "1.jpg")
    result = run("info", tmp_path / "photos", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["kind"], answer["items"]) == (0, "images", 6)
    assert answer["passed_over"][0]["example"] == "@eaDir"
    assert run("info", "digits").stdout.startswith(
        "digits: the bundled digits\n  1,797 items of 10"
    )
    assert run("info", hub, "--config", "clean").exit_code == 0
    assert "configurations" in str(run("info", hub).exception)


def test_info_refuses_options_for_images_where_there_are_none(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    told = str(run("info", tmp_path / "model", "--skip-bad").exception)
    assert "model holds no images, and these options say how images are read; leave them" in told


def test_every_option_of_a_source_is_an_option_of_the_commands():
    assert set(DataOptions.model_fields) == set(vars(Stated()))
    for command in ("train", "embed", "report", "demo", "info"):
        told = run(command, "--help").stdout
        for name in DataOptions.model_fields:
            assert f"--{name.replace('_', '-')}" in told, (command, name)


def test_a_command_says_in_one_line_what_it_read(tmp_path):
    put_part(tmp_path / "photos")
    model = ["--objective", "none", "--size", "8", "--dim", "4", "--width", "4"]
    trained = run("train", tmp_path / "photos", tmp_path / "m", *model)
    line = "read 3 items of 3 classes from "
    assert [one for one in trained.stderr.splitlines() if one.startswith(line)] == [
        f"{line}{tmp_path}/photos: image folder; classes benign, cyst, tumour; a quarter of each "
        "class, chosen by a digest of the id, is for testing"
    ]
    made = run("embed", tmp_path / "m", tmp_path / "photos", tmp_path / "e.parquet")
    assert f"read 6 items of 3 classes from {tmp_path}/photos: image folder" in made.stderr
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"id": "a", "path": str(tmp_path / "photos/cyst/0.png")}))
    made = run("embed", tmp_path / "m", listed, tmp_path / "l.parquet")
    assert f"read 1 items from {listed}: list of images; their classes are not known" in made.stderr


def test_images_without_classes_are_told_the_way_there_is(tmp_path):
    put(tmp_path / "IMG_1.jpg")
    words = r"no class folders; .* sub-folder a class .*; images .*\"id\": .* in a .jsonl file, and"
    with pytest.raises(DataError, match=words):
        open_items(tmp_path)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("cars_train", "cars_test"),
        ("bounding_box_train", "bounding_box_test", "query"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
    ],
)
def test_folders_that_may_be_parts_are_not_taken_for_classes(tmp_path, names, divided):
    for name in names:
        put_part(tmp_path / name if divided else tmp_path, CLASSES if divided else [name])
    with pytest.raises(DataError, match=r"may be parts of a data set.* train_part=.*read_as='clas"):
        open_items(tmp_path)
    assert len(open_items(tmp_path, read_as="classes").classes) == len(names)
    if divided:
        learn, judge = open_splits(tmp_path, train_part=names[0], test_part=names[1])
        assert names_in(learn) == names_in(judge)


@pytest.mark.parametrize(
    "names", [("train_station", "bullet_train", "test_tube"), ("documents", "images")]
)
def test_classes_may_have_the_word_of_a_part_or_of_a_file_in_their_names(tmp_path, names):
    put_part(tmp_path, names)
    assert len(open_items(tmp_path).classes) == len(names)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(["a/pictures/1", "b/pictures/1"], id="one-name-in-all"),
        pytest.param(["a/images/1", "b/images/1", "c/img/1"], id="called-after-the-files"),
        pytest.param(["ann/paris/1", "bob/rome/1", "eve/oslo/1"], id="one-of-its-own-in-each"),
        pytest.param(["a/beach/1", "b/beach/1", "c/1"], id="none-in-one"),
    ],
)
def test_a_folder_that_holds_all_images_of_its_class_is_no_class(tmp_path, images):
    for image in images:
        put(tmp_path / f"{image}.png")
    assert names_in(open_items(tmp_path)) == [image.split("/")[0] for image in images]


@pytest.mark.parametrize("inner", ["", "train", "val"])
@pytest.mark.parametrize("names", [("images",), ("images", "masks"), ("Images", "labels")])
def test_folders_called_after_the_files_in_them_are_not_taken_for_classes(tmp_path, names, inner):
    put_part(tmp_path / inner, names)
    with pytest.raises(DataError, match=r"name the kind of their files, not a class.*read_as="):
        open_items(tmp_path)
    read_as = "parts" if inner else "classes"
    assert len(open_items(tmp_path, read_as=read_as).classes) == len(names)


def test_a_part_without_known_labels_is_refused_with_the_options_that_name_others(tmp_path):
    for part, labels in (("train", [0, 1]), ("validation", [0, 1]), ("test", [-1, -1])):
        shard(tmp_path / f"{part}.parquet", labels)
    with pytest.raises(
        DataError,
        match=r"none of the items in the part test of .* has a label, .* with labels: train_part=",
    ):
        open_splits(tmp_path)
    learn, judged = open_splits(tmp_path, train_part="train", test_part="validation")
    assert len(learn) == len(judged) == 2
    assert open_items(tmp_path / "test.parquet").labels.tolist() == [-1, -1]  # to be embedded


# --- what is in class folders


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
    with pytest.raises(DataError, match=r"cat/pipe.png is not a file with an image in it"):
        open_items(folder)
    assert open_items(folder, skip_bad=True).ids == ("cat/0.png",)


def test_a_name_that_is_not_utf_8_is_an_error_and_can_be_left_out(folder):
    put_part(folder, ["cat"], images=1)
    (folder / "cat" / "0.png").rename(folder / "cat" / os.fsdecode(b"\xff.png"))
    put_part(folder, ["cat"], images=1)
    with pytest.raises(DataError, match=" has a name that is not UTF-8, and ids are text; rename"):
        open_items(folder)
    items = open_items(folder, skip_bad=True)
    assert items.ids == ("cat/0.png",)
    told = str(items.left_out[0]).encode().decode()  # can be written
    assert told.endswith("has a name that is not UTF-8, and ids are text; rename it")
    (folder / "cat").rename(folder / os.fsdecode(b"\xff"))
    put_part(folder, ["dog"], images=1)
    with pytest.raises(
        DataError, match=r"the name of class 1 is '.*'; class names are strings in UTF-8"
    ):
        open_items(folder, skip_bad=True)


def test_payloads_open_from_any_working_directory(folder, tmp_path, monkeypatch):
    put_part(folder, ["cat"], images=1)
    monkeypatch.chdir(tmp_path)
    items = open_items("photos")
    monkeypatch.chdir("/")
    assert items.payloads[0] == {"path": str(folder / "cat" / "0.png")}
    assert items.open(0).size == (6, 6)


def test_a_file_without_an_image_suffix_counts_by_its_content(folder):
    put_part(folder, ["cat"], images=1)
    (folder / "cat" / "0.png").rename(folder / "cat" / "picture")
    assert open_items(folder).ids == ("cat/picture",)
    (folder / "cat" / "notes.doc").write_text("two cats")
    with pytest.raises(
        DataError, match=r"notes.doc is not an image that is read: no image f.*; mend or remove"
    ):
        open_items(folder)


def test_bad_files_are_left_out_and_told_if_asked_for(folder):
    put_part(folder, ["cat", "dog"], images=1)
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.png").write_text("not an image")
    items = open_items(folder)  # what is in them shows where they are opened
    for row in (1, 3):
        with pytest.raises(DataError, match=rf"{items.ids[row]} cannot be read as an image"):
            items.open(row)
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "fox").mkdir()
    with pytest.raises(DataError, match=r"cat/empty.jpg cannot .* has 0 bytes.*skip_bad=True"):
        open_items(folder)
    items = open_items(folder, skip_bad=True)
    assert items.ids == ("cat/0.png", "dog/0.png")
    told = {str(left.where).removeprefix(f"{folder}/"): left.why for left in items.left_out}
    assert set(told) == {"cat/cut.png", "cat/empty.jpg", "dog/gone.png", "dog/text.png", "fox"}
    assert told["cat/empty.jpg"] == "cannot be read as an image: it has 0 bytes"
    assert told["dog/text.png"].startswith("cannot be read as an image: no image format was rec")
    assert told["fox"] == "holds no image, as a class folder must"
    (folder / "ant").mkdir()
    items = open_items(folder, skip_bad=True)  # no label depends on which images can be read
    assert items.class_names == {0: "ant", 1: "cat", 2: "dog", 3: "fox"}
    assert items.labels.tolist() == [1, 2]


def test_a_folder_of_which_nothing_is_left_is_an_error(folder):
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no item; the first of 1 left out is .*cat/1.png"):
        open_items(folder, skip_bad=True)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "01", "2"], r"'01' and '1' among the class folders of .* both mean class 1; put"),
        (["7", "1" * 21], rf"'{'1' * 21}' among .* is a number, and numbers are labels, at most"),
    ],
)
def test_numbers_that_no_label_can_be_are_refused(folder, names, words):
    put_part(folder, names, images=1)
    with pytest.raises(DataError, match=words):
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
