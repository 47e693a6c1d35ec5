"""The pages: of a comparison, of an experiment over several seeds, and of a backfill's plan.

Each begins with what follows, then shows the numbers that say so. Nothing here knows how they were
made.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from onward.errors import EvaluationError
from onward.evaluation.backfill_curve import GRID
from onward.evaluation.comparison import (
    NEW,
    OLD,
    UPGRADED,
    WHEN_FUSED,
    Comparison,
    UpgradeComparison,
)
from onward.evaluation.metrics import METRICS
from onward.report.document import (
    Line,
    curves,
    explain,
    gain_bars,
    in_order,
    levels_around,
    percent,
    section,
    table,
    table_row,
    with_sign,
    write_page,
)
from onward.report.grid import RetrievalGrid
from onward.upgrading.forecast import SEEDS
from onward.upgrading.plan import BackfillPlan

TONES = {OLD: "old", UPGRADED: "upgraded", NEW: "new"}
GAINS = {f"gain {metric}": metric for metric in ("cmc@1", "map")}
"""The columns of the update gain, and of each the metric."""
EXPLAINED = {
    "cmc@1": "The share of queries whose nearest item is of their class.",
    "map": "Mean average precision: how high all items of the query’s class stand.",
    "agreement": "Without labels: the share of the neighbours that full backfill would give.",
}
"""Of each metric that is drawn of a backfill, what it is."""
STARTS = "On the left the upgrade alone, on the right full backfill."
FUSED_STARTS = (
    "The old vectors and the new ones answer together. On the left the new ones are all upgraded, "
    "on the right all embedded."
)
ABOUT_METRICS = (
    "<b>map</b>, mean average precision, says how high <em>all</em> items of the query’s class "
    "stand in its results: 100 % if nothing else stands before them. <b>cmc@k</b> is the share of "
    "queries with at least one among the first k. Higher is better in both."
)
ABOUT_BACKFILL = (
    "An upgraded gallery answers the new model’s queries without any image having been read. Each "
    "item that the new model does embed replaces what the upgrade made of it. This page says what "
    "that is likely to bring, before it is paid for."
)
_KS = (1, 2, 5, 10, 20, 50)
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MARK_EVERY = 3  # points of a curve against the share embedded


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
    """Write a comparison's page; a reader sees the old one or all of the new one.

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
    sections = [_verdict(comparison), _gain(comparison), _cells(comparison), _cmc(comparison)]
    if upgrade is not None and isinstance(upgrade.stored, Comparison):
        sections.insert(1, _stored(upgrade, upgrade.stored))
    if grid is not None:
        sections.append(_grid(grid))
    write_page(path, title, sections, kind="comparison", introduction=introduction, facts=facts)


def _verdict(comparison: Comparison) -> str:
    ends = {
        OLD: ("Do nothing", "old/old"),
        UPGRADED: ("Upgrade", "new/old, no image read"),
        NEW: ("Full backfill", "new/new, all images read"),
    }
    figures = "".join(
        f'<div class="tone-{TONES[cell]}"><dt>{words} <span>{about}</span></dt>'
        f"<dd><b>{percent(comparison.value('map', cell))}</b> % map</dd>"
        f"<dd>{percent(comparison.value('cmc@1', cell))} % cmc@1</dd></div>"
        for cell, (words, about) in ends.items()
    )
    gained = with_sign(comparison.update_gain("map"))
    return section(
        "verdict",
        "Verdict",
        f'<p class="verdict">{escape(comparison.verdict)}</p><dl class="figures">{figures}'
        f'<div class="tone-gain"><dt>Update gain <span>of map</span></dt><dd><b>{gained}</b></dd>'
        f'<dd>of the way to full backfill</dd></div></dl><p class="note">{ABOUT_METRICS}</p>',
    )


