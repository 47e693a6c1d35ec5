"""An experiment's page: what follows, each table with its update gains as bars, and every seed."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from onward.artifacts import write_aside
from onward.compatibility import NEW, OLD
from onward.errors import EvaluationError
from onward.evaluation import METRICS
from onward.report.charts import gain_bars
from onward.report.document import document, facts_section, section
from onward.report.experiment import GAINS, ExperimentRow, ExperimentTable, spread
from onward.report.wording import percent


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
    if facts:
        sections.append(facts_section(facts))
    page = document(title, kind="experiment", introduction=introduction, sections=sections)
    with write_aside(Path(path)) as aside:
        aside.write_text(page, encoding="utf-8")


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
    return _wide(table.name, "In percent; gain is the update gain.", ["cell", *heads], rows)


def _row(row: ExperimentRow, columns: Sequence[str]) -> str:
    values = {metric: _mean(row.values(metric)) for metric in METRICS}
    values |= {f"gain {m}": _mean(row.gains(m)) if row.gain else "" for m in GAINS}
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


def _mean(values: list[float]) -> str:
    mean, least, greatest = spread(values)
    if len(values) < 2:
        return percent(mean)
    return f"{percent(mean)}<span>{percent(least)} to {percent(greatest)}</span>"


def _seeds(table: ExperimentTable) -> str:
    heads = ["cell", "seed", *METRICS, *(f"gain {metric}" for metric in GAINS)]
    rows = []
    for row in table.rows:
        for seed, numbers in row.numbers.items():
            gain = row.gain.get(seed, {})
            shown = [percent(numbers[metric]) for metric in METRICS]
            shown += [percent(gain[metric]) if gain else "" for metric in GAINS]
            cells = "".join(f"<td>{value}</td>" for value in (str(seed), *shown))
            rows.append(f'<tr><th scope="row">{escape(row.cell)}</th>{cells}</tr>')
    return _wide(f"{table.name}, every seed", "In percent.", heads, "".join(rows))


def _wide(name: str, caption: str, heads: Sequence[str], rows: str) -> str:
    """Return a table that is scrolled sideways where it does not fit, its first column fixed."""
    shown = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="wide runs" role="region" tabindex="0" aria-label="{escape(name)}"><table>'
        f"<caption>{caption}</caption><thead><tr>{shown}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )
