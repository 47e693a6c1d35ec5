"""Prove that an upgrade is complete and right, from what is stored now.

Complete: no row that could be carried over is left, the ids of all rows less those with a new
vector are those of the rows that cannot be carried, and no item that can be found now would be lost
by cutting over. Intact: upgraded vectors, a sample or all, are what the transformation makes of the
old vectors and side-information that are stored now; where these were dropped, that cannot be known
any more, and the verification says so. Good enough: queries whose answers are known, the canaries,
find what they should: the gallery itself answers them, from the new space as it is stored, and the
same queries of the old model from the space that they are in. A verification says of which state of
the gallery it speaks, and is stale as soon as a row has changed, even by a program that is not
Onward.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt64

from onward.errors import UpgradeError
from onward.evaluation.comparison import NEW, OLD, UPGRADED
from onward.evaluation.metrics import METRICS, Counts, Evaluation, average_precision, first_hits
from onward.evaluation.relevance import Qrels, relevant_items
from onward.evaluation.retrieval import Ranking
from onward.fusion import Fusion, check_same_items
from onward.gallery import Batch, GalleryRows, GalleryView
from onward.plain import fields_of, plain
from onward.progress import Progress
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading.evidence import labels_of
from onward.upgrading.gate import Requirement, Verdict
from onward.upgrading.routes import (
    Blocked,
    Routes,
    Work,
    carried,
    choose_batch_rows,
    journal_of,
    needed_spaces,
    next_step,
    transform,
)

Answering = Literal["new", "fused"]
"""What is to answer queries after an upgrade: the new space, or a fused pair with it."""
FUSED = "fused"
"""The cell of a pair."""

Marks = UInt64[np.ndarray, " row"]
Answers = tuple[Counts, Callable[[str, str], bool], int]
"""How many items each query has to find, whether it should find one, and how many are missing."""

VERIFY = "verify"
SAMPLE_ROWS = 1000
TOLERANCE = 1e-4
"""Of a recomputed vector's length; what two machines differ by is a thousandth of it."""


DEPTH = 100
"""Number of items that a canary asks for; a relevant one beyond them adds zero to map."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """Queries whose answers are known, and what their answers must reach.

    Where a fused pair is to answer, the old embeddings ask it, too.

    Attributes:
        new: embedded by the new model; with labels, unless `qrels` are given. A query with the id
            of an item is another thing than the item where `qrels` judge, and else does not look
            for itself.
        old: the same queries, in any order, embedded by the old model, to compare with.
        qrels: for each query's id, the grade of each item's id; above 0 it should be found. A query
            without such an item is skipped. See `onward.evaluation.judgements.read_qrels`.
        require: what must be reached, such as `Requirement.parse("cmc@1 >= 0.98 * old/old")`; of
            cmc@1, cmc@5 or map. If None, "map >= old/old".
        same_labels: if only the gallery or only the canaries have class names, the numbers of the
            others mean the same. Where both have names, labels go by these.

    Raises:
        UpgradeError: if these do not fit together; the message says what is missing.
        EmbeddingsError: if a query is embedded by one of two models only.
    """

    new: Embeddings
    old: Embeddings | None = None
    qrels: Qrels | None = None
    require: Requirement | None = None
    same_labels: bool = False

    def __post_init__(self) -> None:
        if self.old is not None:
            check_same_items(self.old, self.new, "queries")
            object.__setattr__(self, "old", self.old.align(self.new.ids))
        if self.qrels is None and self.new.labels is None:
            raise UpgradeError(
                "the canaries have no labels, and nothing says what they should find",
                "give embeddings with labels, or judgements (qrels=...)",
            )
        if self.requirement.metric not in METRICS or self.requirement.cell == NEW:
            raise UpgradeError(
                f"canaries cannot tell whether {self.requirement}: they know {', '.join(METRICS)} "
                f"of the upgraded gallery and of {OLD}",
                "require something of these",
            )
        if self.old is None and self.requirement.cell is not None:
            raise UpgradeError(
                f"{self.requirement} is required, but the canaries have no old embeddings to "
                "compare with",
                "give the same queries by the old model too, or require a number, such as "
                "'cmc@1 >= 0.6'",
            )

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
        cells: "new/old", the upgraded gallery's answers, or "fused", those of the pair; and
            "old/old" where old queries were given.
    """

    depth: int
    absent: int
    cells: Mapping[str, Evaluation]

    def __str__(self) -> str:
        says = "met" if self.met else "NOT met"
        shown = "; ".join(
            " ".join([name, *(f"{metric} {100 * cell.value(metric):.1f}" for metric in METRICS)])
            for name, cell in self.cells.items()
        )
        if self.absent:
            shown += f"; {self.absent:,} that should be found are not there"
        return (
            f"{self.requirement} is {says}: {100 * self.value:.1f} %, required "
            f"{100 * self.limit:.1f} % ({next(iter(self.cells.values())).queries:,} queries; "
            f"percent: {shown})"
        )