def _gain(comparison: Comparison) -> str:
    flips = percent(comparison.negative_flips())
    upgrades = [cell for cell in in_order(comparison.cells) if cell.startswith(UPGRADED)]
    bars = "".join(
        gain_bars(
            metric, {cell: known([comparison.update_gain(metric, cell)]) for cell in upgrades}
        )
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


def _cells_table(comparison: Comparison) -> str:
    """Return one row for each cell; the mean average precision also as a bar."""
    rows = []
    for name in in_order(comparison.cells):
        cell = comparison.cells[name]
        gained = "" if name in (OLD, NEW) else percent(comparison.update_gain("map", name))
        bar = f'<span class="bar" style="--share:{_length(cell.map)}"></span>'
        values = (
            percent(comparison.value("cmc@1", name)),
            percent(comparison.value("cmc@5", name)),
            f'<span class="map"><span>{percent(cell.map)}</span>{bar}</span>',
            gained,
            f"{cell.queries:,}",
            f"{cell.skipped:,}",
        )
        about = explain(name, comparison.cells)
        rows.append(table_row(name, values, tone=TONES.get(name, "aside"), about=about))
    low, high = (_length(comparison.cells[name].map) for name in (OLD, NEW))
    return table(
        ["cell", *METRICS, "update gain", "queries", "left out"],
        rows,
        "In percent. The update gain is that of map. The bar is map; its ticks are old/old and "
        "new/new.",
        words=f'class="cells" style="--low:{low};--high:{high}"',
    )


def _length(fraction: float) -> str:
    return f"{fraction:.4f}" if math.isfinite(fraction) else "0"


def _cmc(comparison: Comparison) -> str:
    """Draw cmc@k against k, as far down as every ranking reaches; nothing for k = 1 alone.

    `independent` is at chance and would press all others together at the top; it is left out of
    the drawing (not of the tables), and so is a cell without any query.
    """
    cells = comparison.cells
    depths = [cell.depth for cell in cells.values() if cell.depth is not None]
    ks = [k for k in _KS if k <= min(depths, default=_KS[-1])]
    names = [name for name in cells if name != "independent" and cells[name].queries > 0]
    if len(ks) < 2 or not names:
        return ""
    places = [math.log(k) / math.log(ks[-1]) for k in range(1, ks[-1] + 1)]
    levels = levels_around(min(cells[name].cmc(1) for name in names), 1.0)
    drawn = curves(
        [
            Line(
                name,
                f" {percent(cells[name].cmc(1))}",
                list(zip(places, cells[name].curve(ks[-1]).tolist(), strict=True)),
                [k - 1 for k in ks],
            )
            for name in sorted(in_order(names), key=lambda name: -cells[name].cmc(1))
        ],
        levels=levels,
        ticks=[(places[k - 1], str(k)) for k in ks],
        titles=(
            "cmc@k: queries with a right item in the first k, %",
            "k, results looked at (log scale)",
        ),
    )
    words = (
        "Whoever looks further down the results finds a right item for more queries. The figure "
        "behind each name is cmc@1."
    )
    if "independent" in cells:
        first = percent(cells["independent"].cmc(1))
        words += f" Not drawn is independent, which starts at {first} %."
    if levels[0] > 0:
        words += f" The vertical axis begins at {percent(levels[0], 0)} %."
    rows = [table_row(name, [percent(cells[name].cmc(k)) for k in ks]) for name in in_order(cells)]
    heads = ["cell", *(f"k = {k}" for k in ks)]
    numbers = table(heads, rows, "cmc@k, %", wide="CMC curves in numbers")
    return _drawn_section("curves", "How soon a right item appears", words, drawn, numbers)


def _drawn_section(name: str, heading: str, words: str, drawn: str, numbers: str) -> str:
    """Return a section with curves, and the same in numbers, folded."""
    folded = f"<details><summary>The curves in numbers</summary>{numbers}</details>"
    return section(name, heading, f"<p>{words}</p>{drawn}{folded}")


def _grid(grid: RetrievalGrid) -> str:
    return section(
        "grid",
        "What comes back",
        "<p>Queries stand on the left; beside each, what came back first, nearest first, before "
        "the upgrade, after it, and after a full backfill.</p>"
        f"<p class='note'>{escape(grid.chosen)}</p>{grid.drawn}",
    )


@dataclass(frozen=True)
class ExperimentRow:
    """A cell of an experiment.

    Attributes:
        cell: what it is called.
        numbers: by column, one a seed: "cmc@1", "cmc@5" and "map" in [0, 1], NaN where one is not
            known; of a way to upgrade the update gain too, "gain cmc@1" and "gain map", NaN where
            full backfill gains nothing.
        extra: what else is to be said of it, by the head of a column, such as
            `{"bytes an item": "256", "method": "ridge"}`.
    """

    cell: str
    numbers: Mapping[str, Sequence[float]]
    extra: Mapping[str, str]

    def known(self, column: str) -> list[float]:
        """Return the numbers of a column that are known, or defined."""
        return known(self.numbers.get(column, ()))


@dataclass(frozen=True)
class ExperimentTable:
    """Cells that answer the same queries from the same items.

    Attributes:
        name: such as "Closed set".
        seeds: of which each row has a number, in their order.
        rows: in the order that they are shown in.

    Raises:
        EvaluationError: if there is no row, a cell stands twice, or a number of a seed is missing.
    """

    name: str
    seeds: Sequence[int]
    rows: Sequence[ExperimentRow]

    def __post_init__(self) -> None:
        if not self.rows:
            raise EvaluationError(f"the table {self.name!r} has no rows", "leave it out")
        cells = [row.cell for row in self.rows]
        for row in self.rows:
            if cells.count(row.cell) > 1:
                raise EvaluationError(
                    f"{row.cell!r} stands twice in the table {self.name!r}",
                    "give each row its own name",
                )
            lengths = {len(values) for values in row.numbers.values()}
            if lengths != {len(self.seeds) or 1} or row.numbers.keys() not in (
                {*METRICS},
                {*METRICS, *GAINS},
            ):
                raise EvaluationError(
                    f"{row.cell!r} lacks numbers: each row has {', '.join(METRICS)} of the same "
                    f"seeds, one or more, and {' and '.join(GAINS)} of all or none",
                    "give NaN where a number is not known",
                )

    @property
    def verdict(self) -> tuple[str, ...]:
        """What follows, in sentences: the best way to upgrade, and those worse than nothing."""
        upgrades = [row for row in self.rows if all(row.known(gain) for gain in GAINS)]
        if not upgrades:
            return ("Nothing can be said of upgrades: no row has an update gain.",)
        gains = {gain: {row.cell: row.known(gain) for row in upgrades} for gain in GAINS}
        best, first = (
            max(by_cell, key=lambda cell: statistics.fmean(by_cell[cell]))
            for by_cell in (gains["gain map"], gains["gain cmc@1"])
        )
        count = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        said = [
            f"Best of {len(upgrades)} in map, over {count}: {best}, with "
            f"{_gained(gains['gain map'][best])} of what full backfill gains in map, and "
            f"{_gained(gains['gain cmc@1'][best])} in cmc@1."
        ]
        if first != best:
            said.append(f"Best in cmc@1: {first}, with {_gained(gains['gain cmc@1'][first])}.")
        worse = {
            row.cell: [m for g, m in GAINS.items() if statistics.fmean(gains[g][row.cell]) < 0]
            for row in upgrades
        }
        named = [f"{cell} ({' and '.join(lost)})" for cell, lost in worse.items() if lost]
        if named:
            return (*said, f"Worse than doing nothing: {', '.join(named)}.")
        return (*said, "No way to upgrade is worse than doing nothing.")


def known(values: Iterable[float]) -> list[float]:
    """Return the numbers that are neither NaN nor infinite."""
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> str:
    """Return the mean in percent; a dash where there is none."""
    return percent(statistics.fmean(values) if values else math.nan)


def _range(values: Sequence[float]) -> str:
    return f"{percent(min(values))} to {percent(max(values))}"


def _gained(gains: Sequence[float]) -> str:
    return f"{_mean(gains)} %" + (f" ({_range(gains)})" if len(gains) > 1 else "")


def write_experiment_report(
    path: Path | str,
    tables: Sequence[ExperimentTable],
    *,
    title: str,
    introduction: str,
    facts: Mapping[str, str],
) -> None:
    """Write an experiment's page; a reader sees the old one or all of the new one.

    Args:
        path: the HTML file.
        tables: such as one for the closed and one for the open set.
        title: what was asked.
        introduction: for somebody who knows nothing of it; blank lines part paragraphs.
        facts: how the numbers came to be, such as seeds, versions, command and time.

    Raises:
        EvaluationError: if there is no table.
    """
    if not tables:
        raise EvaluationError("a page needs a table", "give one ExperimentTable or more")
    said = "".join(
        f'<h3>{escape(each.name)}</h3><p class="verdict">{escape(each.verdict[0])}</p>'
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in each.verdict[1:])
        for each in tables
    )
    about = (
        f'<p class="note">{ABOUT_METRICS} The <b>update gain</b> is the share of the way from '
        "doing nothing (old/old) to full backfill (new/new) that an upgrade covers; below 0 it is "
        "worse than doing nothing.</p>"
    )
    verdict = section("verdict", "What came of it", f'<div class="came">{said}{about}</div>')
    numbered = [_table_section(number, each) for number, each in enumerate(tables, start=1)]
    sections = [verdict, *numbered]
    write_page(path, title, sections, kind="experiment", introduction=introduction, facts=facts)


