"""A backfill's page: what to do, and what search gives while ever more items are embedded."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from onward.evaluation.backfill_curve import GRID
from onward.report.charts import share_charts
from onward.report.document import charts_section, percent, section, wide_table, write_page
from onward.upgrading.forecast import SEEDS
from onward.upgrading.plan import BackfillPlan

INTRODUCTION = (
    "An upgraded gallery answers the new model’s queries without any image having been read. Each "
    "item that the new model does embed replaces what the upgrade made of it. This page says what "
    "that is likely to bring, before it is paid for."
)
EXPLAINED = {
    "cmc@1": "The share of queries whose nearest item is of their class.",
    "map": "Mean average precision: how high all items of the query’s class stand.",
    "agreement": "Without labels: the share of the neighbours that full backfill would give.",
}
"""Of each metric that is drawn, what it is."""


def write_backfill_report(
    path: Path | str, plan: BackfillPlan, *, facts: Mapping[str, str]
) -> None:
    """Write the page; a reader sees the old one or all of the new one.

    Args:
        path: the HTML file.
        plan: what the backfill would bring.
        facts: how the numbers came to be, such as the command.
    """
    verdict = f'<p class="verdict">{escape(plan.advice)}</p>'
    curves = [_curves(plan, metric) for metric in EXPLAINED if metric in plan.metrics]
    write_page(
        path,
        "What a backfill would bring",
        kind="backfill",
        introduction=INTRODUCTION,
        sections=[section("advice", "Advice", verdict), *curves],
        facts={**_facts(plan), **facts},
    )


def _curves(plan: BackfillPlan, metric: str) -> str:
    curves = {one.order: one.on_grid(metric).tolist() for one in plan.drawn.curves}
    shown = zip(GRID, *curves.values(), strict=True)
    rows = [[percent(value) for value in row] for row in shown]
    means = [percent(one.auc(metric)) for one in plan.drawn.curves]
    table = wide_table(
        f"{metric} in numbers",
        f"{metric}, %",
        ["embedded, %", *curves],
        [*rows, [plan.auc_name, *means]],
    )
    return charts_section(
        metric.replace("@", "-at-"),
        f"{metric} against the share embedded",
        f"{EXPLAINED[metric]} On the left the upgrade alone, on the right full backfill. "
        "By uncertainty, what the transformation is least sure of is embedded first; the oracle "
        "begins with what is farthest off, which only full backfill would tell.",
        share_charts(metric, GRID, curves),
        table,
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
        "they are embedded, which they are first",
        "left out of the sample": left_out or "nothing",
        "random": f"the mean of {SEEDS} random orders",
    }
