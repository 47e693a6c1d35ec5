"""The report: one page that holds what the comparison says, and holds in a real browser."""

import io
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import CONTRAST, Elements, opened
from PIL import Image

from onward.data import Items, open_items
from onward.errors import DataError, EvaluationError
from onward.evaluation.comparison import Comparison, compare, evaluate_embeddings
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import Ranking, search
from onward.report import RetrievalGrid, make_grid, write_report
from onward.report.document import CELLS, explain, in_order
from onward.report.grid import GRID_CELLS, THUMBNAIL_PIXELS
from onward.spaces import Embeddings, Space

OLD_CLASSES = range(5)
NASTY = "<script>alert(\"1\")</script> & 'co'"
FACTS = {"command": "onward demo", "seed": "0"}


def embed(items: Items, knows: range, seed: int, noise: float = 0.3) -> Embeddings:
    """Stand in for a model that tells the classes it knows apart and muddles the others."""
    classes = np.eye(10)[items.labels] * np.isin(items.labels, knows)[:, None]
    vectors = classes + noise * np.random.default_rng(seed).normal(size=classes.shape)
    return Embeddings(items.ids, vectors.astype(np.float32), Space("model", 10), items.labels)


@pytest.fixture(scope="module")
def items() -> Items:
    digits = open_items("digits")
    return digits.select(np.arange(0, len(digits), 18))


@pytest.fixture(scope="module")
def galleries(items) -> dict[str, tuple[Embeddings, Embeddings]]:
    old, new = embed(items, OLD_CLASSES, 0), embed(items, range(10), 1)
    upgraded = embed(items, range(10), 2, noise=0.4)
    chance = embed(items, range(0), 4)
    pairs = {
        "independent": (new, chance),
        "old/old": (old, old),
        "new/old": (new, upgraded),
        "new/new": (new, new),
    }
    return {name: pairs.get(name, (new, embed(items, range(8), 3))) for name in CELLS} | {
        f"new/old {NASTY}": (new, upgraded)
    }


@pytest.fixture(scope="module")
def comparison(galleries) -> Comparison:
    return compare(
        {name: evaluate_embeddings(*pair, exclude_self=True) for name, pair in galleries.items()}
    )


@pytest.fixture(scope="module")
def rankings(galleries) -> dict[str, Ranking]:
    return {name: search(*galleries[name], 20, exclude_self=True) for name in GRID_CELLS}


@pytest.fixture(scope="module")
def grid(items, rankings) -> RetrievalGrid:
    return make_grid(items, rankings, old_classes=OLD_CLASSES)


def write(
    path: Path, comparison: Comparison, grid: RetrievalGrid | None = None, **words: Any
) -> str:
    words = {"title": "Digits", "introduction": "First.\n\nSecond.", "facts": FACTS} | words
    write_report(path, comparison, grid=grid, **words)
    return path.read_text(encoding="utf-8")


def shown_in(grid: RetrievalGrid) -> list[list[tuple[str, str, Image.Image]]]:
    """Of each query that a grid shows: what its images say and hint at, the query's own first."""
    page = Elements(grid.drawn)
    rows = next(e for e in page.of("ol") if e["class"] == "grid")
    return [
        [
            (one["alt"], one["title"], Image.open(io.BytesIO(b64decode(one["src"].split(",")[1]))))
            for one in page.of("img")
            if row in one["inside"]
        ]
        for row in page.of("li")
        if row["inside"][-1] is rows
    ]


def asked_in(grid: RetrievalGrid) -> list[str]:
    """The ids of the queries that a grid shows."""
    return [row[0][1] for row in shown_in(grid)]


def numbers_of_row(page: Elements, cell: str) -> dict[str, str]:
    row = next(row for row in page.of("tr") if row.get("data-cell") == cell)
    return {e["data-name"]: e["text"] for e in page.of("td") if row in e["inside"]}