def _table_section(number: int, shown: ExperimentTable) -> str:
    bars = "".join(
        gain_bars(metric, {row.cell: row.known(gain) for row in shown.rows if gain in row.numbers})
        for gain, metric in GAINS.items()
        if any(gain in row.numbers for row in shown.rows)
    )
    chart = (
        f'<div class="gain-charts">{bars}</div><p class="note">The line on the left of each bar is '
        "doing nothing (0 %), that on the right full backfill (100 %). The thin line spans the "
        "seeds.</p>"
    )
    count = len(shown.seeds)
    seeds = f"{count} seeds: the mean, below it the least and the greatest." if count > 1 else ""
    return section(
        f"table-{number}",
        shown.name,
        f"<p>Each row is a model that asks and a gallery that answers. {seeds or 'One seed.'}</p>"
        f"{_means_table(shown)}{chart if bars else ''}"
        f"<details><summary>Every seed</summary>{_seeds_table(shown)}</details>",
    )


def _means_table(shown: ExperimentTable) -> str:
    extra = list(dict.fromkeys(head for row in shown.rows for head in row.extra))
    rows = []
    for row in shown.rows:
        kind = row.cell.rpartition(": ")[2]  # before it may stand the name of a variant
        tone = {OLD: "old", NEW: "new"}.get(
            kind, "upgraded" if "gain map" in row.numbers else "aside"
        )
        values = [_mean_and_range(row, column) for column in (*METRICS, *GAINS)]
        others = (escape(row.extra.get(head, "")) for head in extra)
        about = explain(kind, ()) if kind.endswith(WHEN_FUSED) else ""
        rows.append(table_row(row.cell, [*values, *others], tone=tone, about=about))
    heads = ["cell", *METRICS, *GAINS, *extra]
    return table(heads, rows, "In percent; gain is the update gain.", wide=shown.name)