@dataclass(frozen=True, eq=False)
class Verification:
    """What was proved of an upgrade, and of which state of the gallery.

    Attributes:
        transformation: digest of the transformation, or of all of them where there are fallbacks.
        serve: what may answer queries if it has passed: "new" or "fused".
        fusion: the pair, if one is to answer.
        state: of the gallery's rows when it began; stale once they have another.
        version: of what the store held when it began; stale once it holds another, even if a
            program other than Onward wrote it, of which the state knows nothing.
        work: rows to do, done and blocked.
        pending: the first few ids of rows that are to be done.
        ids: how many different ids the rows have ("rows"), how many rows have an id that another
            row has too ("repeated", 0 in a sound gallery), and how many ids have no vector in the
            new space ("missing").
        leave_out: whether items may be lost by cutting over that the transformation cannot carry.
        checked: upgraded rows that were recomputed.
        upgraded: upgraded rows that could have been.
        embedded: rows whose new vector a model made; there is nothing to recompute.
        gone: spaces that the transformation reads and that were dropped; without them nothing can
            be recomputed.
        wrong: rows whose vector is not what the transformation makes of what is stored.
        wrong_examples: the first few of their ids.
        canaries: what queries found whose answers are known, if there were such.
        seconds: how long it took.
    """

    transformation: str
    serve: Answering
    fusion: Fusion | None
    state: str
    version: str
    work: Work
    pending: tuple[str, ...]
    ids: Mapping[str, int]
    leave_out: bool
    checked: int
    upgraded: int
    embedded: int
    gone: tuple[Space, ...]
    wrong: int
    wrong_examples: tuple[str, ...]
    canaries: CanaryResult | None
    seconds: float

    @property
    def lost(self) -> tuple[Blocked, ...]:
        """Rows that can be found now and could not after cutting over."""
        return tuple(one for one in self.work.blocked if one.answering)

    @property
    def complete(self) -> bool:
        """Whether no row is left to do, and none would be lost unless that is allowed."""
        return not self.work.to_do and self.adds_up and (self.leave_out or not self.lost)

    @property
    def adds_up(self) -> bool:
        """Whether no id stands twice, and those without a new vector are to do or blocked."""
        left = self.work.to_do + self.work.skipped
        return not self.ids["repeated"] and self.ids["missing"] == left

    @property
    def intact(self) -> bool | None:
        """Whether every recomputed vector is as stored; None if no vector can be recomputed."""
        return None if self.gone and self.upgraded else not self.wrong

    @property
    def good_enough(self) -> bool:
        """Whether the canaries found what they should; true if there were none."""
        return self.canaries is None or self.canaries.met

    @property
    def passed(self) -> bool:
        """Whether the new space may answer queries."""
        return self.complete and self.intact is not False and self.good_enough

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            "passed": self.passed,
            "complete": self.complete,
            "intact": self.intact,
            "good_enough": self.good_enough,
            **fields_of(self, without=("work",)),
            **self.work.to_json(),
            "wrong": None if self.intact is None else self.wrong,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        work = self.work
        left_out = " (allowed)" if self.leave_out else ""
        says = "passed" if self.passed else "FAILED"
        of_pair = "of the fused pair " if self.serve == "fused" else ""
        lines = [
            f"verification {of_pair}{says} in {self.seconds:,.1f} s",
            f"  rows       {work.done:,} of {work.rows:,} done, {work.to_do:,} to do"
            + (f" ({', '.join(self.pending)})" if self.pending else ""),
            *(f"  left out   {one}{left_out if one in self.lost else ''}" for one in work.blocked),
            f"  recomputed {self._integrity()}",
            f"  embedded   {self.embedded:,} rows, by a model",
        ]
        if not self.adds_up:
            lines.append(
                f"  ids        {self.ids['rows']:,}, {self.ids['repeated']:,} of them repeated and "
                f"{self.ids['missing']:,} without a new vector: that does not add up"
            )
        if self.canaries is not None:
            lines.append(f"  canaries   {self.canaries}")
        return "\n".join(lines)

    def _integrity(self) -> str:
        if self.intact is None:
            names = " and ".join(space.name for space in self.gone)
            return (
                f"none of {self.upgraded:,} upgraded rows: what they were made from ({names}) was "
                "dropped, so whether they are right cannot be known any more"
            )
        examples = f" ({', '.join(self.wrong_examples)})" if self.wrong else ""
        return (
            f"{self.checked:,} of {self.upgraded:,} upgraded rows, {self.wrong:,} wrong{examples}"
        )

    def _next_steps(self) -> list[dict[str, str]]:
        if self.passed:
            passed = "the verification has passed"
            step = "cut_over" if self.serve == "new" else "cut_over_fused"
            return [] if self.gone else [next_step(step, passed)]  # it was completed
        steps = []
        if self.wrong:
            why = f"{self.wrong:,} vectors are wrong: drop the new space, and start again"
            steps.append(next_step("start", why))
        if self.work.to_do:
            steps.append(next_step("run", f"{self.work.to_do:,} rows are to be done"))
        if self.lost and not self.leave_out:
            rows = sum(one.rows for one in self.lost)
            why = f"{rows:,} items cannot be carried over: embed them, or allow that they are lost"
            why += " by verifying with leave_out=True"
            steps.append(next_step("verify", why))
        if not self.adds_up:
            why = "the ids do not add up: rows changed meanwhile, or an id stands twice"
            steps.append(next_step("verify", why))
        if not self.good_enough:
            why = "the canaries find too little: embed some items again by the new model"
            steps.append(next_step("backfill", why))
        return steps