def test_every_cell_is_a_row_with_the_comparisons_numbers(tmp_path, comparison):
    page = Elements(write(tmp_path / "page.html", comparison))
    for name, evaluation in comparison.cells.items():
        numbers = numbers_of_row(page, name)
        assert numbers["cmc@1"] == f"{100 * evaluation.cmc(1):.1f}"
        assert numbers["cmc@5"] == f"{100 * evaluation.cmc(5):.1f}"
        assert numbers["map"] == f"{100 * evaluation.map:.1f}"
        assert numbers["queries"] == f"{evaluation.queries:,}"
        assert numbers["left out"] == f"{evaluation.skipped:,}"
    gain = comparison.update_gain("map", "new/old without side")
    shown = numbers_of_row(page, "new/old without side")["update gain"]
    assert shown == f"{100 * gain:.1f}".replace("-", "−")


def test_the_verdict_and_the_gain_of_each_metric_are_the_comparisons(tmp_path, comparison):
    page = Elements(write(tmp_path / "page.html", comparison))
    assert [e["text"] for e in page.of("p") if e.get("class") == "verdict"] == [comparison.verdict]
    upgrades = [cell for cell in in_order(comparison.cells) if cell.startswith("new/old")]
    expected = [
        f"{cell}{100 * comparison.update_gain(metric, cell):.1f} %".replace("-", "−")
        for metric in ("cmc@1", "cmc@5", "map")
        for cell in upgrades
    ]
    shown = [
        e["text"] for e in page.of("li") if "update-gain" in [i.get("id") for i in e["inside"]]
    ]
    assert shown == expected


def test_rows_stand_from_chance_to_full_backfill_whatever_the_order_given():
    assert in_order(["new/new", "new/old xl", "old/old", "independent", "new/old layers"]) == [
        "independent", "old/old", "new/old layers", "new/old xl", "new/new",
    ]  # fmt: skip


def test_a_fused_row_stands_behind_its_own_and_says_what_it_is():
    cells = ["old/old", "new/old", "new/old fused", "new/old xl", "new/old xl fused", "new/new"]
    assert in_order(cells) == cells
    for cell in ("new/old fused", "new/old xl fused"):
        assert explain(cell, cells).startswith("The same vectors beside the old ones: queries by b")


def test_side_information_is_named_only_where_the_cells_tell_it_apart():
    assert "side-information" in explain("new/old", ["new/old", "new/old without side"])
    assert "side-information" not in explain("new/old", GRID_CELLS)
    assert explain("new/old procrustes", GRID_CELLS) == ""


def test_the_page_has_no_address_and_no_script(tmp_path, comparison, grid):
    page = write(tmp_path / "page.html", comparison, grid)
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)|<script|\son\w+=", page)
    assert "default-src 'none'" in page


def test_what_the_user_gives_is_escaped(tmp_path, comparison, items, rankings):
    named = replace(items, class_names={label: NASTY + " " * label for label in range(10)})
    renamed = {item: f"{item} {NASTY}" for item in items.ids}
    named = replace(named, ids=tuple(renamed.values()))
    asked = {
        cell: replace(
            ranking,
            query_ids=tuple(renamed[item] for item in ranking.query_ids),
            gallery_ids=tuple(renamed[item] for item in ranking.gallery_ids),
        )
        for cell, ranking in rankings.items()
    }
    grid = make_grid(named, asked)
    words = {"title": NASTY, "introduction": NASTY, "facts": {NASTY: NASTY}}
    text = write(tmp_path / "page.html", comparison, grid, **words)
    page = Elements(text)
    assert "<script" not in text
    assert not page.of("script")
    assert page.of("h1")[0]["text"] == NASTY
    assert f"{NASTY}, right" in [image["alt"] for image in page.of("img")]


def test_the_page_of_photographs_stays_small(tmp_path, comparison, items, rankings):
    grid = make_grid(items, rankings)
    assert len(write(tmp_path / "digits.html", comparison, grid)) < 250_000
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)

    class Photographs(Items):
        def open(self, row):
            return Image.fromarray(np.roll(noise, row, axis=0))

    photographs = Photographs(
        items.ids, items.labels, items.class_names, items.payloads, "photographs"
    )
    grid = make_grid(photographs, rankings)
    assert shown_in(grid)[0][0][2].size == (THUMBNAIL_PIXELS, 72)
    assert len(write(tmp_path / "noise.html", comparison, grid)) < 5_000_000


