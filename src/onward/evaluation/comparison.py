"""Compare upgrading a gallery with doing nothing and with embedding all of it again.

A cell is named `query model/gallery model`: "old/old" is doing nothing, "new/new" is full
backfill, "new/old" is what an upgrade gives. Every cell answers the same queries from the same
items, so they differ in the vectors alone. Nothing here knows how vectors or rankings were made
except `evaluate_embeddings`, which joins search and evaluation in one step.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from onward.errors import EvaluationError
from onward.evaluation.metrics import METRICS, Evaluation, PerQuery, evaluate, parse_metrics
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import agreement, count_neighbours, rank, search
from onward.fusion import Fusion, Searchable, check_comparable, fuse
from onward.plain import plain
from onward.spaces import Embeddings

OLD, UPGRADED, NEW = "old/old", "new/old", "new/new"
WHEN_FUSED = " fused"
"""What the name of a cell ends with whose queries were asked of the old vectors too: of each item
both distances count. See `onward.fusion`."""
FUSED = f"{UPGRADED}{WHEN_FUSED}"
STORED = "new/old as stored"
"""A gallery as it stands where h made some of its vectors, and the new model embedded the rest."""


def evaluate_embeddings(
    queries: Searchable,
    gallery: Searchable,
    *,
    exclude_self: bool,
    same_labels: bool = False,
    relevance: Relevance | None = None,
    ignored: Mapping[str, Collection[str]] | None = None,
    metrics: Sequence[str] = METRICS,
) -> Evaluation:
    """Rank the whole gallery for every query and judge, in bounded memory.

    Args:
        queries: the same embeddings as the gallery if that is what is asked.
        gallery: in the same space.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        same_labels: if only one of the two has class names, the other's numbers mean the same.
        relevance: what each query is looking for, and what is ignored for it; what has its label
            if None. See `Relevance.of_qrels`.
        ignored: for each query's id, the ids of items that do not count for it; see
            `Relevance.ignoring`.
        metrics: names of what to measure and show: "map", "cmc@k", "recall@k", "mrr@k", "ndcg@k".

    Raises:
        SpaceMismatchError: if the two are in different spaces.
        EvaluationError: if labels are missing, the relevance is not of these queries and items,
            or there is no metric of a name.
        LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
    """
    if relevance is None:
        relevance = Relevance.between(
            queries, gallery, exclude_self=exclude_self, same_labels=same_labels
        )
    if ignored is not None:
        relevance = relevance.ignoring(ignored)
    metrics = parse_metrics(metrics)  # refused before long work is done
    _check_gallery(relevance, gallery)
    return evaluate(rank(queries, gallery, exclude_self=exclude_self), relevance, metrics=metrics)


def _check_gallery(relevance: Relevance, gallery: Searchable) -> None:
    """Refuse a relevance of other gallery items: what there is to find would be counted wrong."""
    differ = set(relevance.gallery_ids) ^ set(gallery.ids)
    if differ:
        raise EvaluationError(
            f"{len(differ)} items are in only one of the gallery and the relevance, the first "
            f"{min(differ)!r}",
            "make the relevance of the ids that the gallery has",
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """What doing nothing, upgrading and full backfill give, and what follows.

    Attributes:
        cells: evaluations by name: "old/old", and as a rule "new/old" and "new/new", and any
            others. Without "new/new" no gain is known. Verdict, gain and flips are of "new/old"
            where no cell is named, or else of "new/old as stored"; without both they are refused.

    Raises:
        EvaluationError: if "old/old" is missing, or the cells do not answer the same queries from
            galleries of the same items.
    """

    cells: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        _check_there(self.cells, (OLD,))
        aligned = {}
        for name, cell in self.cells.items():
            aligned[name] = cell.align(self.cells[OLD], (name, OLD))
            if cell.metrics != self.metrics:
                raise EvaluationError(
                    f"{name} shows {', '.join(cell.metrics)}, {OLD} {', '.join(self.metrics)}",
                    "evaluate every cell with the same metrics",
                )
        object.__setattr__(self, "cells", MappingProxyType(aligned))

    def value(self, metric: str, cell: str) -> float:
        """Return a metric of a cell, in [0, 1]; NaN if the rankings were cut above its rank.

        Raises:
            EvaluationError: if there is no such cell or metric, or it was not measured.
        """
        if cell not in self.cells:
            raise EvaluationError(
                f"there is no cell {cell!r}", needed=f"there are {list(self.cells)}"
            )
        evaluation = self.cells[cell]
        return evaluation.value(metric) if evaluation.reaches(metric) else float("nan")

    @property
    def upgraded(self) -> str:
        """The cell of the upgrade: "new/old", or else "new/old as stored"."""
        return STORED if STORED in self.cells and UPGRADED not in self.cells else UPGRADED

    def update_gain(self, metric: str, cell: str | None = None) -> float:
        """Return the share of what full backfill gains that the cell gains.

        `(M(cell) - M(old/old)) / (M(new/new) - M(old/old))`: 0 is doing nothing, 1 is full
        backfill; below 0 is worse than doing nothing, above 1 better than full backfill. NaN where
        full backfill gains nothing (of a loss, a share would have the wrong sign), or is not known.
        """
        reached, nothing = self.value(metric, cell or self.upgraded), self.value(metric, OLD)
        everything = self.value(metric, NEW) if NEW in self.cells else float("nan")
        return _gain(reached, nothing, everything)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is shown of each cell."""
        return self.cells[OLD].metrics

    @property
    def compatible(self) -> bool:
        """Whether map(new/old) > map(old/old).

        References:
            Shen et al., Towards backward-compatible representation learning, CVPR 2020.
        """
        return self.value("map", self.upgraded) > self.value("map", OLD)

    @property
    def fused(self) -> str | None:
        """The cell in which fused search answers after the upgrade; None where there is none."""
        cell = f"{self.upgraded}{WHEN_FUSED}"
        return cell if cell in self.cells else None

    def negative_flips(self, cell: str | None = None) -> float:
        """Return the share of queries whose first item was relevant in old/old and is not here.

        In [0, 1], of the queries that have something to find; NaN if there are none.
        """
        self.value("cmc@1", cell or self.upgraded)  # refuses a cell that is not there
        old, new = self.cells[OLD], self.cells[cell or self.upgraded]
        if not old.queries:
            return float("nan")
        return float(((old.first_hit == 0) & (new.first_hit != 0)).sum() / old.queries)

    def select(self, query_ids: Iterable[str]) -> "Comparison":
        """Return the comparison over some queries only, such as those of new classes."""
        ids = tuple(query_ids)
        return Comparison({name: cell.select(ids) for name, cell in self.cells.items()})

    @property
    def verdict(self) -> str:
        """Whether upgrading is worth it, against doing nothing and full backfill.

        One sentence; where there is a cell of fused search, another says what that gives.
        """
        if self.fused is None or np.isnan(self.value("map", self.fused)):
            return self._of_upgrade
        return (
            f"{self._of_upgrade} Fused search, with queries by both models, gives map "
            f"{_percent(self.value('map', self.fused))} and cmc@1 "
            f"{_percent(self.value('cmc@1', self.fused))}."
        )

    @property
    def _of_upgrade(self) -> str:
        nothing, upgrade = (self.value("map", name) for name in (OLD, self.upgraded))
        if any(np.isnan((nothing, upgrade))):
            return "Nothing can be said: no query has anything to find."
        backfill = self.value("map", NEW) if NEW in self.cells else float("nan")
        first = self.value("cmc@1", self.upgraded) - self.value("cmc@1", OLD)
        moved = f"map from {_percent(nothing)} (doing nothing) to {_percent(upgrade)}"
        top = (
            f"cmc@1 from {_percent(self.value('cmc@1', OLD))} "
            f"to {_percent(self.value('cmc@1', self.upgraded))}"
        )
        full = f"full backfill gives {_percent(backfill)}"
        if np.isnan(backfill):
            full = "what full backfill gives is not known"
        if backfill <= nothing and upgrade <= nothing:
            return f"Keep the old model: upgrading takes {moved}, and even {full}."
        if upgrade < nothing:
            return f"Do not upgrade: it takes {moved}, worse than doing nothing; {full}."
        if upgrade == nothing and first <= 0:
            return f"Do not upgrade: it gains nothing, {moved} and {top}; {full}."
        if first < 0:
            return f"Upgrade with care: it takes {moved}, but {top}, which is worse; {full}."
        gain = self.update_gain("map")
        if backfill > nothing and gain < 1:
            full = f"{_percent(gain, 0)} of what full backfill ({_percent(backfill)}) gains"
        return f"Upgrade: it takes {moved} and {top}; {full}."

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain Python values; None for what is not known.

        What is said of the upgrade is left out where there is no cell of it.
        """
        others = [name for name in self.cells if name not in (OLD, NEW)]
        flipped = [name for name in self.cells if name != OLD]
        gains = {
            cell: {metric: plain(self.update_gain(metric, cell)) for metric in self.metrics}
            for cell in others
        }
        flips = {cell: plain(self.negative_flips(cell)) for cell in flipped}
        told = {
            "cells": {name: cell.to_json() for name, cell in self.cells.items()},
            "update_gain_by_cell": gains,
            "negative_flips_by_cell": flips,
        }
        if self.upgraded not in self.cells:
            return told
        return told | {
            "update_gain": gains[self.upgraded],
            "negative_flips": flips[self.upgraded],
            "compatible": self.compatible,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        lines = _table(
            self.cells[OLD].heads(),
            {name: cell.columns() for name, cell in self.cells.items()},
            lambda name: self.update_gain("map", name),
            "percent; update gain of map",
        )
        counted = self.cells[OLD].counted_text()
        if self.upgraded not in self.cells:
            return "\n".join([*lines, counted])
        for cell in (self.upgraded, self.fused):
            if cell is not None and not np.isnan(flips := self.negative_flips(cell)):
                lines.append(
                    f"{_percent(flips)} of queries have a right first item in {OLD} and a wrong "
                    f"one in {cell}."
                )
        return "\n".join([*lines, counted, self.verdict])


def compare(cells: Mapping[str, Evaluation]) -> Comparison:
    """Compare evaluations by the name of their cell; see `Comparison`.

    Raises:
        EvaluationError: if "old/old" or "new/old" is missing, or as `Comparison` does.
    """
    _check_there(cells, (OLD, UPGRADED))
    return Comparison(dict(cells))


@dataclass(frozen=True, eq=False)
class AgreementComparison:
    """How much of what full backfill finds doing nothing and upgrading find, without answers.

    Attributes:
        cells: the agreement of each query with "new/new", by name: "old/old", "new/old" or "new/old
            as stored", and "new/new". See `onward.evaluation.retrieval.agreement`.
        neighbours: how many nearest items it compares.
        are_items: whether the queries are gallery items, which stand for queries that nobody has.
    """

    cells: Mapping[str, PerQuery]
    neighbours: int
    are_items: bool

    def value(self, cell: str) -> float:
        """Return the mean agreement of a cell, in [0, 1]; NaN where there is nothing to find."""
        values = self.cells[cell]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def update_gain(self, cell: str) -> float:
        """Return the share of what full backfill gains that a cell gains; see `Comparison`."""
        return _gain(self.value(cell), self.value(OLD), self.value(NEW))

    @property
    def asked(self) -> str:
        """What was asked, in words."""
        count = len(self.cells[OLD])
        return f"{count:,} items, as queries," if self.are_items else f"{count:,} real queries"

    @property
    def verdict(self) -> str:
        """One sentence: what is found, and that nothing tells whether it is right."""
        found = " and ".join(
            f"{_percent(self.value(name))} ({name})" for name in self.cells if name != NEW
        )
        return (
            f"Of what full backfill finds, these find {found}. To learn whether the new model is "
            "better, give labels, or qrels."
        )

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values; None for what is not known."""
        others = [name for name in self.cells if name not in (OLD, NEW)]
        return {
            "cells": {name: {"agreement": plain(self.value(name))} for name in self.cells},
            "update_gain_by_cell": {
                name: {"agreement": plain(self.update_gain(name))} for name in others
            },
            "neighbours": self.neighbours,
            "queries": len(self.cells[OLD]),
            "queries_are_items": self.are_items,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        columns = {name: f"{_tenths(self.value(name)):>11}" for name in self.cells}
        lines = _table("  agreement", columns, self.update_gain, "percent")
        said = f"Agreement of {self.asked} with full backfill, over {self.neighbours} neighbours."
        return "\n".join([*lines, said, self.verdict])


@dataclass(frozen=True, eq=False)
class UpgradeComparison:
    """What h alone gives, and what the gallery gives that stands there.

    They differ where the new model embedded some items: of these h's own vectors are not known, so
    h alone is judged among the items that it carried, and so are the cells it is compared with.

    Attributes:
        alone: of h alone, among the items that it carried; of all items if nothing tells that some
            were embedded; None if h is known to have carried none.
        stored: of all items as they are stored; None if `alone` is of all items.
        origins: how many of the items' vectors are "embedded", "upgraded" and "unknown".
        fusion: the pair that "new/old fused" is searched as; None where there is no such cell.
    """

    alone: Comparison | AgreementComparison | None
    stored: Comparison | AgreementComparison | None
    origins: Mapping[str, int]
    fusion: Fusion | None = None

    @property
    def items(self) -> int:
        """How many items there are."""
        return sum(self.origins.values())

    @property
    def carried(self) -> int:
        """How many items `alone` is judged among."""
        if self.stored is None:
            return self.items
        return self.origins.get("upgraded", 0)

    @property
    def origins_text(self) -> str:
        """How the vectors came to be, in a few words."""
        words = {
            "embedded": "embedded by the new model",
            "upgraded": "upgraded by h",
            "unknown": "of unknown origin",
        }
        counts = [f"{self.origins[one]:,} {words[one]}" for one in words if one in self.origins]
        return f"{self.items:,} items: {', '.join(counts)}"

    @property
    def caveats(self) -> tuple[str, ...]:
        """What is to be said besides, in sentences: of the pair, and of what nothing tells."""
        said = [] if self.fusion is None else [f"{FUSED} is {self.fusion}."]
        if self.stored is None and "unknown" in self.origins:
            said.append(
                "Nothing says which vectors of the upgraded gallery the new model embedded; if it "
                f"did some, {UPGRADED} is credited with them."
            )
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Return what `alone` says, if there is such, and what `stored` says as "as_stored"."""
        alone = {} if self.alone is None else {**self.alone.to_json(), "items": self.carried}
        stored = {}
        if self.stored is not None:
            stored = {"as_stored": {**self.stored.to_json(), "items": self.items}}
        pair = {} if self.fusion is None else {"fusion": self.fusion.to_json()}
        return {**alone, **stored, "origins": dict(self.origins), **pair}

    def __str__(self) -> str:
        if self.stored is None:
            return "\n".join([str(self.alone), *self.caveats])
        share = _percent(self.origins.get("embedded", 0) / self.items, 0)
        parts = [f"as stored, {share} embedded ({self.origins_text}):", str(self.stored)]
        if self.alone is not None:
            head = f"h alone, on the {self.carried:,} items that h carried:"
            parts = [head, str(self.alone), "", *parts]
        return "\n".join([*parts, *self.caveats])


Cells = Mapping[str, tuple[Embeddings, Embeddings]]
"""Queries and gallery of each cell."""


def compare_upgraded(
    cells: Cells,
    *,
    exclude_self: bool,
    relevance: Callable[[Embeddings, Embeddings], Relevance] | None,
    metrics: Sequence[str] = METRICS,
    fusion: Fusion | None = None,
) -> UpgradeComparison:
    """Compare an upgraded gallery with doing nothing and full backfill; h alone and as stored.

    Which items h carried the `origins` of the upgraded gallery say. Of a gallery that was embedded
    in part, h alone is judged among those items; queries that are other items are left out.

    Args:
        cells: queries and gallery of "old/old", "new/old" and, if it is known, "new/new": the same
            queries, and galleries of the same items.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        relevance: makes what the queries of a cell look for; the agreement with full backfill is
            compared if None.
        metrics: names of what to measure; see `evaluate_embeddings`.
        fusion: a pair of the spaces of "old/old" and "new/old"; there is a cell "new/old fused" if
            one is given.

    Raises:
        SpaceMismatchError: if queries and gallery of a cell are in different spaces.
        EvaluationError: if a cell is missing, or cells do not fit together.
        EmbeddingsError: if the pair is of other spaces.
    """
    _check_there(cells, (OLD, UPGRADED) if relevance is not None else (OLD, UPGRADED, NEW))
    for queries, gallery in cells.values():
        check_comparable(queries, gallery)
    known = {} if relevance is None else {name: relevance(*pair) for name, pair in cells.items()}

    def judge(cells: Cells) -> Comparison | AgreementComparison:
        asked = _with_fused(cells, fusion)
        if relevance is None:
            return _agreements(asked, exclude_self)
        evaluations = {
            name: evaluate_embeddings(
                queries,
                gallery,
                exclude_self=exclude_self,
                relevance=known.get(name, known[UPGRADED]).among(queries.ids, gallery.ids),
                metrics=metrics,
            )
            for name, (queries, gallery) in asked.items()
        }
        return Comparison(evaluations)

    origins = cells[UPGRADED][1].count_origins()
    alone = of_h_alone(cells)
    if alone is cells:
        return UpgradeComparison(judge(cells), None, origins, fusion)
    stored = judge({STORED if name == UPGRADED else name: pair for name, pair in cells.items()})
    return UpgradeComparison(None if alone is None else judge(alone), stored, origins, fusion)


def of_h_alone(cells: Cells) -> Cells | None:
    """Return cells whose galleries are the items that h carried, without queries that are others.

    The cells as they are where nothing tells that other items were embedded; None if h is known to
    have carried none.
    """
    carried = cells[UPGRADED][1]
    if carried.count_origins().keys() in ({"upgraded"}, {"unknown"}, set()):
        return cells
    of_items = list(zip(carried.ids, carried.origins or (), strict=True))
    items = {item for item, origin in of_items if origin == "upgraded"}
    others = {item for item, origin in of_items if origin != "upgraded"}
    if not items:
        return None
    return {
        name: (
            queries.select([item not in others for item in queries.ids]),
            gallery.select([item in items for item in gallery.ids]),
        )
        for name, (queries, gallery) in cells.items()
    }


def _with_fused(cells: Cells, fusion: Fusion | None) -> Mapping[str, tuple[Searchable, Searchable]]:
    """Return cells, and behind that of the upgrade the one that is fused, if there is a pair."""
    asked = dict[str, tuple[Searchable, Searchable]]()
    for name, (queries, gallery) in cells.items():
        asked[name] = queries, gallery
        if fusion is not None and name in (UPGRADED, STORED):
            old_queries, old_gallery = cells[OLD]
            asked[f"{name}{WHEN_FUSED}"] = (
                fuse(fusion, old_queries, queries, "queries"),
                fuse(fusion, old_gallery, gallery, "items"),
            )
    return asked


def _agreements(
    cells: Mapping[str, tuple[Searchable, Searchable]], exclude_self: bool
) -> AgreementComparison:
    """Judge cells by what full backfill finds."""
    queries, gallery = cells[NEW]
    count = count_neighbours(len(gallery))
    wanted = search(queries, gallery, count, exclude_self=exclude_self)
    found = {
        name: agreement(search(*pair, count, exclude_self=exclude_self), wanted)
        for name, pair in cells.items()
    }
    return AgreementComparison(found, count, set(queries.ids) <= set(gallery.ids))


def _check_there(cells: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse cells of which one of these is missing."""
    if missing := [name for name in names if name not in cells]:
        raise EvaluationError(
            f"a comparison of the cells {sorted(cells)} lacks {missing}",
            needed=f"it needs {OLD} (do nothing) and {UPGRADED} (upgrade), and {NEW} (full "
            "backfill) to know a gain",
        )


def _table(
    heads: str, columns: Mapping[str, str], gain: Callable[[str], float], unit: str
) -> list[str]:
    """Return the lines of a table of cells, with the update gain of those that have one."""
    width = max(len("query/gallery"), *map(len, columns))
    lines = [f"{'query/gallery':<{width}}{heads}{'update gain':>13}   ({unit})"]
    for name, column in columns.items():
        gained = float("nan") if name in (OLD, NEW) else gain(name)
        lines.append(f"{name:<{width}}{column}{_tenths(gained):>13}")
    return lines


def _gain(reached: float, nothing: float, everything: float) -> float:
    return (reached - nothing) / (everything - nothing) if everything > nothing else float("nan")


def _tenths(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.1f}"


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} %"