def verified_last(view: GalleryView, routes: Routes) -> tuple[Answering, Fusion | None] | None:
    """Return what was verified last: that the new space may serve, or a pair; None if nothing."""
    entry = next(journal_of(view, routes.new, VERIFY, transformation=routes.digest), None)
    if entry is None:
        return None
    pair = entry.get("fusion")
    return entry.get("serve", "new"), None if pair is None else Fusion.from_json(pair)


def verification_state(view: GalleryView, routes: Routes, pair: Fusion | None) -> str:
    """Return "none", "passed", "failed", or "stale" if rows have changed since, by whomever.

    A verification that a pair may serve says nothing of another one, nor of the new space alone.
    """
    entries = journal_of(view, routes.new, VERIFY, transformation=routes.digest)
    entry = next((one for one in entries if one.get("fusion") == plain(pair)), None)
    if entry is None:
        return "none"
    # Of one that was made before versions were known, the state alone tells.
    version = entry.get("version")
    if entry["state"] != view.state() or version not in (None, view.version()):
        return "stale"
    return "passed" if entry["passed"] else "failed"


def compare_ids(gallery: GalleryRows, space: Space) -> dict[str, int]:
    """Compare the ids of all rows with those that have a vector in a space: none lost, none twice.

    They are compared by 8 bytes of a digest each, so a million rows take 8 MB. See `Verification`.
    """
    every, filled = _marks(gallery.scan(())), _marks(gallery.scan((), with_spaces=[space]))
    unique = np.unique(every)
    missing = len(np.setdiff1d(unique, filled))
    return {"rows": len(unique), "repeated": len(every) - len(unique), "missing": missing}


def _marks(batches: Iterator[Batch]) -> Marks:
    digests = bytearray()
    for batch in batches:
        for item in batch.ids:
            digests += hashlib.blake2b(item.encode(), digest_size=8).digest()
    return np.frombuffer(digests, np.uint64)


