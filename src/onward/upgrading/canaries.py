"""Ask queries whose answers are known, before the new space serves: the canaries of an upgrade.

The gallery itself answers them, from the new space as it is stored, and the same queries of the old
model from the space that they are in. What must be found is said by labels, or by ids. Nothing here
writes.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from onward.compatibility import NEW, OLD, UPGRADED
from onward.errors import UpgradeError
from onward.evaluation import Counts, Evaluation, average_precision, first_hits
from onward.gallery import GalleryRows
from onward.labels import renumber, translate
from onward.rankings import Ranking
from onward.spaces import Embeddings, Space
from onward.upgrading.gate import Requirement, Verdict

DEPTH = 100
"""Number of items asked for a query; a relevant one that is not among them adds zero to map."""

METRICS = ("cmc@1", "cmc@5", "map")


@dataclass(frozen=True, eq=False)
class Canaries:
    """Queries whose answers are known, and what their answers must reach.

    Attributes:
        new: embedded by the new model; with labels, unless `relevant` is given. A query with the
            id of an item is another thing than the item where `relevant` is given, and else does
            not look for itself.
        old: the same queries in the same order, embedded by the old model, to compare with.
        relevant: for each query's id, the ids of the items that it should find.
        require: what must be reached, such as `Requirement.parse("cmc@1 >= 0.98 * old/old")`; of
            cmc@1, cmc@5 or map. If None, "map >= old/old".
        same_labels: if only the gallery or only the canaries have class names, the numbers of the
            others mean the same. Where both have names, labels go by these.

    Raises:
        UpgradeError: if these do not fit together; the message says what is missing.
    """

    new: Embeddings
    old: Embeddings | None = None
    relevant: Mapping[str, Collection[str]] | None = None
    require: Requirement | None = None
    same_labels: bool = False

    def __post_init__(self) -> None:
        _check_pair(self.new, self.old)
        if self.relevant is None and self.new.labels is None:
            raise UpgradeError(
                "the canaries have no labels, and it is not said what they should find; give "
                "embeddings with labels, qrels (Canaries.of_qrels, --qrels FILE), or the ids of "
                "the relevant items (relevant=...)"
            )
        missing = sorted(set(self.new.ids) - set(self.relevant or self.new.ids))
        if missing:
            raise UpgradeError(
                f"of {len(missing)} canaries it is not said what they should find, the first is "
                f"{missing[0]!r}; give ids for each, or leave it out"
            )
        if self.requirement.metric not in METRICS or self.requirement.cell == NEW:
            raise UpgradeError(
                f"canaries cannot tell whether {self.requirement}: they know {', '.join(METRICS)} "
                f"of the upgraded gallery and of {OLD}; require something of these"
            )
        if self.old is None and self.requirement.cell is not None:
            raise UpgradeError(
                f"{self.requirement} is required, but the canaries have no old embeddings to "
                "compare with; give them (old=..., --canaries-old or --queries-old FILE), or "
                "require a number, such as 'cmc@1 >= 0.6'"
            )

    @classmethod
    def of_qrels(
        cls,
        new: Embeddings,
        qrels: Mapping[str, Mapping[str, int]],
        *,
        old: Embeddings | None = None,
        require: Requirement | None = None,
    ) -> "Canaries":
        """Return the canaries among real queries: those of which qrels name a relevant item.

        Args:
            new: queries embedded by the new model.
            qrels: for each query's id, the grade of each item's id; above 0 is relevant. See
                `onward.judgements.read_qrels`.
            old: the same queries in the same order, embedded by the old model.
            require: what must be reached; see `Canaries`.

        Raises:
            UpgradeError: if qrels name a relevant item of none of the queries, or as `Canaries`.
        """
        _check_pair(new, old)
        relevant = {
            query: [item for item, grade in grades.items() if grade > 0]
            for query, grades in qrels.items()
        }
        rows = [row for row, query in enumerate(new.ids) if relevant.get(query)]
        if not rows:
            raise UpgradeError(
                f"the qrels of {len(qrels)} queries name a relevant item of none of the {len(new)} "
                f"that are asked, the first of which is {new.ids[0] if len(new) else None!r}; give "
                "qrels with the ids that the queries have"
            )
        kept = {new.ids[row]: relevant[new.ids[row]] for row in rows}
        by_old = None if old is None else old.select(rows)
        return cls(new.select(rows), by_old, kept, require)

    @property
    def requirement(self) -> Requirement:
        """What must be reached."""
        return self.require or Requirement("map", False, OLD)


@dataclass(frozen=True)
class CanaryResult(Verdict):
    """What the canaries found, and whether that is what is required.

    Attributes:
        depth: how many items were asked for; map counts no further.
        absent: how many items that queries should find, by their ids, the gallery lacks. They are
            not among what there is to find.
        cells: "new/old", the upgraded gallery's answers, and "old/old" where old queries were
            given.
    """

    depth: int
    absent: int
    cells: Mapping[str, Evaluation]

    def __str__(self) -> str:
        says = "met" if self.met else "NOT met"
        shown = "; ".join(
            " ".join([name, *(f"{metric} {100 * _value(cell, metric):.1f}" for metric in METRICS)])
            for name, cell in self.cells.items()
        )
        if self.absent:
            shown += f"; {self.absent:,} that should be found are not there"
        return (
            f"{self.requirement} is {says}: {100 * self.value:.1f} %, required "
            f"{100 * self.limit:.1f} % ({self.cells[UPGRADED].queries:,} queries; percent: {shown})"
        )


def ask_canaries(gallery: GalleryRows, new: Space, canaries: Canaries) -> CanaryResult:
    """Ask the gallery the canaries and judge the answers.

    Raises:
        UpgradeError: if the canaries are in other spaces, or none of them has anything to find.
        LabelMismatchError: if only the gallery or only the canaries have class names, and nothing
            says that the numbers of the others mean the same.
    """
    _check_spaces(gallery, new, canaries)
    asked = {UPGRADED: canaries.new}
    if canaries.old is not None:
        asked[OLD] = canaries.old
    by_label = canaries.relevant is None
    rankings = {
        name: gallery.search(queries, DEPTH, exclude_self=by_label, allow_unserved=True)
        for name, queries in asked.items()
    }
    absent = 0
    if by_label:
        cells = _by_label(gallery, canaries, rankings)
    else:
        cells, absent = _by_ids(gallery, canaries, rankings)
    if not cells[UPGRADED].queries:
        raise UpgradeError(
            f"none of the {len(canaries.new)} canaries has anything to find in gallery "
            f"{gallery.url}: no item has a label of theirs, or an id that they should find. Give "
            "labels to the gallery's items, or other canaries"
        )
    required = canaries.requirement
    found = {name: _value(cell, required.metric) for name, cell in cells.items()}
    verdict = required.compare(found[UPGRADED], found.get(OLD, 1.0))
    return CanaryResult(**vars(verdict), depth=DEPTH, absent=absent, cells=cells)


def _check_pair(new: Embeddings, old: Embeddings | None) -> None:
    """Refuse old embeddings that are not of the same queries as the new ones."""
    if old is not None and old.ids != new.ids:
        raise UpgradeError(
            f"the canaries' {len(new)} new and {len(old)} old embeddings are not of the same "
            "queries in the same order; embed the same queries by both models, and align them: "
            ".align(new.ids)"
        )


def _check_spaces(gallery: GalleryRows, new: Space, canaries: Canaries) -> None:
    if canaries.new.space != new:
        raise UpgradeError(
            f"the canaries are in {canaries.new.space}, the upgrade leads to {new}; embed them by "
            "the new model"
        )
    old = canaries.old
    if old is not None and (old.space == new or old.space not in gallery.spaces()):
        known = ", ".join(str(space) for space in gallery.spaces() if space != new)
        raise UpgradeError(
            f"the canaries' old embeddings are in {old.space}; they must be in the space that "
            f"served before, and gallery {gallery.url} has {known}"
        )


def _by_label(
    gallery: GalleryRows, canaries: Canaries, rankings: Mapping[str, Ranking]
) -> dict[str, Evaluation]:
    """Judge by labels: relevant is every item of the query's class, save its own entry."""
    queries = canaries.new
    assert queries.labels is not None  # noqa: S101 (Canaries has checked it)
    translated = translate(
        queries.class_names,
        gallery.class_names(),
        same_labels=canaries.same_labels,
        sources=("the canaries", f"gallery {gallery.url}"),
    )
    labels = renumber(queries.labels, translated)  # none below 0 is a label of the gallery's
    wanted = dict(zip(queries.ids, labels.tolist(), strict=True))
    found = {item for ranking in rankings.values() for item in ranking.gallery_ids}
    label_of, of_label, own = dict[str, int | None](), Counter[int | None](), set[str]()
    for batch in gallery.scan(()):
        of_label.update(batch.labels)
        for item, label in zip(batch.ids, batch.labels, strict=True):
            if item in found:
                label_of[item] = label
            if item in wanted and wanted[item] == label:
                own.add(item)
    relevant = np.array([of_label[wanted[item]] - (item in own) for item in queries.ids], np.int64)
    return {
        name: _evaluation(
            ranking, relevant, lambda query, item: label_of.get(item) == wanted[query]
        )
        for name, ranking in rankings.items()
    }