def _mean_and_range(row: ExperimentRow, column: str) -> str:
    if column not in row.numbers:
        return ""
    values = row.known(column)
    return _mean(values) + (f"<span>{_range(values)}</span>" if len(values) > 1 else "")


def _seeds_table(shown: ExperimentTable) -> str:
    columns = (*METRICS, *GAINS)
    rows = [
        table_row(
            row.cell,
            [
                str(seed),
                *(percent(row.numbers[c][at]) if c in row.numbers else "" for c in columns),
            ],
        )
        for row in shown.rows
        for at, seed in enumerate(shown.seeds)
    ]
    heads = ["cell", "seed", *columns]
    return table(heads, rows, "In percent.", wide=f"{shown.name}, every seed")


def write_backfill_report(
    path: Path | str, plan: BackfillPlan, *, facts: Mapping[str, str]
) -> None:
    """Write a backfill's page: what to do, and what search gives as ever more is embedded.

    Args:
        path: the HTML file; a reader sees the old one or all of the new one.
        plan: what the backfill would bring.
        facts: how the numbers came to be, such as the command.
    """
    advice = section("advice", "Advice", f'<p class="verdict">{escape(plan.advice)}</p>')
    drawn = [
        _backfill_curves(plan, metric, fused=fused)
        for metric in EXPLAINED
        for fused in ((False,) if plan.fused is None else (False, True))
        if metric in plan.metrics
    ]
    write_page(
        path,
        "What a backfill would bring",
        [advice, *drawn],
        kind="backfill",
        introduction=ABOUT_BACKFILL,
        facts={**_facts(plan), **facts},
    )


