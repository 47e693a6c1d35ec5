"""A backfill's page: what to do, and what search gives while ever more items are embedded."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from onward.artifacts import write_aside
from onward.backfill_curve import GRID
from onward.report.document import document, facts_section, section
from onward.report.share_chart import share_chart
from onward.report.wording import percent
from onward.upgrading.forecast import SEEDS
from onward.upgrading.plan import BackfillPlan

INTRODUCTION = (
    "An upgraded gallery answers the new model’s queries without any image having been read. Each "
    "item that the new model does embed replaces what the upgrade made of it. This page says what "
    "that is likely to bring, before it is paid for."
)
DRAWN = ("cmc@1", "map", "agreement")


def write_backfill_report(
    path: Path | str, plan: BackfillPlan, *, facts: Mapping[str, str]
) -> None:
    """Write the page; a reader sees the old one or all of the new one.

    Args:
        path: the HTML file.
        plan: what the backfill would bring.
        facts: how the numbers came to be, such as the command.
    """
    sections = [_advice(plan)]
    sections += [_curves(plan, metric) for metric in DRAWN if metric in plan.metrics]
    sections.append(facts_section({**_facts(plan), **facts}))
    title = "What a backfill would bring"
    page = document(title, kind="backfill", introduction=INTRODUCTION, sections=sections)
    with write_aside(Path(path)) as aside:
        aside.write_text(page, encoding="utf-8")


def _advice(plan: BackfillPlan) -> str:
    return section("advice", "Advice", f'<p class="verdict">{escape(plan.advice)}</p>')


def _curves(plan: BackfillPlan, metric: str) -> str:
    curves = {one.order: one.on_grid(metric).tolist() for one in plan.drawn.curves}
    wide = share_chart(metric, GRID, curves, width=1000, height=420)
    narrow = share_chart(metric, GRID, curves, width=340, height=300)
    name = metric.replace("@", "-at-")
    return section(
        name,
        f"{metric} against the share embedded",
        f"<p>{_explanation(metric)} On the left the upgrade alone, on the right full backfill. "
        "By uncertainty, what the transformation is least sure of is embedded first; the oracle "
        "begins with what is farthest off, which only full backfill would tell.</p>"
        f'<div class="chart chart-wide">{wide}</div><div class="chart chart-narrow">{narrow}</div>'
        f"<details><summary>The curves in numbers</summary>{_table(plan, metric)}</details>",
    )


def _explanation(metric: str) -> str:
    if metric == "cmc@1":
        return "The share of queries whose nearest item is of their class."
    if metric == "map":
        return "Mean average precision: how high all items of the query’s class stand."
    return "Without labels: the share of the neighbours that full backfill would give."


def _table(plan: BackfillPlan, metric: str) -> str:
    heads = "".join(f'<th scope="col">{escape(one.order)}</th>' for one in plan.drawn.curves)
    rows = "".join(
        f'<tr><th scope="row">{percent(share)}</th>'
        + "".join(
            f"<td>{percent(float(one.on_grid(metric)[at]))}</td>" for one in plan.drawn.curves
        )
        + "</tr>"
        for at, share in enumerate(GRID)
    )
    means = "".join(f"<td>{percent(one.auc(metric))}</td>" for one in plan.drawn.curves)
    label = f"{metric} in numbers"
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<caption>{metric}, %</caption><thead><tr>"
        f'<th scope="col">embedded, %</th>{heads}</tr></thead><tbody>{rows}'
        f'<tr><th scope="row">{plan.auc_name}</th>{means}</tr></tbody></table></div>'
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
