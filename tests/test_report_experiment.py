"""The page of an experiment: its numbers are those given, and it holds in a real browser."""

import math
import re
from itertools import product
from typing import Any

import pytest
from pages import CONTRAST, Elements, opened

from onward.errors import EvaluationError
from onward.evaluation.comparison import METRICS
from onward.report import ExperimentRow, ExperimentTable, write_experiment_report

NASTY = "<script>alert(\"1\")</script> & 'co'"
GAINS = ("gain cmc@1", "gain map")
FACTS = {"command": "onward experiment digits --seeds 0,1", "seeds": "0, 1"}


def row(cell, numbers, gains=(), extra=None):
    """A row from (cmc@1, cmc@5, map) of each seed and (cmc@1, map) of each seed's gain."""
    columns = dict(zip(METRICS, zip(*numbers, strict=True), strict=bool(numbers)))
    columns |= dict(zip(GAINS, zip(*gains, strict=True), strict=bool(gains)))
    return ExperimentRow(cell, columns, extra or {})


OLD = row("old/old", [(0.30, 0.50, 0.10), (0.32, 0.52, 0.12)])
NEW = row("new/new", [(0.40, 0.60, 0.20), (0.42, 0.62, 0.22)])
RIDGE = row(
    "new/old ridge",
    [(0.38, 0.58, 0.16), (0.38, 0.59, 0.20)],
    [(0.8, 0.6), (0.6, 0.8)],
    {"bytes an item": "0", "method": "ridge"},
)
MLP = row(
    "new/old mlp",
    [(0.37, 0.57, 0.19), (0.37, 0.60, 0.22)],
    [(0.7, 0.9), (0.5, 1.0)],
    {"bytes an item": "256", "encoder": "2.1 ms"},
)
WORSE = row(
    "new/old procrustes",
    [(0.20, 0.40, 0.11), (0.22, 0.42, 0.13)],
    [(-1.0, 0.1), (-1.0, 0.1)],
)
CLOSED = ExperimentTable("Closed set", (0, 1), (OLD, RIDGE, MLP, WORSE, NEW))
OPEN = ExperimentTable("Open set: classes that no model knows", (0, 1), (OLD, RIDGE, NEW))


def write(path, tables=(CLOSED, OPEN), **words: Any) -> str:
    words = {"title": "What helps?", "introduction": "First.\n\nSecond.", "facts": FACTS} | words
    write_experiment_report(path, tables, **words)
    return path.read_text(encoding="utf-8")


def shown(page: Elements, section: str, cell: str) -> dict[str, str]:
    """The row of a cell in a section's table, by column."""
    found = next(
        tr
        for tr in page.of("tr")
        if tr.get("data-cell") == cell and section in [e.get("id") for e in tr["inside"]]
    )
    return {e["data-name"]: e["text"] for e in page.of("td") if found in e["inside"]}


def test_every_cell_is_a_row_with_mean_least_and_greatest(tmp_path):
    page = Elements(write(tmp_path / "page.html"))
    assert shown(page, "table-1", "new/old mlp") == {
        "cmc@1": "37.037.0 to 37.0",
        "cmc@5": "58.557.0 to 60.0",
        "map": "20.519.0 to 22.0",
        "gain cmc@1": "60.050.0 to 70.0",
        "gain map": "95.090.0 to 100.0",
        "bytes an item": "256",
        "method": "",
        "encoder": "2.1 ms",
    }
    assert shown(page, "table-1", "old/old")["gain map"] == ""
    assert shown(page, "table-1", "new/old procrustes")["gain cmc@1"].startswith("−100.0")
    assert list(shown(page, "table-2", "new/old ridge")) == [
        *METRICS,
        "gain cmc@1",
        "gain map",
        "bytes an item",
        "method",
    ]
    assert [e["text"] for e in page.of("h2")] == [
        "What came of it",
        "Closed set",
        "Open set: classes that no model knows",
        "How these numbers came to be",
    ]


def test_the_numbers_of_every_seed_are_folded_below(tmp_path):
    page = Elements(write(tmp_path / "page.html"))
    folded = [tr["text"] for tr in page.of("tr") if "details" in [e["tag"] for e in tr["inside"]]]
    assert "cellseedcmc@1cmc@5mapgain cmc@1gain map" in folded
    assert "new/old mlp137.060.022.050.0100.0" in folded
    assert "old/old030.050.010.0" in folded
    assert len(folded) == 2 * (1 + 3) + 2 * 2 + 2 * 3


def test_a_fused_row_says_what_it_is(tmp_path):
    both = row("wide: new/old fused", [(0.4, 0.6, 0.2)], [(1.0, 1.0)], {"advised": "1 of 1"})
    page = write(tmp_path / "page.html", [ExperimentTable("Open", (0,), (both,))])
    assert "The same vectors beside the old ones: queries by both models, both dist" in page


def test_the_verdict_names_the_best_and_those_worse_than_nothing(tmp_path):
    assert CLOSED.verdict == (
        "Best of 3 in map, over 2 seeds: new/old mlp, with 95.0 % (90.0 to 100.0) of what full "
        "backfill gains in map, and 60.0 % (50.0 to 70.0) in cmc@1.",
        "Best in cmc@1: new/old ridge, with 70.0 % (60.0 to 80.0).",
        "Worse than doing nothing: new/old procrustes (cmc@1).",
    )
    page = Elements(write(tmp_path / "page.html"))
    verdict = next(e["text"] for e in page.of("section") if e["id"] == "verdict")
    for table in (CLOSED, OPEN):
        for sentence in (table.name, *table.verdict):
            assert sentence in verdict