def _backfill_curves(plan: BackfillPlan, metric: str, *, fused: bool) -> str:
    """Return the curves of one metric, by the new space alone or by fused search, drawn alike."""
    both = [one for one in (plan.drawn, plan.fused) if one is not None]
    values = [value for one in both for order in one.values for value in one.on_grid(order, metric)]
    shown = both[-1] if fused else plan.drawn
    by_order = {one: shown.on_grid(one, metric).tolist() for one in shown.values}
    name, starts = (f"fused {metric}", FUSED_STARTS) if fused else (metric, STARTS)
    drawn = curves(
        [
            Line(
                order,
                f", auc@{len(curve)} {percent(sum(curve) / len(curve))}",
                list(zip(GRID, curve, strict=True)),
                range(0, len(GRID), _MARK_EVERY),
            )
            for order, curve in by_order.items()
        ],
        levels=levels_around(min(values), max(values)),
        ticks=[(share, f"{100 * share:.0f}") for share in _SHARES],
        titles=(f"{name}, %", "items embedded by the new model, %"),
    )
    rows = [
        table_row(percent(share), map(percent, of_orders))
        for share, *of_orders in zip(GRID, *by_order.values(), strict=True)
    ]
    means = table_row(plan.auc_name, [percent(shown.auc(one, metric)) for one in by_order])
    heads = ["embedded, %", *by_order]
    return _drawn_section(
        name.replace("@", "-at-").replace(" ", "-"),
        f"{name} against the share embedded",
        f"{EXPLAINED[metric]} {starts} "
        "By uncertainty, what the transformation is least sure of is embedded first; the oracle "
        "begins with what is farthest off, which only full backfill would tell.",
        drawn,
        table(heads, [*rows, means], f"{name}, %", wide=f"{name} in numbers"),
    )


def _facts(plan: BackfillPlan) -> dict[str, str]:
    left_out = ", ".join(f"{count:,} ({why})" for why, count in plan.left_out.items())
    return {
        "gallery": plan.gallery,
        "transformation": plan.transformation,
        "new space": str(plan.space),
        "rows": f"{plan.upgraded:,} upgraded, {plan.embedded:,} embedded by the new model, "
        f"{plan.missing:,} without a new vector",
        "judged on": f"{plan.within.items:,} items of the gallery, each a query for the others",
        "of these, lost": f"{plan.within.lost:,} that no transformation can carry: not found until "
        "they are embedded; they come first",
        "left out of the sample": left_out or "nothing",
        "random": f"the mean of {SEEDS} random orders",
    }