def test_the_same_values_give_the_same_page(tmp_path, comparison, items, rankings):
    pages = [
        write(tmp_path / f"{turn}.html", comparison, make_grid(items, rankings, old_classes=[1]))
        for turn in range(2)
    ]
    assert pages[0] == pages[1]


def test_no_gain_to_be_had_is_said_in_words(tmp_path, galleries):
    evaluation = evaluate_embeddings(*galleries["old/old"], exclude_self=True)
    page = write(tmp_path / "page.html", compare(dict.fromkeys(GRID_CELLS, evaluation)))
    gains = [e["text"] for e in Elements(page).of("span") if e.get("class") == "gain-is"]
    assert gains == ["not defined"] * 3
    assert "nan" not in Elements(page).of("main")[0]["text"].lower()


def test_an_upgrade_worse_than_nothing_shows_a_way_back(tmp_path, comparison):
    cells = dict(comparison.cells) | {"new/old": comparison.cells["independent"]}
    worse = compare(cells)
    page = write(tmp_path / "page.html", worse)
    assert worse.update_gain("map") < 0
    turns = [e["data-turn"] for e in Elements(page).of("li") if "data-turn" in e]
    assert turns.count("back") >= 3
    assert f"−{-100 * worse.update_gain('map'):.1f}&nbsp;%" in page


def test_queries_nobody_can_answer_are_counted_not_shown_as_numbers(tmp_path, items):
    lonely = items.select([int(np.argmax(items.labels == label)) for label in range(4)])
    vectors = embed(lonely, range(4), 0)
    evaluation = evaluate_embeddings(vectors, vectors, exclude_self=True)
    page = Elements(write(tmp_path / "page.html", compare(dict.fromkeys(GRID_CELLS, evaluation))))
    numbers = numbers_of_row(page, "old/old")
    assert (numbers["map"], numbers["queries"], numbers["left out"]) == ("–", "0", "4")


def test_a_cell_with_a_long_name_leaves_room_for_the_curves(tmp_path, galleries):
    queries, gallery = galleries["new/old"]
    evaluation = evaluate_embeddings(queries, gallery, exclude_self=True)
    name = "new/old " + "of last year's winter sale " * 9
    page = write(tmp_path / "page.html", compare(dict.fromkeys((*GRID_CELLS, name), evaluation)))
    elements = Elements(page)
    assert name.strip() in [e["text"].strip() for e in elements.of("b")]
    starts = [float(e["d"][1:].split()[0]) for e in elements.of("path") if e["class"] == "line"]
    assert max(starts) < 300
    longest = max((e["text"] for e in elements.of("text")), key=len)
    assert len(longest) < 60


def test_curves_end_where_the_shortest_ranking_does(tmp_path, galleries):
    queries, gallery = galleries["new/old"]
    relevance = Relevance.between(queries, gallery, exclude_self=True)
    for depth, expected in ((3, ["k = 1", "k = 2"]), (1, [])):
        cut = evaluate(search(queries, gallery, depth, exclude_self=True), relevance)
        page = Elements(write(tmp_path / "page.html", compare(dict.fromkeys(GRID_CELLS, cut))))
        assert [e["text"] for e in page.of("th") if e["text"].startswith("k =")] == expected
        assert numbers_of_row(page, "new/old")["cmc@5"] == "–"


def test_the_grid_shows_old_and_new_classes_in_equal_numbers(grid, items):
    label = dict(zip(items.ids, items.labels.tolist(), strict=True))
    assert [label[item] for item in asked_in(grid)] == [0, 1, 3, 4, 5, 6, 8, 9]
    for (asked, query, _), *results in shown_in(grid):
        assert asked == f"query: class {label[query]}"
        assert len(results) == 5 * len(GRID_CELLS)
        for said, hint, _ in results:
            item = hint.partition(" at distance ")[0]
            assert said == f"class {label[item]}, " + (
                "right" if label[item] == label[query] else "wrong"
            )
            assert item != query
    _, query, image = shown_in(grid)[0][0]
    np.testing.assert_array_equal(image, np.asarray(items.open(items.ids.index(query))))