def _by_ids(
    gallery: GalleryRows, canaries: Canaries, rankings: Mapping[str, Ranking]
) -> tuple[dict[str, Evaluation], int]:
    """Judge by the ids that each query should find; return how many the gallery lacks, too."""
    given = canaries.relevant or {}
    asked = {item for query in canaries.new.ids for item in given[query]}
    there = {item for batch in gallery.scan((), ids=sorted(asked)) for item in batch.ids}
    wanted = {query: set(given[query]) & there for query in canaries.new.ids}
    relevant = np.array([len(wanted[query]) for query in canaries.new.ids], np.int64)
    cells = {
        name: _evaluation(ranking, relevant, lambda query, item: item in wanted[query])
        for name, ranking in rankings.items()
    }
    return cells, len(asked - there)


def _evaluation(
    ranking: Ranking, relevant: Counts, is_hit: Callable[[str, str], bool]
) -> Evaluation:
    width = ranking.rows.shape[1]
    hits = np.zeros((len(ranking), width), np.bool_)
    for row, query in enumerate(ranking.query_ids):
        ids = ranking.ids_of(row)
        hits[row, : len(ids)] = [is_hit(query, item) for item in ids]
    counts = np.maximum(relevant, hits.sum(axis=1))  # an item may go while others write
    depth = DEPTH if width == DEPTH else None
    scores = average_precision(hits, counts)
    return Evaluation(ranking.query_ids, first_hits(hits), counts, scores, depth)


def _value(cell: Evaluation, metric: str) -> float:
    return cell.map if metric == "map" else cell.cmc(int(metric.removeprefix("cmc@")))
