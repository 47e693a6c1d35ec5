"""`onward evaluate` and `onward compare`: qrels, ignored pairs, cameras, pairs to verify."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from typer.testing import CliRunner

from onward.cli.app import app
from onward.errors import (
    ConfigurationError,
    EmbeddingsError,
    EvaluationError,
    LabelMismatchError,
    SpaceMismatchError,
)
from onward.spaces import Embeddings, Space

LINE = Space("line@1", 1)


def answer(*words):
    return json.loads(run(*words, "--json").stdout)


def save(path, places, ids, labels=None, *, space=LINE, cameras=None, class_names=None):
    vectors = np.array(places, np.float32)[:, None]
    labels = None if labels is None else np.array(labels)
    Embeddings(tuple(ids), vectors, space, labels, class_names).save(path)
    if cameras is not None:
        table = pq.read_table(path)
        pq.write_table(table.append_column("camera", pa.array(cameras)), path)
    return path


@pytest.fixture
def people(tmp_path):
    """One query and six images of three people by three cameras, as in Market-1501."""
    queries = save(tmp_path / "queries.parquet", [0], ["q0"], [1], cameras=[1])
    gallery = save(
        tmp_path / "gallery.parquet",
        [0.1, 5, 9, 2, 7, 1],
        [f"g{row}" for row in range(6)],
        [1, 1, 1, 2, 2, 3],
        cameras=[1, 2, 3, 1, 2, 2],
    )
    return queries, gallery, "--include-self"


@pytest.fixture
def asked(tmp_path):
    """Two queries, four items without labels, and graded qrels in which d3 is wanted by both."""
    queries = save(tmp_path / "queries.parquet", [0, 3], ["q1", "q2"])
    gallery = save(tmp_path / "gallery.parquet", [0, 1, 2, 3], ["d1", "d2", "d3", "d4"])
    (tmp_path / "qrels").write_text("q1 0 d2 1\nq1 0 d3 2\nq2 0 d3 1\nq2 0 d4 2\n")
    return queries, gallery, "--include-self"


RIGHT = (1 / 3 + 2 / 5) / 2  # g0 (ignored) g5 g3 g1* g4 g2*


def test_what_the_own_camera_took_is_ignored(people):
    found = answer("evaluate", *people, "--camera-column", "camera")
    assert (found["map"], found["cmc@1"]) == (pytest.approx(RIGHT), 0)
    assert answer("evaluate", *people)["cmc@1"] == 1


def test_pairs_of_a_file_are_ignored(people, tmp_path):
    (tmp_path / "junk").write_text("q0 g0\n")
    found = answer("evaluate", *people, "--ignored", tmp_path / "junk")
    assert found["map"] == pytest.approx(RIGHT)
    (tmp_path / "junk").write_text("q0 g0\nq0 gone\nq9 g0\n")
    words = ["evaluate", *people, "--ignored", tmp_path / "junk"]
    with pytest.raises(EvaluationError, match="1 of 2 pairs to ignore name an item that is not"):
        run(*words)
    found = answer(*words, "--ignore-unknown")
    assert found["map"] == pytest.approx(RIGHT)
    assert found["left_out"] == {"ignored_queries": 1, "ignored_items": 1}


def test_a_camera_that_is_missing_is_named(people, tmp_path):
    words = ["evaluate", *people, "--camera-column"]
    with pytest.raises(
        EmbeddingsError, match=r"queries.parquet has no column 'cam'; it has id, ve"
    ):
        run(*words, "cam")
    save(tmp_path / "queries.parquet", [0], ["q0"], [1], cameras=pa.array([None], pa.int64()))
    with pytest.raises(EvaluationError, match="the camera of query 'q0' is None"):
        run(*words, "camera")
    save(tmp_path / "queries.parquet", [0], ["q0"], [1], cameras=["1"])
    with pytest.raises(
        EvaluationError, match="the camera of gallery item 'g0' is 1; give every query and"
    ):
        run(*words, "camera")


def test_cameras_are_read_by_id_from_a_folder_of_files(people, tmp_path):
    queries, gallery, _ = people
    folder = tmp_path / "shards"
    folder.mkdir()
    table = pq.read_table(gallery)
    pq.write_table(table.slice(3), folder / "a.parquet")
    pq.write_table(table.slice(0, 3), folder / "b.parquet")
    found = answer("evaluate", queries, folder, "--include-self", "--camera-column", "camera")
    assert found["map"] == pytest.approx(RIGHT)


@pytest.mark.parametrize("layout", ["trec", "beir"])
def test_qrels_say_what_each_query_looks_for(asked, tmp_path, layout):
    qrels = tmp_path / "qrels"
    if layout == "beir":
        lines = [line.split() for line in qrels.read_text().splitlines()]
        qrels = tmp_path / "beir" / "qrels"
        qrels.mkdir(parents=True)
        text = "\n".join("\t".join([query, item, grade]) for query, _, item, grade in lines)
        (qrels / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{text}\n")
        qrels = tmp_path / "beir"
    metrics = "ndcg@2, recall@2,map,mrr@10"
    found = answer("evaluate", *asked, "--qrels", qrels, "--metrics", metrics)
    gained = (1 / np.log2(3)) / (2 + 1 / np.log2(3))
    assert found == {
        "ndcg@2": pytest.approx((gained + 1) / 2),
        "recall@2": 3 / 4,
        "map": pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2),
        "mrr@10": 3 / 4,
        "queries": 2,
        "skipped": 0,
        "next_steps": [],
    }
    shown = run("evaluate", *asked, "--qrels", qrels, "--metrics", metrics).stdout.splitlines()
    assert shown[0].split() == ["(percent)", "ndcg@2", "recall@2", "map", "mrr@10"]
    assert shown[1].split()[1] == "75.0"


def test_qrels_of_items_that_the_gallery_lacks_are_refused_or_counted(asked, tmp_path):
    (tmp_path / "qrels").write_text("q1 0 d2 1\nq1 0 d9 1\nq7 0 d1 1\n")
    words = ["evaluate", *asked, "--qrels", tmp_path / "qrels"]
    with pytest.raises(EvaluationError, match="1 of 2 qrels name an item that is not among the 4"):
        run(*words)
    left = answer(*words, "--ignore-unknown")
    assert left["left_out"] == {"qrels_queries": 1, "qrels_items": 1}
    assert (left["queries"], left["skipped"]) == (1, 1)
    shown = run(*words, "--ignore-unknown").stdout
    assert "1 relevant items in the qrels are not in the gallery: left out." in shown
    assert "1 queries in the qrels are not among those asked: left out." in shown


def test_unknown_labels_are_counted_and_labels_without_names_are_told(tmp_path):
    queries = save(tmp_path / "q.parquet", [0, 1], ["p", "q"], [1, -1])
    gallery = save(tmp_path / "g.parquet", [0, 1, 2], "abc", [-1, 1, 2])
    result = run("evaluate", queries, gallery, "--include-self", "--json")
    found = json.loads(result.stdout)
    assert found["left_out"] == {"queries_without_label": 1, "items_without_label": 1}
    assert (found["queries"], found["map"]) == (1, 1 / 2)
    assert "labels without class names: the same number is taken to mean the same" in result.stderr


def test_labels_of_the_same_items_need_no_word_unless_they_differ(tmp_path):
    one = save(tmp_path / "one.parquet", [0, 1, 2], "abc", [0, 1, 1])
    words = ["evaluate", one, one, "--exclude-self"]
    assert "class names" not in run(*words).stderr
    other = save(tmp_path / "other.parquet", [0, 1, 2], "abc", [1, 0, 0])
    assert "labels without class names" in run("evaluate", one, other, "--exclude-self").stderr
    assert "labels without class names" in run(*words[:2], other, "--far=1", words[3]).stderr


def test_class_names_on_one_side_alone_need_the_numbering_stated(tmp_path):
    names = {0: "cat", 1: "owl"}
    queries = save(tmp_path / "q.parquet", [0], ["q"], [1], class_names=names)
    gallery = save(tmp_path / "g.parquet", [0, 1], "ab", [1, 0])
    words = ["evaluate", queries, gallery, "--include-self"]
    for more in ([], ["--far", "1"]):
        result = CliRunner().invoke(app, [str(each) for each in (*words, *more)])
        assert isinstance(result.exception, LabelMismatchError)
        assert "the classes of the queries have names" in str(result.exception)
        assert "taken to mean the same class" not in result.stderr  # for it is refused
        assert "class names" not in run(*words, *more, "--same-labels").stderr  # for it is stated
    assert answer(*words, "--same-labels")["cmc@1"] == 1
    assert answer(*words, "--same-labels", "--far", "1")["same_pairs"] == 1


def test_that_the_spaces_differ_is_said_before_what_the_labels_lack(tmp_path):
    queries = save(tmp_path / "q.parquet", [0], ["q"], [1], class_names={1: "owl"})
    gallery = save(tmp_path / "g.parquet", [0], "a", [1], space=Space("blind@1", 1))
    with pytest.raises(SpaceMismatchError, match="the queries are in line@1"):
        run("evaluate", queries, gallery, "--include-self")


@pytest.fixture
def faces(tmp_path):
    """Same label: 1, 2, 8, 9. Different labels: 1, 3, 9, 10, 11, 12."""
    ids = ["ann-1", "ann-2", "ann-3", "bob-1", "bob-2"]
    return save(tmp_path / "faces.parquet", [0, 1, 9, 10, 12], ids, [0, 0, 0, 1, 1])


def test_tar_at_far_over_all_pairs(faces):
    words = ["evaluate", faces, faces, "--exclude-self", "--far", "0.2", "--far", "0.4"]
    found = answer(*words, "--far", "1e-3")
    assert (found["tar@0.2"], found["tar@0.4"], found["tar@0.001"]) == (2 / 4, 3 / 4, None)
    assert (found["same_pairs"], found["different_pairs"]) == (4, 6)
    shown = run(*words).stdout
    assert "20   50.0   3" in shown
    assert "4 pairs of the same label, 6 of different labels." in shown


def test_tar_at_far_over_a_list_of_pairs(faces, tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "ann-1,ann-2,same\nbob-2,bob-1,same\nann-1,ann-3,same\nann-3,bob-1,0\nann-1,bob-1,0\n"
    )  # same: 1, 2, 9; different: 1, 10
    words = ["evaluate", faces, faces, "--exclude-self", "--far", "0.5"]
    found = answer(*words, "--pairs", tmp_path / "pairs.csv")
    assert found["tar@0.5"] == 1
    assert found["limits"] == {"0.5": 10}
    assert (found["same_pairs"], found["different_pairs"]) == (3, 2)
    (tmp_path / "pairs.csv").write_text("ann-1,carl,same\n")
    with pytest.raises(
        EvaluationError, match="1 of 1 pairs name an item that the embeddings of the"
    ):
        run(*words, "--pairs", tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--pairs", "p"], "--pairs needs --far; say at which false", id="pairs"),
        pytest.param(
            ["--far", "1", "--pairs", "x", "--same-labels"],
            "no effect with --pairs",
            id="pairs-labels",
        ),
        pytest.param(["--far", "1", "--metrics", "map"], "--metrics is about search", id="metrics"),
        pytest.param(["--far", "1", "--qrels", "x"], "--qrels is about search", id="qrels"),
        pytest.param(["--far", "1", "--ignored", "x"], "--ignored is about search", id="ignored"),
        pytest.param(
            ["--far", "1", "--camera-column", "x"], "--camera-column is about", id="camera"
        ),
        pytest.param(["--ignore-unknown"], "--ignore-unknown needs --", id="unknown"),
        pytest.param(["--qrels", "x", "--same-labels"], "--same-labels has no effect", id="labels"),
    ],
)
def test_options_that_would_say_nothing_are_refused(faces, options, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        run("evaluate", faces, faces, "--exclude-self", *options)


def test_rates_and_metrics_that_do_not_exist_are_refused(faces):
    words = ["evaluate", faces, faces, "--exclude-self"]
    for far in ("0", "1.5", "nan", "-1"):
        with pytest.raises(EvaluationError, match="give one or more, as fractions above 0"):
            run(*words, f"--far={far}")
    for metrics in ("", "map,", "hits@3"):
        with pytest.raises(EvaluationError, match="there is no metric"):
            run(*words, f"--metrics={metrics}")


@pytest.fixture
def upgrade(tmp_path, asked):
    """Four items and two queries by an old model, which sees nothing, and by a new one."""
    old = Space("blind@1", 1)
    queries, gallery, _ = asked
    ids = ["d1", "d2", "d3", "d4"]
    save(tmp_path / "old.parquet", [1, 2, 3, 4], ids, space=old)
    save(tmp_path / "queries-old.parquet", [0, 0], ["q2", "q1"], space=old)
    save(tmp_path / "up.parquet", [3, 2, 1, 0], reversed(ids))
    cells = ["--old", tmp_path / "old.parquet", "--upgraded", tmp_path / "up.parquet"]
    of_queries = ["--queries-old", tmp_path / "queries-old.parquet", "--queries-new", queries]
    return ["compare", *cells, "--new", gallery, "--include-self"], of_queries


def test_cells_are_compared_by_queries_of_their_own_and_by_qrels(upgrade, tmp_path):
    words, queries = upgrade
    found = answer(*words, *queries, "--qrels", tmp_path / "qrels", "--metrics", "map,ndcg@2")
    cells = found["cells"]
    right = ((1 / 2 + 2 / 3) / 2 + 1) / 2
    assert cells["new/new"]["map"] == cells["new/old"]["map"] == pytest.approx(right)
    # By the old model every query sees d1 d2 d3 d4.
    old = ((1 / 2 + 2 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert cells["old/old"]["map"] == pytest.approx(old)
    assert list(found["update_gain"]) == ["map", "ndcg@2"]
    assert found["update_gain"]["ndcg@2"] == pytest.approx(1)
    assert found["next_steps"] == []  # a page cannot show this
    shown = run(*words, *queries, "--qrels", tmp_path / "qrels", "--metrics", "map,ndcg@2").stdout
    assert shown.splitlines()[0].split()[:3] == ["query/gallery", "map", "ndcg@2"]


def test_queries_by_one_model_alone_or_other_queries_are_refused(upgrade, tmp_path):
    words, queries = upgrade
    qrels = ["--qrels", tmp_path / "qrels"]
    with pytest.raises(ConfigurationError, match="give the queries by both models, --queries-old"):
        run(*words, *queries[:2], *qrels)
    save(tmp_path / "queries-old.parquet", [0, 0], ["q2", "q9"], space=Space("blind@1", 1))
    with pytest.raises(EvaluationError, match=r"2 queries are in only one of .*, the first 'q1'"):
        run(*words, *queries, *qrels)
    save(tmp_path / "queries-old.parquet", [0, 0], ["q2", "q1"])
    with pytest.raises(EvaluationError, match=r"both in line@1 .*; give the queries by the"):
        run(*words, *queries, *qrels)


def test_cells_are_compared_without_what_the_own_camera_took(people, tmp_path):
    queries, gallery, _ = people
    old = Space("blind@1", 1)
    ids = [f"g{row}" for row in range(6)]
    save(tmp_path / "old.parquet", range(6), ids, [1, 1, 1, 2, 2, 3], space=old)
    save(tmp_path / "queries-old.parquet", [0], ["q0"], [1], space=old)
    found = answer(
        *("compare", "--old", tmp_path / "old.parquet", "--upgraded", gallery, "--new", gallery),
        *("--queries-old", tmp_path / "queries-old.parquet", "--queries-new", queries),
        *("--include-self", "--camera-column", "camera"),
    )
    assert found["cells"]["new/new"]["map"] == pytest.approx(RIGHT)
    assert found["cells"]["old/old"]["map"] == 1  # g0 (ignored) g1* g2* g3 g4 g5


@pytest.mark.slow
def test_a_comparison_that_needs_the_numbering_stated_says_so_to_its_page(tmp_path):
    names, old = {0: "cat", 1: "owl"}, Space("blind@1", 1)
    files = {
        "--old": save(tmp_path / "o.parquet", [0, 1, 2], "abc", [0, 1, 1], space=old),
        "--upgraded": save(tmp_path / "u.parquet", [0, 1, 2], "abc", [0, 1, 1]),
        "--new": save(tmp_path / "n.parquet", [0, 1, 2], "abc", [0, 1, 1], class_names=names),
    }
    words = [one for pair in files.items() for one in pair] + ["--exclude-self"]
    with pytest.raises(LabelMismatchError, match="same_labels=True"):
        run("compare", *words)
    found = answer("compare", *words, "--same-labels")
    assert "--same-labels" in found["next_steps"][0]["command"]
    run("report", tmp_path / "page.html", *words, "--same-labels")


def test_cells_whose_labels_are_compared_by_number_are_told_once(tmp_path):
    names, old = {0: "cat", 1: "owl"}, Space("blind@1", 1)
    words = ["--include-self"]
    for option, space, stated in (
        ("old", old, None),
        ("upgraded", LINE, names),
        ("new", LINE, names),
    ):
        path = tmp_path / f"{option}.parquet"
        save(path, [0, 1], "ab", [0, 1], space=space, class_names=stated)
        words += [f"--{option}", path]
    for option, space, stated in (("old", old, None), ("new", LINE, names)):
        path = save(
            tmp_path / f"q-{option}.parquet", [0], "q", [1], space=space, class_names=stated
        )
        words += [f"--queries-{option}", path]
    told = run("compare", *words).stderr
    assert told.count("the same number is taken to mean the same class") == 1


CATS, OWLS = {0: "cat", 1: "owl"}, {0: "owl", 1: "cat"}


@pytest.fixture
def same_items(tmp_path):
    """Give the words of a comparison of four items of two classes, of two items each."""

    def words(labels, names, other_names):
        found = ["compare", "--exclude-self"]
        for option, space, numbers, of in (
            ("old", Space("blind@1", 1), labels, names),
            ("upgraded", LINE, [0, 1, 0, 1], other_names),
            ("new", LINE, [0, 1, 0, 1], other_names),
        ):
            path = tmp_path / f"{option}.parquet"
            save(path, [0, 10, 1, 11], "abcd", numbers, space=space, class_names=of)
            found += [f"--{option}", path]
        return found

    return words


@pytest.mark.parametrize("labelled", ["old", "upgraded", "new"])
def test_labels_of_the_same_items_are_needed_once(same_items, tmp_path, labelled):
    words = same_items([0, 1, 0, 1], CATS, CATS)
    expected = answer(*words)
    for option, space in (("old", Space("blind@1", 1)), ("upgraded", LINE), ("new", LINE)):
        if option != labelled:
            save(tmp_path / f"{option}.parquet", [0, 10, 1, 11], "abcd", space=space)
    assert answer(*words)["cells"] == expected["cells"]
    assert expected["cells"]["new/old"]["map"] == 1


@pytest.mark.parametrize(
    "known", [{"old": [0, 1, -1, -1]}, {"old": [-1] * 4}, {"new": [0, -1] * 2}]
)
def test_classes_that_one_file_does_not_know_are_taken_from_the_others(same_items, tmp_path, known):
    words = same_items([0, 1, 0, 1], CATS, CATS)
    expected = answer(*words)
    for option, labels in known.items():
        space = Space("blind@1", 1) if option == "old" else LINE
        path = tmp_path / f"{option}.parquet"
        save(path, [0, 10, 1, 11], "abcd", labels, space=space, class_names=CATS)
    assert answer(*words)["cells"] == expected["cells"]


@pytest.mark.parametrize("labelled", ["old", "upgraded", "new"])
@pytest.mark.parametrize("with_new", [True, False])
def test_so_are_they_where_others_ask(same_items, tmp_path, labelled, with_new):
    words = same_items([0, 1, 0, 1], CATS, CATS)
    words[words.index("--exclude-self")] = "--include-self"
    for option, space in (("old", Space("blind@1", 1)), ("new", LINE)):
        asked = save(
            tmp_path / f"q-{option}.parquet", [0.2], "q", [0], space=space, class_names=CATS
        )
        words += [f"--queries-{option}", asked]
    if not with_new:
        at = words.index("--new")
        del words[at : at + 2]
        labelled = "upgraded" if labelled == "new" else labelled
    expected = answer(*words)
    for option, space in (("old", Space("blind@1", 1)), ("upgraded", LINE), ("new", LINE)):
        if option != labelled:
            save(tmp_path / f"{option}.parquet", [0, 10, 1, 11], "abcd", space=space)
    assert answer(*words)["cells"] == expected["cells"]
    assert expected["cells"]["new/old"]["map"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(([1, 0, 1, 0], None, None), r"1 in \S+ and of class 0 in", id="bare"),
        pytest.param(([0, 1, 0, 1], OWLS, CATS), r"'owl' in \S+ and of class 'cat' in", id="named"),
        pytest.param(
            ([1, 0, 1, 0], None, CATS), r"1 in \S+ and of class 'cat' in", id="named-once"
        ),
    ],
)
def test_the_same_items_in_other_classes_are_not_compared(same_items, tmp_path, given, words):
    """Both classes have two items, so the number of relevant items does not tell."""
    command = same_items(*given)
    for more in ([], ["--same-labels"]):
        with pytest.raises(
            LabelMismatchError, match=f"item 'a' is of class {words} \\S+, and 4 of"
        ):
            run(*command, *more)
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("a 0 c 1\n")
    assert answer(*command, "--qrels", qrels)["cells"]["new/old"]["map"] == 1


def test_the_same_items_are_compared_by_the_names_of_their_classes(same_items):
    assert answer(*same_items([1, 0, 1, 0], OWLS, CATS))["cells"]["old/old"]["map"] == 1
