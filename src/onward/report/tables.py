"""The report's tables as HTML: the cells of a comparison, and the CMC curves in numbers."""

import math
from html import escape

from onward.compatibility import Comparison
from onward.evaluation import METRICS
from onward.report.charts import curve_ks
from onward.report.wording import explain, in_order, percent

_COLUMNS = (*METRICS, "update gain", "queries", "left out")


def cells_table(comparison: Comparison) -> str:
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


def curves_table(comparison: Comparison) -> str:
    """Return the curves' values at their markers."""
    ks = curve_ks(comparison)
    heads = "".join(f'<th scope="col">k = {k}</th>' for k in ks)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{percent(comparison.cells[name].cmc(k))}</td>" for k in ks)
        + "</tr>"
        for name in in_order(comparison.cells)
    )
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="CMC curves in numbers"><table>'
        f'<caption>cmc@k, %</caption><thead><tr><th scope="col">cell</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