def test_the_verdict_of_one_seed_names_no_spread():
    once = row("new/old", [(0.38, 0.58, 0.16)], [(0.8, 0.6)])
    assert ExperimentTable("Closed", (0,), (once,)).verdict == (
        "Best of 1 in map, over 1 seed: new/old, with 60.0 % of what full backfill gains in map, "
        "and 80.0 % in cmc@1.",
        "No way to upgrade is worse than doing nothing.",
    )


def test_a_gain_that_is_not_defined_is_a_dash_and_no_bar(tmp_path):
    lost = row("new/old", [(math.nan, 0.5, 0.1)], [(math.nan, math.nan)])
    table = ExperimentTable("Closed", (0,), (lost,))
    assert table.verdict == ("Nothing can be said of upgrades: no row has an update gain.",)
    text = write(tmp_path / "page.html", [table])
    page = Elements(text)
    numbers = shown(page, "table-1", "new/old")
    assert (numbers["cmc@1"], numbers["gain map"]) == ("–", "–")
    assert [e["text"] for e in page.of("span") if e.get("class") == "gain-is"] == [
        "not defined",
        "not defined",
    ]
    assert "nan" not in page.of("main")[0]["text"].lower()


def test_bars_go_from_doing_nothing_and_are_cut_off_where_they_are_far_too_long(tmp_path):
    page = Elements(write(tmp_path / "page.html"))
    chart = next(e for e in page.of("div") if e.get("class") == "gain-chart")
    assert "cmc@1" in chart["text"]
    assert chart["style"] == "--nothing:33.3%;--backfill:100.0%"  # from -0.5 to 1
    bars = [e["style"] for e in page.of("span") if e.get("class") == "way" and chart in e["inside"]]
    assert bars == [
        "left:33.3%;width:46.7%",  # ridge: 0.7
        "left:33.3%;width:40.0%",  # mlp: 0.6
        "left:0.0%;width:33.3%",  # procrustes: -1, cut off at -0.5
    ]
    turns = [e["data-turn"] for e in page.of("li") if chart in e["inside"]]
    assert turns == ["on", "on", "back"]
    values = [e["text"] for e in page.of("span") if e.get("class") == "gain-is"]
    assert values[:3] == ["70.0 %", "60.0 %", "−100.0 %"]


def test_what_is_given_is_escaped_and_nothing_is_loaded(tmp_path):
    table = ExperimentTable(
        NASTY, (0,), (row(NASTY, [(0.1, 0.2, 0.3)], [(0.5, 0.5)], {NASTY: NASTY}),)
    )
    words = {"title": NASTY, "introduction": NASTY, "facts": {NASTY: NASTY}}
    text = write(tmp_path / "page.html", [table], **words)
    assert not re.search(r"https?:|url\(|@import|src=|<script|\son\w+=", text)
    assert "default-src 'none'" in text
    assert shown(Elements(text), "table-1", NASTY)[NASTY] == NASTY


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path):
    before = write(tmp_path / "page.html")
    with pytest.raises(EvaluationError, match="a page needs a table; give one ExperimentTable"):
        write(tmp_path / "page.html", [])
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
    assert write(tmp_path / "page.html") == before


@pytest.mark.parametrize(
    ("seeds", "rows", "words"),
    [
        ((0, 1), (), "the table 'Open' has no rows; leave it out"),
        (
            (0, 1),
            (OLD, NEW, OLD),
            "'old/old' stands twice in the table 'Open'; give each row its own name",
        ),
        (
            (0, 1),
            (OLD, row("new/new", [(0.4, 0.6, 0.2)])),
            "'new/new' lacks numbers: each row has cmc@1,",
        ),
        ((), (row("old/old", []),), "of the same seeds, one or more"),
        (
            (0, 1),
            (row("new/old", [(0.4, 0.6, 0.2)] * 2, [(0.1, 0.2)]),),
            "gain cmc@1 and gain map of all or none",
        ),
        (
            (3,),
            (ExperimentRow("old/old", {"map": [0.1]}, {}),),
            "; give NaN where a number",
        ),
    ],
    ids=["no-rows", "twice", "other-seeds", "no-seed", "gain-of-one-seed", "no-cmc"],
)
def test_rows_that_make_no_table_are_refused(seeds, rows, words):
    with pytest.raises(EvaluationError, match=re.escape(words)):
        ExperimentTable("Open", seeds, rows)


@pytest.mark.slow
@pytest.mark.parametrize("look", list(product([360, 1440], ["light", "dark"])), ids=str)
def test_the_page_holds_in_a_browser(browser, tmp_path, look):
    width, scheme = look
    long = row("a" * 200, [(0.1, 0.2, 0.3)] * 2, [(0.5, 1.9)] * 2, {"b" * 60: "c" * 200})
    table = ExperimentTable("d" * 90, (0, 1), (*CLOSED.rows, long))
    write(tmp_path / "page.html", [CLOSED, table])
    page = opened(browser, tmp_path / "page.html", width, scheme)
    outside = page.eval_on_selector_all(
        ".rail .way, .rail .spread",
        """all => all.filter(one => {
          const bar = one.getBoundingClientRect(), rail = one.parentElement.getBoundingClientRect();
          return bar.left < rail.left - 1 || bar.right > rail.right + 2;
        }).length""",
    )
    assert outside == 0
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 100
    assert [ratio for ratio in ratios if ratio[0] < 4.5] == []
    page.context.close()
