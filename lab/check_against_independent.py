"""Onward's numbers beside those of other libraries, for saved embeddings.

Distances come from SciPy (inner products from NumPy), average precision and the ROC from
scikit-learn, AP and Success@k from ir-measures. Every file is its own queries and gallery, a
query's own entry left out, unless --queries names others in the same space.

Examples:
    python lab/check_against_independent.py runs/digits/seed-0/embeddings
    python lab/check_against_independent.py upgraded.parquet --queries new.parquet
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ir_measures
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_curve

from onward import Embeddings, evaluate_embeddings
from onward.evaluation.verification import FARS, verify_pairs

BLOCK_QUERIES = 256
ALLOWED = 1e-6
"""A distance halfway between two float32 may be rounded otherwise and change the order."""


class Checked(NamedTuple):
    """One number of ours and of another library; `queries` or `pairs` that it is over."""

    name: str
    library: str
    over: str
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        return abs(self.ours - self.theirs)

    def __str__(self) -> str:
        return (
            f"  {self.name:<12}{self.library:<14}{self.ours:<20.15f}{self.theirs:<20.15f}"
            f"{self.difference:<10.1e}{self.over}"
        )


@dataclass(frozen=True)
class Ranked:
    """The whole gallery for one query, nearest first: ids, and whether each is relevant."""

    query: str
    items: np.ndarray
    hits: np.ndarray


def distances_between(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Return the distance of every pair, in float32."""
    asked, held = (each.vectors.astype(np.float64) for each in (queries, gallery))
    if gallery.space.metric == "ip":
        return (-(asked @ held.T)).astype(np.float32)
    if gallery.space.metric == "l2":
        return np.sqrt(cdist(asked, held, "sqeuclidean")).astype(np.float32)
    asked, held = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (asked, held))
    return (cdist(asked, held, "sqeuclidean") / 2).astype(np.float32)


def ranked_by_scipy(
    queries: Embeddings, gallery: Embeddings, *, exclude_self: bool
) -> Iterator[Ranked]:
    """Rank by SciPy's distance in float32, ties by id."""
    held = gallery.align(sorted(gallery.ids))
    ids, labels = np.array(held.ids), np.asarray(held.labels)
    for start in range(0, len(queries), BLOCK_QUERIES):
        asked = queries.select(range(start, min(start + BLOCK_QUERIES, len(queries))))
        distances = distances_between(asked, held)
        for row, distance in enumerate(distances, start=start):
            order = np.argsort(distance, kind="stable")
            if exclude_self:
                order = order[ids[order] != queries.ids[row]]
            hits = labels[order] == np.asarray(queries.labels)[row]
            yield Ranked(queries.ids[row], ids[order], hits)


def check_retrieval(
    queries: Embeddings, gallery: Embeddings, *, exclude_self: bool, judged: int
) -> list[Checked]:
    """Check cmc@1, cmc@5 and map; with ir-measures for the first queries in a random order.

    Args:
        queries: with labels.
        gallery: with labels, in the same space.
        exclude_self: leave out a query's own gallery entry.
        judged: how many queries ir-measures judges: it needs some 500 bytes a pair.
    """
    ours = evaluate_embeddings(queries, gallery, exclude_self=exclude_self)
    chosen = np.random.default_rng(0).permutation(len(queries))[:judged]
    some = ours.select([queries.ids[row] for row in chosen])
    wanted, run, relevant = set(some.query_ids), [], []
    scores, tops = [], []
    for ranked in ranked_by_scipy(queries, gallery, exclude_self=exclude_self):
        if not ranked.hits.any():
            continue
        nearness = -np.arange(len(ranked.hits))
        scores.append(average_precision_score(ranked.hits, nearness))
        tops.append([ranked.hits[:1].any(), ranked.hits[:5].any()])
        if ranked.query in wanted:
            for item, near, hit in zip(ranked.items, nearness, ranked.hits, strict=True):
                run.append(ir_measures.ScoredDoc(ranked.query, item, float(near)))
                if hit:
                    relevant.append(ir_measures.Qrel(ranked.query, item, 1))
    whole, part = f"{ours.queries:,} queries", f"{some.queries:,} queries"
    first, fifth = np.mean(tops, axis=0)
    measures = {
        "cmc@1": ir_measures.Success @ 1,
        "cmc@5": ir_measures.Success @ 5,
        "map": ir_measures.AP,
    }
    theirs = ir_measures.calc_aggregate(measures.values(), relevant, run)
    values = some.to_json()
    return [
        Checked("map", "scikit-learn", whole, ours.map, float(np.mean(scores))),
        Checked("cmc@1", "SciPy", whole, ours.cmc(1), float(first)),
        Checked("cmc@5", "SciPy", whole, ours.cmc(5), float(fifth)),
        *(
            Checked(name, "ir-measures", part, values[name], theirs[measure])
            for name, measure in measures.items()
        ),
    ]


def check_verification(items: Embeddings, *, paired: int) -> list[Checked]:
    """Check TAR at FAR over all pairs of some items, chosen at random.

    Args:
        items: with labels.
        paired: how many items to make pairs of: scikit-learn needs some 100 bytes a pair.
    """
    some = items.select(np.random.default_rng(0).permutation(len(items))[:paired])
    ours = verify_pairs(some, some, exclude_self=True)
    labels = np.asarray(some.labels)
    first, second = np.triu_indices(len(some), k=1)
    distances = distances_between(some, some)[first, second]
    same = labels[first] == labels[second]
    reached, accepted, _ = roc_curve(same, -distances, drop_intermediate=False)
    over = f"{len(same):,} pairs"
    return [
        Checked(f"tar@{far:g}", "scikit-learn", over, ours.tar(far), float(best))
        for far, best in ((far, accepted[reached <= far].max()) for far in FARS)
        if ours.measurable(far)
    ]


def files_of(paths: list[Path]) -> list[Path]:
    """Return the files named, and those in the directories named."""
    files = [file for path in paths for file in (sorted(path.glob("*.parquet")) or [path])]
    return [file for file in files if Embeddings.load(file).labels is not None]


def main() -> None:
    """Print each number and its difference; end with 1 if one is too great."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+", help="embeddings, or directories of them")
    parser.add_argument("--queries", type=Path, help="embeddings that ask, instead of each file")
    parser.add_argument("--keep-self", action="store_true", help="count a query's own entry")
    parser.add_argument("--judged", type=int, default=200, help="queries for ir-measures")
    parser.add_argument("--paired", type=int, default=2000, help="items to make pairs of")
    arguments = parser.parse_args()
    files = files_of(arguments.paths)
    if not files:
        sys.exit("there are no embeddings with labels here; name what `onward embed` wrote")
    worst = 0.0
    for file in files:
        gallery = Embeddings.load(file)
        queries = Embeddings.load(arguments.queries) if arguments.queries else gallery
        exclude_self = not arguments.keep_self
        print(f"{file.name}: {gallery}\n  {'number':<12}{'library':<14}{'ours':<20}{'theirs':<20}")
        retrieval = check_retrieval(
            queries, gallery, exclude_self=exclude_self, judged=arguments.judged
        )
        for checked in (*retrieval, *check_verification(gallery, paired=arguments.paired)):
            print(checked, flush=True)
            worst = max(worst, checked.difference)
    print(f"greatest difference: {worst:.1e}")
    sys.exit(0 if worst <= ALLOWED else 1)


if __name__ == "__main__":
    main()
