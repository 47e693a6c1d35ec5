"""An experiment's page: what follows, each table with its update gains as bars, and every seed.

A table's rows are cells with a number for each seed. Nothing here knows how an experiment is
performed.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from onward.errors import EvaluationError
from onward.evaluation.comparison import NEW, OLD
from onward.evaluation.metrics import METRICS
from onward.report.charts import gain_bars
from onward.report.document import percent, section, wide_table, write_page

GAINS = ("cmc@1", "map")
"""The metrics whose update gain is shown."""


@dataclass(frozen=True)
class ExperimentRow:
    """A cell of an experiment.

    Attributes:
        cell: what it is called.
        numbers: by seed, "cmc@1", "cmc@5" and "map" in [0, 1]; NaN where one is not known.
        gain: by seed, the update gain in "cmc@1" and "map"; NaN where full backfill gains nothing.
            Empty for a cell that is no way to upgrade, such as old/old.
        extra: what else is to be said of it, by the head of a column, such as
            `{"bytes an item": "256", "method": "ridge"}`.
    """

    cell: str
    numbers: Mapping[int, Mapping[str, float]]
    gain: Mapping[int, Mapping[str, float]]
    extra: Mapping[str, str]

    def values(self, metric: str) -> list[float]:
        """Return a metric by seed, those that are known."""
        return _known(numbers[metric] for numbers in self.numbers.values())

    def gains(self, metric: str) -> list[float]:
        """Return the update gain in a metric by seed, where it is defined."""
        return _known(gain[metric] for gain in self.gain.values())


@dataclass(frozen=True)
class ExperimentTable:
    """Cells that answer the same queries from the same items.

    Attributes:
        name: such as "Closed set".
        rows: in the order that they are shown in.

    Raises:
        EvaluationError: if there is no row, a cell stands twice, or a number of a seed is missing.
    """

    name: str
    rows: tuple[ExperimentRow, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise EvaluationError(f"the table {self.name!r} has no rows", "leave it out")
        cells, seeds = [row.cell for row in self.rows], self.rows[0].numbers.keys()
        for row in self.rows:
            if cells.count(row.cell) > 1:
                raise EvaluationError(
                    f"{row.cell!r} stands twice in the table {self.name!r}",
                    "give each row its own name",
                )
            wanted = [(list(METRICS), one) for one in row.numbers.values()]
            wanted += [(list(GAINS), one) for one in row.gain.values()]
            whole = all(metric in one for metrics, one in wanted for metric in metrics)
            of_seeds = row.numbers.keys() == seeds and row.gain.keys() in (seeds, set())
            if not (seeds and whole and of_seeds):
                raise EvaluationError(
                    f"{row.cell!r} lacks numbers: each row has {', '.join(METRICS)} of the same "
                    f"seeds, one or more, and update gains in {' and '.join(GAINS)} of all or none",
                    "give NaN where a number is not known",
                )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every row."""
        return tuple(self.rows[0].numbers)

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of the columns that the rows have besides numbers and gains."""
        return tuple(dict.fromkeys(head for row in self.rows for head in row.extra))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What follows, in sentences: the best way to upgrade, and those worse than nothing."""
        upgrades = [row for row in self.rows if row.gains("map") and row.gains("cmc@1")]
        if not upgrades:
            return ("Nothing can be said of upgrades: no row has an update gain.",)
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        best, first = (_best(upgrades, metric) for metric in ("map", "cmc@1"))
        said = [
            f"Best of {len(upgrades)} in map, over {seeds}: {best.cell}, with "
            f"{_gained(best, 'map')} of what full backfill gains in map, and "
            f"{_gained(best, 'cmc@1')} in cmc@1."
        ]
        if first is not best:
            said.append(f"Best in cmc@1: {first.cell}, with {_gained(first, 'cmc@1')}.")
        return (*said, _worse_than_nothing(upgrades))


def _best(rows: list[ExperimentRow], metric: str) -> ExperimentRow:
    return max(rows, key=lambda row: _mean(row.gains(metric)))


def _gained(row: ExperimentRow, metric: str) -> str:
    gains = row.gains(metric)
    mean = f"{percent(_mean(gains))} %"
    return mean if len(gains) == 1 else f"{mean} ({_range(gains)})"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _range(values: Sequence[float]) -> str:
    return f"{percent(min(values))} to {percent(max(values))}"


