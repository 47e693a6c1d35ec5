"""The comparison of real models of faces runs on stand-ins, and its page says what it found."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from onward.spaces import Embeddings, Space

ROOT = Path(__file__).parent.parent
LAB = ROOT / "lab"
PAGE = ROOT / "docs" / "real-models.md"
NAMES = ("maps", "unseen", "faces")


@pytest.fixture
def lab(monkeypatch):
    """The scripts as modules; they import each other by name."""
    monkeypatch.syspath_prepend(str(LAB))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def vectors(tmp_path):
    """Faces of 40 people by stand-ins: the old model sees the same as the new one, less clearly."""
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 10)
    ids = tuple(f"orl-{row:03}" for row in range(400))
    seen = random.normal(size=(40, 24))[people] + 0.5 * random.normal(size=(400, 24))
    blurred = seen + 1.2 * random.normal(size=seen.shape)

    def save(name, seen, dim, number_format="float32"):
        made = seen @ np.random.default_rng(len(name)).normal(size=(24, dim))
        if number_format == "int8":
            made = np.clip(np.round(8 * made), -127, 127)
        elif dim == 128:
            made /= np.linalg.norm(made, axis=1, keepdims=True)
        space = Space(name, dim, "l2", number_format)
        whole = Embeddings(ids, made.astype(np.float32), space, people)
        whole.save(tmp_path / "orl" / f"{name}-items.parquet")

    (tmp_path / "orl").mkdir()
    save("dlib", seen, 128)
    save("openface", blurred, 128)
    save("openface-stages", seen, 150)
    save("hog-thumbnail", seen, 20, "int8")
    return tmp_path


@pytest.mark.slow
def test_the_comparison_runs_on_stand_ins_and_says_what_each_row_gains(
    lab, vectors, monkeypatch, capsys
):
    out = vectors / "faces.json"
    monkeypatch.setattr(lab["faces"], "SHARES", (0.0, 0.3))
    arguments = [str(vectors), "--method", "ridge", "--only", "openface -> dlib", "--seeds", "0-1"]
    lab["faces"].main([*arguments, "--out", str(out)])
    printed, (name, found) = capsys.readouterr().out, *json.loads(out.read_text())["pairs"].items()
    assert name == "openface -> dlib"
    assert lab["faces"].tables({name: found}) in printed
    assert (found["draws"], found["queries"]) == (2, 400)
    cells = found["cells"]
    assert len(cells) == 2 + 4 * 5
    assert cells["doing nothing"]["map"]["gained"][0] == 0
    for cell in cells.values():
        estimate, low, high = cell["map"]["gained"]
        assert low <= estimate <= high
        nothing = cells["doing nothing"]["map"]["mean"]
        assert estimate == pytest.approx(cell["map"]["mean"] - nothing, abs=2e-6)
    means = {name: cell["map"]["mean"] for name, cell in cells.items()}
    assert means["everything again"] > means["doing nothing"] + 0.1
    assert means["0 %, side, one space"] > means["0 %, none, one space"] + 0.1
    assert sum(found["advice"]["0 %, side"]["served"].values()) == 2
    assert found["advice"]["0 %, side"]["below doing nothing"] == 0


@pytest.mark.slow
def test_draws_that_are_done_are_not_made_again(lab, vectors, monkeypatch, capsys):
    monkeypatch.setattr(lab["faces"], "SHARES", (0.0,))
    arguments = [str(vectors), "--method", "ridge", "--only", "openface -> dlib", "--seeds", "0"]
    lab["faces"].main(arguments)
    first = capsys.readouterr().out

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(lab["faces"], "measure", refuse)
    lab["faces"].main(arguments)
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_sampled_items_keep_their_true_vectors_and_give_no_labels(lab, vectors, monkeypatch):
    faces, given = lab["faces"], {}
    one = faces.draw(vectors, faces.CASES[0], 0)
    rows = np.arange(len(one.gallery.old))
    whole = faces.fit

    def remember(*pairs, **rest):
        given.update(rest)
        return whole(*pairs, **rest)

    monkeypatch.setattr(faces, "fit", remember)
    fitted = faces.fit_with(one, rows, "ridge", with_side=True, seed=0)
    assert given["sample"].labels is None
    assert given["sample"].items == 200
    found = faces.scores_of(one, fitted, rows)[faces.ONE]
    full = one.scores(one.queries.new, one.gallery.new)
    np.testing.assert_array_equal(found["map"], full["map"])


def test_models_tell_people_apart_by_the_distance_of_two_pictures(lab, tmp_path):
    """Two of each of two people: 0.6 and 0 apart, and 1.6, 1.6, 1 and 1 from the others."""
    people, vectors = np.array([0, 0, 1, 1]), np.array([[0.0], [0.6], [1.6], [1.6]], np.float32)
    (tmp_path / "orl").mkdir()
    for name in ("dlib", "openface"):
        made = Embeddings(("a", "b", "c", "d"), vectors, Space(name, 1), people)
        made.save(tmp_path / "orl" / f"{name}-items.parquet")
    found = lab["faces"].apart(tmp_path, lab["faces"].CASES[0])
    assert list(found) == ["openface", "dlib"]
    assert found["dlib"] == {
        "same person": 0.3,
        "different people": 1.3,
        "same person within": 1,
        "different people beyond": 1,
    }


def test_two_rankings_that_are_alike_are_fused_to_the_same(lab, vectors):
    faces = lab["faces"]
    one = faces.draw(vectors, faces.CASES[0], 0)
    alike = one.gallery._replace(new=one.gallery.old)
    made = faces.by_ranks(faces.replace(one, queries=alike, gallery=alike), alike.old)
    for metric, each in one.scores(alike.old, alike.old).items():
        np.testing.assert_allclose(made[metric], each)


# The page


@pytest.mark.parametrize("path", sorted(LAB.glob("faces*.json")), ids=lambda path: path.stem)
def test_the_page_on_real_models_says_what_was_measured(lab, path):
    page, measured = PAGE.read_text(), json.loads(path.read_text())
    assert lab["faces"].models_table(measured["models"]) in page
    for table in lab["faces"].tables(measured["pairs"]).split("\n\n"):
        assert table in page
    draws = {one["draws"] for one in measured["pairs"].values()}
    assert len(draws) == 1
    command = f"lab/faces.py VECTORS --method {measured['method']} --seeds 0-{draws.pop() - 1} "
    assert f"{command}--out lab/{path.name}" in page
