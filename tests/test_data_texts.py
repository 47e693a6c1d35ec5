"""Texts as items: BEIR folders, lines of JSON, columns of Parquet."""

import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer
from pictures import put_part

from onward.data import describe_data, open_items, open_payload, open_splits, open_text
from onward.data.payloads import find_fault, with_digest
from onward.errors import ConfigurationError, DataError, GalleryError

CLAIMS = [
    {"_id": "d2", "title": "Ice", "text": "Ice floats.", "metadata": {"year": 1990}},
    {"_id": "d1", "title": "", "text": "Iron sinks."},
]


def put_lines(path, lines, opened=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


@pytest.fixture
def beir(tmp_path):
    put_lines(tmp_path / "beir/corpus.jsonl", CLAIMS)
    put_lines(tmp_path / "beir/queries.jsonl", [{"_id": "q1", "text": "What floats?"}])
    (tmp_path / "beir/qrels").mkdir()
    (tmp_path / "beir/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    return tmp_path / "beir"


def texts_of(items):
    return [items.text(row) for row in range(len(items))]


def test_the_items_of_a_beir_folder_are_its_corpus_with_titles_before_texts(beir):
    items = open_items(beir)
    assert items.ids == ("d2", "d1")
    assert texts_of(items) == ["Ice Ice floats.", "Iron sinks."]
    assert items.payloads == ({"title": "Ice", "text": "Ice floats."}, {"text": "Iron sinks."})
    assert (items.labels.tolist(), items.classes, items.known_names) == ([-1, -1], (), None)
    assert str(items) == f"2 items from {beir}"
    assert items.reading == (
        "BEIR folder; passed over: files beside the items: 2 (queries.jsonl, ...); "
        "their classes are not known"
    )
    assert texts_of(open_items(beir / "queries.jsonl")) == ["What floats?"]


@pytest.mark.parametrize(("suffix", "opened"), [("gz", gzip.open), ("xz", lzma.open)])
def test_a_compressed_corpus_gives_the_same_items(beir, suffix, opened):
    plain = open_items(beir)
    (beir / "corpus.jsonl").unlink()
    path = put_lines(beir / f"corpus.jsonl.{suffix}", CLAIMS, opened)
    for items in (open_items(beir), open_items(path)):
        assert (items.ids, items.payloads) == (plain.ids, plain.payloads)
        assert items.digest == plain.digest
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(GalleryError, match=rf"corpus\.jsonl\.{suffix} cannot be decompressed: "):
        open_items(beir)


def test_lines_have_an_id_and_a_text_and_may_mix_with_images(tmp_path):
    lines = [{"id": "a", "text": "One."}, {"id": "b", "digits": 3}]
    items = open_items(put_lines(tmp_path / "mixed.jsonl", lines))
    assert (items.text(0), items.open(1).size) == ("One.", (8, 8))
    with pytest.raises(DataError, match=r"the text 'One.' is a text, and an image is needed; use"):
        items.open(0)
    with pytest.raises(DataError, match="digits, row 3 is an image, and a text is needed; use a"):
        items.text(1)


def test_another_text_is_another_digest(tmp_path):
    one, other = (
        open_items(put_lines(tmp_path / f"{text}.jsonl", [{"id": "a", "text": text}]))
        for text in ("one", "two")
    )
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": "b", "text": " "}, r"item 'b' of .*x\.jsonl is empty; mend or remove it, or leave"),
        ({"id": "b", "text": None}, "item 'b' of .* is empty"),
        ({"id": "b", "text": 7}, "item 'b' of .* has 7 as 'text', which is not text"),
        ({"id": "b", "text": "t", "title": ["t"]}, "item 'b' of .* has .* as 'title', which is no"),
    ],
)
def test_a_line_without_a_text_is_an_error_that_names_the_item_or_is_left_out(
    tmp_path, line, words
):
    path = put_lines(tmp_path / "x.jsonl", [{"id": "a", "text": "One."}, line])
    with pytest.raises(DataError, match=words):
        open_items(path)
    items = open_items(path, skip_bad=True)
    assert (items.ids, len(items.left_out)) == (("a",), 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            {"_id": 3, "text": "t"},
            r"line 1 of .*x\.jsonl is not a JSON object with a string as `id",
        ),
        ({"text": "t"}, "line 1 of .* is not a JSON object with a string as `id`"),
    ],
)
def test_a_line_without_an_id_is_an_error_that_names_it(tmp_path, line, words):
    with pytest.raises(GalleryError, match=words):
        open_items(put_lines(tmp_path / "x.jsonl", [line]))


