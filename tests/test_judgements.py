"""Qrels, pairs to ignore and pairs to verify: what is read from files, and what is refused."""

import re

import pytest

from onward.errors import EvaluationError
from onward.evaluation.judgements import read_ignored, read_pairs, read_qrels

QRELS = {"q1": {"d2": 1, "d3": 2}, "q2": {"d3": 0}}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("q1 0 d2 1\nq1 0 d3 2\nq2 0 d3 0\n", id="trec"),
        pytest.param("q1\t0\td2\t1\nq1\tQ0\td3\t2\nq2\t0\td3\t0", id="tabs"),
        pytest.param("q1 0\td2   1\n\n  q1 0 d3 2  \n\t\nq2 0 d3 0\n", id="mixed-and-blank-lines"),
        pytest.param("\ufeffq1 0 d2 +1\r\nq1 0 d3 2\r\nq2 0 d3 0\r\n", id="windows"),
        pytest.param("query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td3\t2\nq2\td3\t0\n", id="beir"),
        pytest.param("q1 0 d2 1\nq1 0 d3 2\nq2 0 d3 0\nq1 0 d2 1\n", id="the-same-twice"),
    ],
)
def test_qrels_are_read(text, tmp_path):
    file = tmp_path / "qrels"
    file.write_bytes(text.encode())
    assert read_qrels(file) == QRELS


def test_ids_may_hold_spaces_where_tabs_split(tmp_path):
    file = tmp_path / "qrels.tsv"
    file.write_text("my cat\t0\tphotos/a b.jpg\t-1\n")
    assert read_qrels(file) == {"my cat": {"photos/a b.jpg": -1}}
    file.write_text("query-id\tcorpus-id\tscore\nmy cat\tphotos/a b.jpg\t3\n")
    assert read_qrels(file) == {"my cat": {"photos/a b.jpg": 3}}


def test_a_beir_folder_is_read_where_it_holds_one_file_of_qrels(tmp_path):
    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("{}")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (folder / "qrels" / "._test.tsv").write_text("left by a file server")
    assert read_qrels(folder) == read_qrels(folder / "qrels") == {"q": {"d": 1}}
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    with pytest.raises(
        EvaluationError, match=r"holds 2 \.tsv files: test.tsv, train.tsv; give the"
    ):
        read_qrels(folder)
    with pytest.raises(
        EvaluationError, match=r"holds 0 \.tsv files; give the file of qrels itself"
    ):
        read_qrels(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "q1 0 d2 1\nq1 d3 2\n",
            "line 2 of FILE is 'q1 d3 2'; TREC's qrels have four",
            id="three-columns",
        ),
        pytest.param("q1\td2\t1\n", "BEIR's have three, split by tabs, under the", id="no-header"),
        pytest.param("q1 0 d2 1 x\n", "line 1 of FILE is 'q1 0 d2 1 x'", id="five-columns"),
        pytest.param("\t0\td2\t1\n", "line 1 of FILE is", id="empty-id"),
        pytest.param(
            "query-id\tcorpus-id\tscore\nq1 d2 1\n",
            "line 2 of FILE is 'q1 d2 1'; TREC's",
            id="beir-with-spaces",
        ),
        pytest.param(
            "q1 0 d2 1.0\n",
            "line 1 of FILE gives item 'd2' the grade '1.0'; grades are whole numbers",
            id="grade-with-point",
        ),
        pytest.param("q1 0 d2 \u0661\n", "grades are whole numbers", id="other-digits"),
        pytest.param("q1 0 d2 99999999999\n", "grades are whole numbers", id="grade-too-long"),
        pytest.param(
            "q1 0 d2 1\nq1 0 d2 2\n",
            "line 2 of FILE gives item 'd2' the grade 2 for query 'q1', and an earlier line the "
            "grade 1; give each pair one grade",
            id="two-grades",
        ),
        pytest.param("", "FILE holds no judgements", id="empty"),
        pytest.param("query-id\tcorpus-id\tscore\n", "FILE holds no judgements", id="header-alone"),
    ],
)
def test_what_is_no_qrels_is_named_with_its_line(text, words, tmp_path):
    file = tmp_path / "qrels.txt"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=re.escape(words.replace("FILE", str(file)))):
        read_qrels(file)


@pytest.mark.parametrize("read", [read_qrels, read_ignored, read_pairs])
def test_a_file_that_is_missing_or_no_text_is_named(read, tmp_path):
    (tmp_path / "binary").write_bytes(b"q1 0 d\xff 1\n")
    for name, why in (("gone", "No such file"), ("binary", ".*0xff")):
        words = f"{name} cannot be read: {why}.*; give a text in UTF-8"
        with pytest.raises(EvaluationError, match=words):
            read(tmp_path / name)


def test_pairs_to_ignore_are_read(tmp_path):
    file = tmp_path / "ignored"
    file.write_text("q0 g0\nq0\tg 1\n\nq1   g0\nq0 g0\n")
    assert read_ignored(file) == {"q0": {"g0", "g 1"}, "q1": {"g0"}}
    file.write_text("q0 g0\nq0 g0 1\n")
    words = "line 2 of .*ignored is 'q0 g0 1'; give the id of a query and the id of an item"
    with pytest.raises(EvaluationError, match=words):
        read_ignored(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("pairs.txt", "a b 1\na c different\n", id="spaces"),
        pytest.param("pairs", "a\tb\tSame\na\tc\t0\n", id="tabs"),
        pytest.param("pairs.csv", 'a,b,1\n"a","c", 0\n', id="commas"),
    ],
)
def test_pairs_to_verify_are_read(name, text, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    assert read_pairs(file) == [("a", "b", True), ("a", "c", False)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "id,other,same?\n", "line 1 of FILE is 'id,other,same?'; give two ids", id="head"
        ),
        pytest.param("a,b,1\na,b\n", "line 2 of FILE is 'a,b'; give two ids", id="two-columns"),
        pytest.param("a,b,2\n", "are the same (1, same, 0 or different)", id="another-verdict"),
        pytest.param(",b,1\n", "line 1 of FILE", id="empty-id"),
        pytest.param("\n", "FILE holds no pairs; give one a line", id="empty"),
    ],
)
def test_what_is_no_pair_is_named_with_its_line(text, words, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=re.escape(words.replace("FILE", str(file)))):
        read_pairs(file)
