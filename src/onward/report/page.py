"""A comparison's page: the verdict, the figures, the curves and real results to look at."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from onward.artifacts import write_aside
from onward.compatibility import Comparison, UpgradeComparison
from onward.evaluation import METRICS
from onward.report.charts import axis_floor, cmc_chart, curve_ks, drawn_cells, gain_track
from onward.report.document import document, facts_section, section
from onward.report.grid import RetrievalGrid
from onward.report.pictures import grid_html
from onward.report.tables import cells_table, curves_table
from onward.report.wording import percent, with_sign


def write_report(
    path: Path | str,
    comparison: Comparison,
    *,
    title: str,
    introduction: str,
    grid: RetrievalGrid | None,
    facts: Mapping[str, str],
    upgrade: UpgradeComparison | None = None,
) -> None:
    """Write the page; a reader sees the old one or all of the new one.

    Args:
        path: the HTML file.
        comparison: the cells.
        title: what was compared.
        introduction: for somebody who knows nothing of it; blank lines part paragraphs.
        grid: results to look at, from `make_grid`.
        facts: how the numbers came to be, such as seed, versions, command and time.
        upgrade: what `comparison` is the h alone of; where the new model embedded some of the
            gallery, that gallery has a section of its own.
    """
    page = _page(comparison, title, introduction, grid, facts, upgrade=upgrade)
    with write_aside(Path(path)) as aside:
        aside.write_text(page, encoding="utf-8")


def _page(
    comparison: Comparison,
    title: str,
    introduction: str,
    grid: RetrievalGrid | None,
    facts: Mapping[str, str],
    *,
    upgrade: UpgradeComparison | None,
) -> str:
    sections = [_verdict(comparison), _gain(comparison), _cells(comparison)]
    if upgrade is not None and isinstance(upgrade.stored, Comparison):
        sections.insert(1, _stored(upgrade, upgrade.stored))
    if len(curve_ks(comparison)) > 1 and drawn_cells(comparison):
        sections.append(_curves(comparison))
    if grid is not None:
        sections.append(_grid(grid))
    if facts:
        sections.append(facts_section(facts))
    return document(title, kind="comparison", introduction=introduction, sections=sections)


def _verdict(comparison: Comparison) -> str:
    ends = (
        ("old/old", "Do nothing", "old/old", "old"),
        ("new/old", "Upgrade", "new/old, no image read", "upgraded"),
        ("new/new", "Full backfill", "new/new, all images read", "new"),
    )
    figures = "".join(
        f'<div class="tone-{tone}"><dt>{words} <span>{about}</span></dt>'
        f"<dd><b>{percent(comparison.value('map', cell))}</b> % map</dd>"
        f"<dd>{percent(comparison.value('cmc@1', cell))} % cmc@1</dd></div>"
        for cell, words, about, tone in ends
    )
    gained = with_sign(comparison.update_gain("map"))
    return section(
        "verdict",
        "Verdict",
        f'<p class="verdict">{escape(comparison.verdict)}</p><dl class="figures">{figures}'
        f'<div class="tone-gain"><dt>Update gain <span>of map</span></dt><dd><b>{gained}</b></dd>'
        "<dd>of the way to full backfill</dd></div></dl>"
        "<p class='note'><b>map</b>, mean average precision, says how high <em>all</em> items of "
        "the query’s class stand in its results: 100 % if nothing else stands before them. "
        "<b>cmc@k</b> is the share of queries with at least one among the first k. "
        "Higher is better in both.</p>",
    )


def _gain(comparison: Comparison) -> str:
    flips = percent(comparison.negative_flips())
    tracks = "".join(gain_track(comparison, metric) for metric in METRICS)
    return section(
        "update-gain",
        "How far the upgrade goes",
        "<p>A better model cannot search a gallery that another model embedded. One can stay with "
        "the old model (<b>old/old</b>), or embed every image again (<b>new/new</b>). The upgrade "
        "carries the stored vectors over without an image (<b>new/old</b>: the new model asks, the "
        "upgraded gallery answers). The update gain is the share of the way from the one to the "
        "other that it covers: 0 % is no better than doing nothing, 100 % as good as full "
        "backfill, less than 0 % worse than doing nothing.</p>"
        f'<div class="gains">{tracks}</div>'
        "<p class='note'>update gain = (new/old − old/old) ÷ (new/new − old/old). Of all "
        f"queries, {flips} % had a right item in the first place before the upgrade and do not "
        "have one there after it.</p>",
    )


def _cells(comparison: Comparison) -> str:
    return section(
        "cells",
        "Every way to answer the queries",
        "<p>Each row is a model that asks and a gallery that answers, always in this order. A "
        "query counts unless the gallery holds nothing of its class; those are left out and "
        f"counted in the last column.</p>{cells_table(comparison)}",
    )


def _stored(upgrade: UpgradeComparison, stored: Comparison) -> str:
    share = percent(upgrade.origins.get("embedded", 0) / upgrade.items, 0)
    return section(
        "stored",
        "h alone, and what is stored",
        f"<p>The gallery holds {escape(upgrade.origins_text)}. What the new model embedded says "
        f"nothing of h, so <b>all else on this page is about the {upgrade.carried:,} items that h "
        "carried</b>: they alone are searched, in old/old and new/new too, and queries that are "
        "other items are left out.</p>"
        f"<p>Here is the whole gallery as it stands, {share} % embedded. That update gain is of "
        f"the mix, not of h.</p>{cells_table(stored)}",
    )


def _curves(comparison: Comparison) -> str:
    notes = ["The figure at each line’s name is cmc@1."]
    if "independent" in comparison.cells:
        first = percent(comparison.cells["independent"].cmc(1))
        notes.append(f"Not drawn is independent, which starts at {first} %.")
    floor = axis_floor(comparison)
    if floor > 0:
        notes.append(f"The vertical axis begins at {percent(floor, 0)} %.")
    wide = cmc_chart(comparison, width=1000, height=470, beside=True)
    narrow = cmc_chart(comparison, width=340, height=330, beside=False)
    return section(
        "curves",
        "How soon a right item appears",
        "<p>Whoever looks further down the results finds a right item for more queries. "
        f"{' '.join(notes)}</p>"
        f'<div class="chart chart-wide">{wide}</div><div class="chart chart-narrow">{narrow}</div>'
        f"<details><summary>The curves in numbers</summary>{curves_table(comparison)}</details>",
    )


def _grid(grid: RetrievalGrid) -> str:
    return section(
        "grid",
        "What comes back",
        "<p>Queries stand on the left; beside each, what came back first, nearest first, before "
        "the upgrade, after it, and after a full backfill.</p>"
        f"<p class='note'>{escape(grid.chosen)}</p>{grid_html(grid)}",
    )