def test_texts_have_no_columns_splits_or_classes(beir):
    with pytest.raises(ConfigurationError, match="has no columns; image_column, text_column, lab"):
        open_items(beir, text_column="text")
    with pytest.raises(DataError, match=r"none of the items of .*beir has a label, and a split"):
        open_splits(beir)
    with pytest.raises(DataError, match=r"no item of .*beir has a class; do not choose by classes"):
        open_items(beir).of_classes([0])
    with pytest.raises(ConfigurationError, match=r"corpus\.jsonl is a file; read_as = 'parts' is"):
        open_items(beir / "corpus.jsonl", read_as="parts")


def test_a_corpus_beside_images_is_refused_until_it_is_said_what_is_meant(beir):
    (beir / "qrels/test.tsv").unlink()
    (beir / "qrels").rmdir()
    put_part(beir, ("cat", "dog"))
    words = r"holds texts \(corpus\.jsonl\) and other items \(cat/.*give the file .*corpus\.jsonl"
    with pytest.raises(DataError, match=words):
        open_items(beir)
    assert open_items(beir, read_as="classes").classes == (0, 1)
    assert open_items(beir / "corpus.jsonl").ids == ("d2", "d1")


# Parquet


def put_table(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


TEXTS = ["One.", "Two.", "Three."]


def test_the_column_called_text_holds_the_items_where_there_are_no_images(tmp_path):
    items = open_items(put_table(tmp_path / "t.parquet", _id=["x", "y", "z"], text=TEXTS))
    assert (items.ids, texts_of(items)) == (("x", "y", "z"), TEXTS)
    assert items.payloads[2] == {"file": str(tmp_path / "t.parquet"), "row": 2, "column": "text"}
    assert items.reading == (
        "text Parquet; texts in the column 'text', ids by the column '_id'; "
        "their classes are not known"
    )
    with pytest.raises(DataError, match=r"t\.parquet, row 1 is a text, and an image is needed"):
        open_payload(items.payloads[1])


def test_texts_may_have_labels_and_another_column_is_named(tmp_path):
    path = put_table(tmp_path / "t.parquet", body=TEXTS, label=["b", "a", "b"])
    items = open_items(path, text_column="body")
    assert (texts_of(items), items.labels.tolist()) == (TEXTS, [1, 0, 1])
    assert items.ids == ("t/000000", "t/000001", "t/000002")
    with pytest.raises(DataError, match=r"no single image column, .*body \(string\), label"):
        open_items(path)
    with pytest.raises(DataError, match="has no column 'words'; its columns are body"):
        open_items(path, text_column="words")
    with pytest.raises(ConfigurationError, match="both stated; items are images or texts"):
        open_items(path, text_column="body", image_column="label")
    number = put_table(tmp_path / "n.parquet", body=[1, 2])
    with pytest.raises(DataError, match=r"column 'body' of .* is int64; texts need strings"):
        open_items(number, text_column="body")


def test_an_empty_or_null_cell_is_named_or_left_out(tmp_path):
    path = put_table(tmp_path / "t.parquet", text=["One.", "", None])
    items = open_items(path)
    with pytest.raises(DataError, match=r"t\.parquet, row 1 is empty; leave it out: skip_bad"):
        items.text(1)
    with pytest.raises(DataError, match=r"row 2 holds nothing: its cell is null"):
        items.text(2)
    assert open_items(path, skip_bad=True).ids == ("t/000000",)


def test_a_cell_that_has_changed_is_noticed_and_a_text_in_its_payload_cannot_change(tmp_path):
    path = put_table(tmp_path / "t.parquet", text=TEXTS)
    payload = with_digest(open_items(path).payloads[0])
    assert (open_text(payload), len(payload["sha256"])) == ("One.", 64)
    put_table(path, text=["Won.", "Two.", "Three."])
    assert "has changed since its payload was written" in find_fault(payload)
    with pytest.raises(DataError, match="put the text back, or update the item, whose other"):
        open_text(payload)
    assert with_digest({"text": "One."}) == {"text": "One."}


# Commands


def test_a_description_says_that_the_items_are_texts(beir, tmp_path):
    told = describe_data(beir)
    assert (told.kind, told.holds, told.items, told.class_names) == ("BEIR folder", "texts", 2, {})
    assert told.split.startswith("refused: none of the items of ")
    lines = str(told).splitlines()
    assert lines[:2] == [f"{beir}: BEIR folder", "  2 items"]
    for source, layout in ((beir, "BEIR folder"), (beir / "corpus.jsonl", "list of texts")):
        said = json.loads(answer("info", source, "--json"))
        assert (said["kind"], said["layout"], said["items"]) == ("texts", layout, 2)
    table = put_table(tmp_path / "t.parquet", body=TEXTS)
    said = json.loads(answer("info", table, "--text-column", "body", "--json"))
    assert (said["kind"], said["columns"]["text"]) == ("texts", "body")