def test_the_grid_says_how_its_queries_were_chosen(grid, items, rankings):
    label = dict(zip(items.ids, items.labels.tolist(), strict=True))
    change = {}
    for row, query in enumerate(items.ids):
        found = {
            cell: sum(label[back] == label[query] for back in rankings[cell].ids_of(row)[:5])
            for cell in GRID_CELLS
        }
        change[query] = found["new/old"] - found["old/old"]
    for query in asked_in(grid):
        of_class = sorted(item for item in items.ids if label[item] == label[query])
        assert query == next((item for item in of_class if change[item]), of_class[0])
    better, worse = (sum(sign * c > 0 for c in change.values()) for sign in (1, -1))
    same = len(change) - better - worse
    assert "chosen by a fixed rule, not by hand" in grid.chosen
    assert f"for {better}, fewer for {worse} and as many for {same}." in grid.chosen


def test_few_classes_get_several_queries_and_lonely_ones_none(items, rankings):
    two = items.of_classes([2, 7])
    rows = {
        cell: search(embed(two, range(3 * turn), turn), embed(two, range(3), 5), 5,
                     exclude_self=True)
        for turn, cell in enumerate(GRID_CELLS)
    }  # fmt: skip
    grid = make_grid(two, rows, old_classes=[2], queries=6)
    label = dict(zip(items.ids, items.labels.tolist(), strict=True))
    assert [label[item] for item in asked_in(grid)] == [2, 2, 2, 7, 7, 7]
    assert len(set(asked_in(grid))) == 6
    labels = items.labels.copy()
    labels[0] = 11
    lonely = replace(items, labels=labels, class_names={**items.class_names, 11: "lonely"})
    assert "query: lonely" not in make_grid(lonely, rankings).drawn


def test_a_grid_without_one_of_its_rankings_names_it(items, rankings):
    with pytest.raises(EvaluationError, match="these are not such rankings"):
        make_grid(items, {c: r for c, r in rankings.items() if c != "new/old"})


def test_a_grid_of_different_queries_is_refused(items, rankings, galleries):
    queries, gallery = galleries["new/new"]
    other = search(queries.select(range(5)), gallery, 5, exclude_self=True)
    with pytest.raises(EvaluationError, match="a grid compares the same queries"):
        make_grid(items, {**rankings, "new/new": other})


def test_an_item_without_an_image_is_named(items, rankings):
    with pytest.raises(DataError, match=f"the first '{items.ids[0]}'; give the items that were"):
        make_grid(items.select(range(1, len(items))), rankings)


def test_the_report_loads_no_torch():
    code = "import sys, onward.report; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("look", list(product([360, 1440], ["light", "dark"])), ids=str)
def test_the_page_holds_in_a_browser(browser, tmp_path, comparison, grid, look):
    width, scheme = look
    write(tmp_path / "page.html", comparison, grid)
    page = opened(browser, tmp_path / "page.html", width, scheme)
    loaded = page.eval_on_selector_all(
        "#grid img", "all => all.map(one => one.complete && one.naturalWidth > 0 && one.alt !== '')"
    )
    assert loaded == [True] * (8 * (1 + 3 * 5))
    shown = page.eval_on_selector_all(".chart", "all => all.map(one => one.offsetWidth > 0)")
    assert shown == [width > 820, width <= 820]
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 200
    assert [ratio for ratio in ratios if ratio[0] < 4.5] == []
    page.context.close()


@pytest.mark.slow
def test_names_without_a_space_do_not_widen_the_page(
    browser, tmp_path, comparison, items, rankings
):
    long = "a" * 200
    named = make_grid(
        replace(items, class_names={one: f"{long}{one}" for one in range(10)}), rankings
    )
    cells = {**comparison.cells, long: comparison.cells["new/old"]}
    write(tmp_path / "page.html", compare(cells), named, title=long, facts={long: long})
    for width in (360, 1440):
        opened(browser, tmp_path / "page.html", width).context.close()