def _worse_than_nothing(rows: list[ExperimentRow]) -> str:
    named = []
    for row in rows:
        lost = [metric for metric in GAINS if _mean(row.gains(metric)) < 0]
        if lost:
            named.append(f"{row.cell} ({' and '.join(lost)})")
    if not named:
        return "No way to upgrade is worse than doing nothing."
    return f"Worse than doing nothing: {', '.join(named)}."


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def write_experiment_report(
    path: Path | str,
    tables: Sequence[ExperimentTable],
    *,
    title: str,
    introduction: str,
    facts: Mapping[str, str],
) -> None:
    """Write the page; a reader sees the old one or all of the new one.

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
    sections = [_verdict(tables)]
    sections += [_table_section(number, table) for number, table in enumerate(tables, start=1)]
    write_page(
        path, title, kind="experiment", introduction=introduction, sections=sections, facts=facts
    )


def _verdict(tables: Sequence[ExperimentTable]) -> str:
    said = []
    for table in tables:
        first, *more = table.verdict
        said.append(
            f'<h3>{escape(table.name)}</h3><p class="verdict">{escape(first)}</p>'
            + "".join(f"<p>{escape(sentence)}</p>" for sentence in more)
        )
    return section(
        "verdict",
        "What came of it",
        f'<div class="came">{"".join(said)}'
        "<p class='note'><b>map</b>, mean average precision, says how high <em>all</em> items of "
        "the query’s class stand in its results. <b>cmc@k</b> is the share of queries with at "
        "least one among the first k. The <b>update gain</b> is the share of the way from doing "
        "nothing (old/old) to full backfill (new/new) that an upgrade covers; below 0 it is worse "
        "than doing nothing.</p></div>",
    )


def _table_section(number: int, table: ExperimentTable) -> str:
    bars = "".join(
        gain_bars(metric, {row.cell: row.gains(metric) for row in table.rows if row.gain})
        for metric in GAINS
        if any(row.gain for row in table.rows)
    )
    chart = (
        f'<div class="gain-charts">{bars}</div><p class="note">The line on the left of each bar is '
        "doing nothing (0 %), that on the right full backfill (100 %). The thin line spans the "
        "seeds.</p>"
    )
    count = len(table.seeds)
    seeds = f"{count} seeds: the mean, below it the least and the greatest." if count > 1 else ""
    return section(
        f"table-{number}",
        table.name,
        f"<p>Each row is a model that asks and a gallery that answers. {seeds or 'One seed.'}</p>"
        f"{_table(table)}{chart if bars else ''}"
        f"<details><summary>Every seed</summary>{_seeds(table)}</details>",
    )


def _table(table: ExperimentTable) -> str:
    heads = [*METRICS, *(f"gain {metric}" for metric in GAINS), *table.columns]
    rows = "".join(_row(row, table.columns) for row in table.rows)
    return wide_table(table.name, "In percent; gain is the update gain.", ["cell", *heads], rows)


def _row(row: ExperimentRow, columns: Sequence[str]) -> str:
    values = {metric: _shown(row.values(metric)) for metric in METRICS}
    values |= {f"gain {m}": _shown(row.gains(m)) if row.gain else "" for m in GAINS}
    values |= {head: escape(row.extra.get(head, "")) for head in columns}
    cells = "".join(
        f'<td data-name="{escape(head)}">{shown}</td>' for head, shown in values.items()
    )
    return (
        f'<tr class="tone-{_tone(row)}" data-cell="{escape(row.cell)}">'
        f'<th scope="row"><b>{escape(row.cell)}</b></th>{cells}</tr>'
    )


def _tone(row: ExperimentRow) -> str:
    """Return the tone of a cell; before its own name may stand that of a variant."""
    cell = row.cell.rpartition(": ")[2]
    return {OLD: "old", NEW: "new"}.get(cell, "upgraded" if row.gain else "aside")


def _shown(values: Sequence[float]) -> str:
    below = f"<span>{_range(values)}</span>" if len(values) > 1 else ""
    return f"{percent(_mean(values))}{below}"


def _seeds(table: ExperimentTable) -> str:
    heads = ["cell", "seed", *METRICS, *(f"gain {metric}" for metric in GAINS)]
    rows = []
    for row in table.rows:
        for seed, numbers in row.numbers.items():
            gain = row.gain.get(seed, {})
            shown = [percent(numbers[metric]) for metric in METRICS]
            shown += [percent(gain[metric]) if gain else "" for metric in GAINS]
            rows.append([row.cell, str(seed), *shown])
    return wide_table(f"{table.name}, every seed", "In percent.", heads, rows)
