"""A comparison's page: the verdict, the figures, the curves and real results to look at."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

from onward.evaluation.comparison import Comparison, UpgradeComparison
from onward.evaluation.metrics import METRICS
from onward.report.charts import cmc_charts, cmc_levels, curve_ks, drawn_cells, gain_bars
from onward.report.document import (
    charts_section,
    explain,
    in_order,
    percent,
    section,
    wide_table,
    with_sign,
    write_page,
)
from onward.report.grid import RetrievalGrid, grid_html

_COLUMNS = (*METRICS, "update gain", "queries", "left out")


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
    sections = [_verdict(comparison), _gain(comparison), _cells(comparison)]
    if upgrade is not None and isinstance(upgrade.stored, Comparison):
        sections.insert(1, _stored(upgrade, upgrade.stored))
    if len(curve_ks(comparison)) > 1 and drawn_cells(comparison):
        sections.append(_curves(comparison))
    if grid is not None:
        sections.append(_grid(grid))
    write_page(
        path, title, kind="comparison", introduction=introduction, sections=sections, facts=facts
    )


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
    upgrades = [cell for cell in in_order(comparison.cells) if cell.startswith("new/old")]
    bars = "".join(
        gain_bars(metric, {cell: [comparison.update_gain(metric, cell)] for cell in upgrades})
        for metric in METRICS
    )
    return section(
        "update-gain",
        "How far the upgrade goes",
        "<p>A better model cannot search a gallery that another model embedded. One can stay with "
        "the old model (<b>old/old</b>), or embed every image again (<b>new/new</b>). The upgrade "
        "carries the stored vectors over without an image (<b>new/old</b>: the new model asks, the "
        "upgraded gallery answers). The update gain is the share of the way from the one to the "
        "other that it covers: 0 % is no better than doing nothing, 100 % as good as full "
        "backfill, less than 0 % worse than doing nothing.</p>"
        f'<div class="gain-charts">{bars}</div>'
        "<p class='note'>update gain = (new/old − old/old) ÷ (new/new − old/old); it is not "
        f"defined where full backfill gains nothing. Of all queries, {flips} % had a right item in "
        "the first place before the upgrade and do not have one there after it.</p>",
    )


def _cells(comparison: Comparison) -> str:
    return section(
        "cells",
        "Every way to answer the queries",
        "<p>Each row is a model that asks and a gallery that answers, always in this order. A "
        "query counts unless the gallery holds nothing of its class; those are left out and "
        f"counted in the last column.</p>{_cells_table(comparison)}",
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
        f"the mix, not of h.</p>{_cells_table(stored)}",
    )


def _curves(comparison: Comparison) -> str:
    notes = ["The figure behind each name is cmc@1."]
    if "independent" in comparison.cells:
        first = percent(comparison.cells["independent"].cmc(1))
        notes.append(f"Not drawn is independent, which starts at {first} %.")
    floor = cmc_levels(comparison)[0]
    if floor > 0:
        notes.append(f"The vertical axis begins at {percent(floor, 0)} %.")
    ks, cells = curve_ks(comparison), comparison.cells
    table = wide_table(
        "CMC curves in numbers",
        "cmc@k, %",
        ["cell", *(f"k = {k}" for k in ks)],
        [[name, *(percent(cells[name].cmc(k)) for k in ks)] for name in in_order(cells)],
    )
    words = "Whoever looks further down the results finds a right item for more queries. "
    heading = "How soon a right item appears"
    charts = cmc_charts(comparison)
    return charts_section("curves", heading, f"{words}{' '.join(notes)}", charts, table)


def _grid(grid: RetrievalGrid) -> str:
    return section(
        "grid",
        "What comes back",
        "<p>Queries stand on the left; beside each, what came back first, nearest first, before "
        "the upgrade, after it, and after a full backfill.</p>"
        f"<p class='note'>{escape(grid.chosen)}</p>{grid_html(grid)}",
    )


def _cells_table(comparison: Comparison) -> str:
    """Return one row for each cell; the mean average precision also as a bar.

    The roles are written out because a phone lays the rows out as cards, which would
    otherwise take the table's meaning from those who listen to it.
    """
    heads = "".join(f'<th scope="col" role="columnheader">{head}</th>' for head in _COLUMNS)
    rows = "".join(_row(comparison, name) for name in in_order(comparison.cells))
    low, high = (comparison.cells[name].map for name in ("old/old", "new/new"))
    return (
        f'<table class="cells" role="table" style="--low:{_share(low)};--high:{_share(high)}">'
        "<caption>In percent. The update gain is that of map. The bar is map; its ticks are "
        'old/old and new/new.</caption><thead role="rowgroup"><tr role="row">'
        f'<th scope="col" role="columnheader">cell</th>{heads}'
        f'</tr></thead><tbody role="rowgroup">{rows}</tbody></table>'
    )


def _row(comparison: Comparison, name: str) -> str:
    evaluation = comparison.cells[name]
    gained = "" if name in ("old/old", "new/new") else percent(comparison.update_gain("map", name))
    bar = f'<span class="bar" style="--share:{_share(evaluation.map)}"></span>'
    values = (
        percent(comparison.value("cmc@1", name)),
        percent(comparison.value("cmc@5", name)),
        f'<span class="map"><span>{percent(evaluation.map)}</span>{bar}</span>',
        gained,
        f"{evaluation.queries:,}",
        f"{evaluation.skipped:,}",
    )
    cells = "".join(
        f'<td role="cell" data-name="{key}">{shown}</td>'
        for key, shown in zip(_COLUMNS, values, strict=True)
    )
    kind = {"old/old": "old", "new/old": "upgraded", "new/new": "new"}.get(name, "aside")
    about = explain(name, comparison.cells)
    return (
        f'<tr role="row" class="tone-{kind}" data-cell="{escape(name)}">'
        f'<th scope="row" role="rowheader"><b>{escape(name)}</b><span>{escape(about)}</span></th>'
        f"{cells}</tr>"
    )


def _share(fraction: float) -> str:
    return f"{fraction:.4f}" if math.isfinite(fraction) else "0"