def ask_canaries(
    gallery: GalleryRows, new: Space, canaries: Canaries, pair: Fusion | None = None
) -> CanaryResult:
    """Ask the gallery the canaries and judge the answers, of the new space or of a fused pair.

    Raises:
        UpgradeError: if the canaries are in other spaces, only in one where a pair is asked, or
            none of them has anything to find.
        LabelMismatchError: if only the gallery or only the canaries have class names, and nothing
            says that the numbers of the others mean the same.
    """
    if canaries.new.space != new:
        raise UpgradeError(
            f"the canaries are in {canaries.new.space}, the upgrade leads to {new}",
            "embed them by the new model",
        )
    if pair is not None and canaries.old is None:
        raise UpgradeError(
            f"the canaries are by the new model alone, and {pair} is asked by both",
            "give the same queries by the old model, too",
        )
    others = [one for one in gallery.spaces() if one != new]
    if canaries.old is not None and canaries.old.space not in others:
        raise UpgradeError(
            f"the canaries' old embeddings are in {canaries.old.space}",
            "they must be in the space that served before",
            needed=f"gallery {gallery.url} has {', '.join(map(str, others))}",
        )
    by_label = canaries.qrels is None
    search = partial(gallery.search, k=DEPTH, exclude_self=by_label, allow_unserved=True)
    rankings = {UPGRADED: search(canaries.new)} if pair is None else {}
    if pair is not None:
        rankings[FUSED] = search(canaries.new, queries_old=canaries.old, fusion=pair)
    if canaries.old is not None:
        rankings[OLD] = search(canaries.old)
    judged = _by_label(gallery, canaries, rankings) if by_label else _by_ids(gallery, canaries)
    relevant, is_hit, absent = judged
    cells = {name: _evaluation(ranking, relevant, is_hit) for name, ranking in rankings.items()}
    upgraded = next(iter(cells.values()))
    if not upgraded.queries:
        raise UpgradeError(
            f"none of the {len(canaries.new)} canaries has anything to find in gallery "
            f"{gallery.url}: no item has a label of theirs, or an id that they should find",
            "give labels to the gallery's items, qrels with the ids that queries and items have, "
            "or other canaries",
        )
    required = canaries.requirement
    nothing = cells[OLD].value(required.metric) if OLD in cells else 1.0
    verdict = required.compare(upgraded.value(required.metric), nothing)
    return CanaryResult(**vars(verdict), depth=DEPTH, absent=absent, cells=cells)


def _by_label(gallery: GalleryRows, canaries: Canaries, rankings: Mapping[str, Ranking]) -> Answers:
    """Return what to find by labels: every item of the query's class, save its own entry."""
    queries = canaries.new
    labels = labels_of(gallery, queries, canaries.same_labels, "the canaries")
    assert labels is not None  # noqa: S101 (Canaries has checked it)
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
    return relevant, lambda query, item: label_of.get(item) == wanted[query], 0


def _by_ids(gallery: GalleryRows, canaries: Canaries) -> Answers:
    """Return what to find by judgements, of what the gallery has."""
    named = relevant_items(canaries.qrels or {}, canaries.new.ids)
    asked = set[str]().union(*named.values())
    there = {item for batch in gallery.scan((), ids=sorted(asked)) for item in batch.ids}
    wanted = {query: items & there for query, items in named.items()}
    relevant = np.array([len(wanted[query]) for query in canaries.new.ids], np.int64)
    return relevant, lambda query, item: item in wanted[query], len(asked - there)


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


def recompute(
    view: GalleryView, routes: Routes, sample_rows: int | None, progress: Progress
) -> tuple[int, list[str]]:
    """Return how many upgraded rows were recomputed, and the ids of those that are wrong."""
    total = view.count([routes.new])
    chosen = None
    if sample_rows is not None and sample_rows < total:
        chosen = view.sample([routes.new], sample_rows, seed=secrets.randbits(32))
        total = len(chosen)
    checked, seen, wrong = 0, 0, list[str]()
    rows = choose_batch_rows(*routes.transformations)
    for transformation, batch in carried(view, routes, rows, chosen):
        upgraded, bad = _wrong_rows(transformation, batch)
        wrong += bad
        checked, seen = checked + upgraded, seen + len(batch)
        progress(seen, total)
    return checked, _made_by_none(view, routes, wrong)


def _made_by_none(view: GalleryView, routes: Routes, ids: list[str]) -> list[str]:
    """Return the items whose vector is what none of the transformations makes.

    A row that a fallback has carried, and that got what the first transformation reads only then,
    is right as it is.
    """
    left, there = set(ids), set(view.spaces())
    for fallback in routes.fallbacks:
        spaces = (*needed_spaces(fallback), routes.new)
        for batch in view.scan(spaces, ids=left) if left and there >= set(spaces) else ():
            left -= set(batch.ids) - set(_wrong_rows(fallback, batch)[1])
    return sorted(left)


def _wrong_rows(transformation: Transformation, batch: Batch) -> tuple[int, list[str]]:
    """Return how many rows are upgraded, and the ids of those that are not what is made of them.

    Wrong is also a vector where the transformation gives none.
    """
    new = transformation.new
    upgraded = np.array([one == "upgraded" for one in batch.origins[new]], np.bool_)
    carried = transform(transformation, batch)
    made = carried.embeddings.vectors.astype(np.float64)
    apart = np.linalg.norm(batch.vectors[new][carried.rows] - made, axis=1)
    right = np.zeros(len(batch), np.bool_)
    right[carried.rows] = apart <= TOLERANCE * np.linalg.norm(made, axis=1)  # false for NaN
    wrong = np.flatnonzero(upgraded & ~right)
    return int(upgraded.sum()), [batch.ids[row] for row in wrong]
