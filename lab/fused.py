"""Which weight, scales and rule for rows with one vector suit fused search? Draw, fit, compare.

    python lab/fused.py WHAT VECTORS [--only WORD] [--seeds 0-2]

VECTORS is what `lab/unseen_vectors.py` and `lab/text.py embed` wrote. Ridge is fitted on pairs;
what `fit` can see are the held-out classes of its three folds, each made by what learned from the
others. The truth is a gallery of classes, people or texts that nothing was fitted on. w is the
weight of the old space.

    choose: rules that say what to serve, on photographs and faces: points of cmc@1 and map beside
        the better of doing nothing and one space. The rule of the product is `advise`.
    scales: distances divided by their deviation, median or deviation within a query; squared or
        not.
    texts: what is advised by agreement, unchosen, and by half of the real queries for the others.
    alone: rules for items with one vector: points lost beside knowing both, and how often such
        items are among the first ten beside their share.
    third: the distance of side-information as a third term.
    uncertainty: less weight of the new space for items that h is unsure of.
    sequence: two upgrades of texts in a row.

Photographs: --pairs images of each of the classes 0-79, --items of 80-99, of which --queries ask.
Faces: one half of the people, and the other. Texts: --share of the abstracts, in percent, is
embedded by the new model, and all 1,109 claims ask. Prints Markdown, in percent and points.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from unseen import Case, Vectors, draw_faces, labels_of, load, some_of_each

from onward.evaluation.distances import doubles, exact_distances
from onward.evaluation.intervals import bootstrap, over_clusters
from onward.evaluation.judgements import read_qrels
from onward.evaluation.metrics import average_precision
from onward.evaluation.serving import Found, JudgedBy, advise
from onward.fusion import Fusion
from onward.spaces import Embeddings
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Pairs
from onward.training.fit.selection import Folds
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation

GRID = np.arange(11) / 10
"""Weights of the old space: the first is one space, the last doing nothing."""
ONE, NOTHING = 0, 10
MOST_ASKED = 400
"""So many queries are asked in each fold."""
GAINS = 1 / np.log2(np.arange(2, 12))
PHOTOGRAPHS = (Case("cifar100", "old", "new", "old-layers"), Case("cifar100", "old", "new", None))
FACES = tuple(
    Case("orl", old, new, None)
    for old, new in permutations(("dlib-far", "resnet", "hog", "dlib"), 2)
)
TO_DLIB = tuple(case for case in FACES if case.new == "dlib")
SIDES = (
    PHOTOGRAPHS[0],
    Case("orl", "dlib-far", "dlib", "hog-thumbnail"),
    Case("orl", "resnet", "dlib", "resnet-layers"),
)
TEXTS = (Case("scifact", "wordllama", "minilm", None), Case("scifact", "minilm", "mpnet", None))
Matrix = np.ndarray


@dataclass(frozen=True, eq=False)
class Asked:
    """Distances of queries from items, NaN of a query from itself, and what each looks for."""

    old: Matrix
    new: Matrix
    """Of the new queries from what h makes of the old vectors."""
    full: Matrix
    """Of the new queries from the true new vectors."""
    relevant: Matrix
    by: str
    clusters: np.ndarray

    @classmethod
    def of(
        cls, queries: Vectors, there: Vectors, made: Embeddings, relevant: Matrix | None = None
    ) -> "Asked":
        """Ask items for their class or else their neighbours; or queries for what is relevant."""
        new, full = distances(queries.new, made), distances(queries.new, there.new)
        old, by, clusters = distances(queries.old, there.old), "judgements", np.arange(len(new))
        if relevant is None:
            own = np.array(queries.new.ids)[:, None] == np.array(there.new.ids)
            for each in (old, new, full):
                each[own] = np.nan
            if there.new.labels is None:
                by, relevant = "agreement", full <= np.sort(full, axis=1)[:, 9:10]
            else:
                by, clusters = "label", labels_of(queries)
                relevant = (clusters[:, None] == labels_of(there)) & ~own
        return cls(old, new, full, relevant, by, clusters)

    def scaled(self, fusion: Fusion) -> tuple[Matrix, Matrix, Matrix]:
        """Return the distances as they are summed: old, new, and new in a full backfill."""
        old, new = fusion.old_scale.std, fusion.new_scale.std
        return (
            summed(self.old, fusion.old.metric) / old,
            summed(self.new, fusion.new.metric) / new,
            summed(self.full, fusion.new.metric) / new,
        )

    def find(self, found: Matrix) -> Found:
        """Return what each query that has something to find finds by some distances."""
        counts = self.relevant.sum(axis=1)
        asks = counts > 0
        counts, shown = counts[asks], self.relevant[asks]
        hits = np.take_along_axis(shown, np.argsort(found[asks], axis=1, kind="stable"), axis=1)
        if self.by == "label":
            return Found({"cmc@1": hits[:, 0] * 1.0, "map": average_precision(hits, counts)})
        if self.by == "agreement":
            return Found({"agreement": hits[:, :10].mean(axis=1)})
        best = np.cumsum(GAINS)[np.minimum(counts, 10) - 1]
        return Found({"ndcg@10": hits[:, :10] @ GAINS / best})


class Draw(NamedTuple):
    """What was fitted, what `fit` sees of it, and the truth."""

    case: Case
    pairs: Vectors
    gallery: Vectors
    h: Transformation
    made: Embeddings
    folds: list[Asked]
    fusion: Fusion
    truth: Asked
    asked: np.ndarray
    """Which of the gallery's items ask; none of texts."""


def distances(queries: Embeddings, gallery: Embeddings) -> Matrix:
    metric = gallery.space.metric
    return exact_distances(
        doubles(queries.vectors, metric), doubles(gallery.vectors, metric), metric
    )


def summed(found: Matrix, metric: str) -> Matrix:
    """Return distances as fused search adds them up: squared for l2."""
    return found.astype(float) ** 2 if metric == "l2" else found.astype(float)


# Draws


def draws(given: argparse.Namespace, cases: Sequence[Case]) -> Iterator[tuple[int, Draw]]:
    for case in cases:
        for seed in given.seeds if given.only in str(case) else ():
            yield seed, draw(given, case, seed)


def draw(given: argparse.Namespace, case: Case, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    if case.data == "scifact":
        return texts_of(given, case, given.share, seed)[0]
    if case.data == "orl":
        one = draw_faces(given.vectors, case, rng)
        pairs, gallery = one.pairs, one.gallery
    else:
        pairs, gallery = load(given.vectors, case, "pairs"), load(given.vectors, case, "items")
        pairs = pairs.select(some_of_each(labels_of(pairs), given.pairs, rng))
        gallery = gallery.select(some_of_each(labels_of(gallery), given.items, rng))
    asked = np.sort(rng.permutation(len(gallery.new))[: given.queries])
    h, folds, fusion = fit_ridge(pairs, seed)
    made = h.apply(gallery.old, gallery.side)
    truth = Asked.of(gallery.select(asked), gallery, made)
    return Draw(case, pairs, gallery, h, made, folds, fusion, truth, asked)


def texts_of(given: argparse.Namespace, case: Case, share: float, seed: int) -> tuple[Draw, Asked]:
    """Return a draw of texts, and its truth where the sample keeps its true new vectors."""
    items, claims = load(given.vectors, case, "items"), load(given.vectors, case, "queries")
    sample = np.random.default_rng(seed).permutation(len(items.new))
    sample = np.sort(sample[: round(share / 100 * len(items.new))])
    pairs = items.select(sample)
    h, folds, fusion = fit_ridge(pairs, seed)
    assert h.out_of_fold is not None
    made, kept = (h.apply(items.old, items.side).vectors.copy() for _ in range(2))
    made[sample] = h.out_of_fold.align(pairs.new.ids).vectors
    kept[sample] = pairs.new.vectors
    qrels: dict[str, dict[str, int]] = {}
    for name in ("train", "test"):
        qrels |= read_qrels(given.vectors / "scifact" / f"qrels_{name}.tsv")
    wanted = [{x for x, grade in qrels.get(q, {}).items() if grade > 0} for q in claims.new.ids]
    relevant = np.array([np.isin(items.new.ids, list(each)) for each in wanted])
    carried, mixed = (
        Asked.of(claims, items, Embeddings(items.new.ids, vectors, items.new.space), relevant)
        for vectors in (made, kept)
    )
    gallery = Embeddings(items.new.ids, made, items.new.space)
    none = np.array([], int)
    return Draw(case, pairs, items, h, gallery, folds, fusion, carried, none), mixed


def fit_ridge(pairs: Vectors, seed: int) -> tuple[Transformation, list[Asked], Fusion]:
    """Return h, what is asked among the held-out items of each fold, and the scales there."""
    settings = FitSettings(method="ridge", uncertainty=True)
    run = RunSettings(device="cpu")
    h = fit(*pairs, of_gallery=True, settings=settings, seed=seed, run=run).transformation
    folds, found = Folds.of(Pairs(*pairs), gallery_classes="unseen", seed=seed), []
    assert h.out_of_fold is not None
    rng = np.random.default_rng(seed)
    for fold in range(folds.count):
        there = pairs.select(folds.held_out(fold))
        asked = np.sort(rng.permutation(len(there.new))[:MOST_ASKED])
        made = h.out_of_fold.align(there.new.ids)
        found.append(Asked.of(there.select(asked), there, made))
    both = [(each.old, each.new) for each in found]
    return h, found, Fusion.measure(pairs.old.space, pairs.new.space, 0.5, both)


def sweep(lots: Sequence[Asked], fusion: Fusion) -> tuple[list[Found], np.ndarray]:
    """Return what is found at each weight of the grid, over all lots, and the clusters."""
    parts = []
    for each in lots:
        old, new, _ = each.scaled(fusion)
        parts.append([each.find(w * old + (1 - w) * new) for w in GRID])
    names = parts[0][0].per_query
    found = [
        Found(
            {name: np.concatenate([part[at].per_query[name] for part in parts]) for name in names}
        )
        for at in range(len(GRID))
    ]
    clusters = [each.clusters[each.relevant.any(axis=1)] for each in lots]
    return found, np.concatenate(clusters)


# What to serve

Rule = Callable[[Sequence[Found], np.ndarray], int]


def better_single(found: Sequence[Found], _: np.ndarray) -> int:
    return ONE if found[ONE].scores.mean() >= found[NOTHING].scores.mean() else NOTHING


def best(found: Sequence[Found], _: np.ndarray | None = None) -> int:
    return int(np.argmax([each.scores.mean() for each in found]))


def clearly_better(found: Sequence[Found], clusters: np.ndarray) -> int:
    at = 1 + best(found[1:-1])
    lows = [is_clear(found, at, than, clusters) for than in (ONE, NOTHING)]
    return at if all(lows) else better_single(found, clusters)


def shrunk(found: Sequence[Found], clusters: np.ndarray) -> int:
    """Nearest to 0.5 of the weights that are not clearly below the best; if better than both."""
    top = 1 + best(found[1:-1])
    flat = [at for at in range(1, 10) if at == top or not is_clear(found, top, at, clusters)]
    at = min(flat, key=lambda at: abs(at - 5))
    single = better_single(found, clusters)
    return at if found[at].scores.mean() > found[single].scores.mean() else single


def is_clear(found: Sequence[Found], at: int, than: int, clusters: np.ndarray) -> bool:
    gained = found[at].scores - found[than].scores
    return over_clusters(gained, list(clusters), difference=True).low > 0


def advised(found: Sequence[Found], clusters: np.ndarray, *, by: JudgedBy = "label") -> int:
    """What the product advises for a gallery of unseen classes, or by real queries."""
    lenient = None if by == "judgements" else "items lean to the new space"
    old, new = found[NOTHING], found[ONE]
    said = advise(
        *(old, new, lambda w: found[round(10 * w)], list(clusters)), by=by, lenient=lenient
    )
    return {"old": NOTHING, "new": ONE}.get(said.advised, round(10 * said.weight))


RULES: dict[str, Rule] = {
    "better single": better_single,
    "always 0.2": lambda *_: 2,
    "always 0.3": lambda *_: 3,
    "always 0.5": lambda *_: 5,
    "best score": best,
    "best, if clearly better": clearly_better,
    "shrunk to 0.5 where flat": shrunk,
    "the rule": advised,
}


def choose(given: argparse.Namespace) -> None:
    missed: dict[str, list[tuple[float, ...]]] = {name: [] for name in RULES}
    header("case, seed", "w by the rule", "nothing", "one space", "advised", "full", "update gain")
    for seed, one in draws(given, (*PHOTOGRAPHS, *FACES)):
        seen, clusters = sweep(one.folds, one.fusion)
        true, _ = sweep([one.truth], one.fusion)
        full = one.truth.find(one.truth.full)
        gains = {}
        for name, rule in RULES.items():
            at = rule(seen, clusters)
            singles = [true[each].values for each in (ONE, NOTHING)]
            beside = [
                100 * (value - max(each[metric] for each in singles))
                for metric, value in true[at].values.items()
            ]
            gained, whole = (
                x.values["cmc@1"] - true[NOTHING].values["cmc@1"] for x in (true[at], full)
            )
            gains[name] = gained / whole if one.case.data == "cifar100" else np.nan
            missed[name].append((*beside, gains[name]))
        at = advised(seen, clusters)
        shown = [said(x) for x in (true[NOTHING], true[ONE], true[at], full)]
        row(f"{one.case}, {seed}", f"{GRID[at]:g}", *shown, f"{gains['the rule']:.2f}")
    print()
    header(
        "rule", "draws", "more than 0.5 below", "worst cmc / map", "mean cmc / map", "update gain"
    )
    for name, every in missed.items():
        values = np.array(every)
        low, mean = values[:, :2].min(axis=0), values[:, :2].mean(axis=0)
        count = (values[:, :2].min(axis=1) < -0.5).sum()
        gained = values[~np.isnan(values[:, 2]), 2]
        cells = (f"{x[0]:+.1f} / {x[1]:+.1f}" for x in (low, mean))
        row(name, len(values), count, *cells, f"{gained.mean():.2f}" if len(gained) else "")


def scales(given: argparse.Namespace) -> None:
    header("case, seed", "f, scale", "old / new", *(f"w {w}" for w in (0.2, 0.3, 0.5)), "best")
    kinds: dict[str, Callable[[Matrix], float]] = {
        "deviation": lambda x: float(np.nanstd(x)),
        "median": lambda x: float(np.nanmedian(x)),
        "deviation within a query": lambda x: float(np.nanstd(x, axis=1).mean()),
    }
    for seed, one in draws(given, (*PHOTOGRAPHS, *TO_DLIB)):
        spaces = one.fusion.old, one.fusion.new
        for power in ("squared", "unsquared"):

            def f(found: Matrix, metric: str, power: str = power) -> Matrix:
                return summed(found, metric) if power == "squared" else found.astype(float)

            if power == "unsquared" and "l2" not in [space.metric for space in spaces]:
                continue
            for kind, measure in kinds.items():
                old, new = (
                    np.mean([measure(f(getattr(x, name), space.metric)) for x in one.folds])
                    for name, space in zip(("old", "new"), spaces, strict=True)
                )
                a, b = (
                    f(one.truth.old, spaces[0].metric) / old,
                    f(one.truth.new, spaces[1].metric) / new,
                )
                found = [one.truth.find(w * a + (1 - w) * b) for w in GRID]
                top = best(found)
                shown = [said(found[at]) for at in (2, 3, 5)]
                row(
                    *(f"{one.case}, {seed}", f"{power}, {kind}", f"{old / new:.2f}", *shown),
                    f"{GRID[top]:g}: {said(found[top])}",
                )


def texts(given: argparse.Namespace) -> None:
    ways = ("by agreement", "w 0.8, unchosen", "by the rule, real queries")
    header("case, share, seed", "gallery", "nothing", "one space", *ways, "full")
    for case in TEXTS:
        for seed in given.seeds if given.only in str(case) else ():
            one, mixed = texts_of(given, case, given.share, seed)
            agreed = best(sweep(one.folds, one.fusion)[0])
            for gallery, asked in (("all carried", one.truth), ("sample kept", mixed)):
                found, _ = sweep([asked], one.fusion)
                cells = [beside(found[NOTHING], found, [at] * 2) for at in (agreed, 8)]
                chosen = [
                    advised([only(x, half) for x in found], half, by="judgements")
                    for half in halves(len(found[0].scores))
                ]
                cells.append(beside(found[NOTHING], found, chosen))
                shown = said(found[NOTHING]), said(found[ONE])
                full = said(asked.find(asked.full))
                row(f"{case}, {given.share:g} %, {seed}", gallery, *shown, *cells, full)


def halves(queries: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(2).permutation(queries)
    return order[::2], order[1::2]


def only(found: Found, rows: np.ndarray) -> Found:
    return Found({name: each[rows] for name, each in found.per_query.items()})


def beside(base: Found, found: Sequence[Found], chosen: Sequence[int]) -> str:
    """Answer each half by what the other half chose, and say what that gains with its interval."""
    gained = np.empty_like(base.scores)
    for rows, at in zip(halves(len(gained))[::-1], chosen, strict=True):
        gained[rows] = (found[at].scores - base.scores)[rows]
    got = bootstrap(gained, difference=True)
    weights = "/".join(f"{GRID[at]:g}" for at in dict.fromkeys(chosen))
    return f"{weights}: {100 * got.estimate:+.1f} [{100 * got.low:+.1f}, {100 * got.high:+.1f}]"


# Rows with one vector


Line = tuple[float, float]
"""A slope and an offset."""


class Numbers(NamedTuple):
    """Means and deviations of scaled distances, and of those of the ten nearest items."""

    mean: np.ndarray
    std: np.ndarray
    """Of the old, the new, and the fused distance."""
    near: np.ndarray
    """Means over the ten that are nearest by each."""
    gap: tuple[float, float]
    """Of the ten nearest by the old space, how much farther in the new one; and the reverse."""
    correlation: float

    @classmethod
    def of(cls, lots: Sequence[tuple[Matrix, Matrix]], w: float) -> "Numbers":
        every = [(a, b, w * a + (1 - w) * b) for a, b in lots]
        flat = [np.concatenate([x[at][~np.isnan(x[at])] for x in every]) for at in range(3)]
        near = np.mean([[first_ten(x, x).mean() for x in each] for each in every], axis=0)
        gaps = [[(first_ten(a, b - a)).mean(), first_ten(b, a - b).mean()] for a, b, _ in every]
        old_gap, new_gap = np.mean(gaps, axis=0)
        means, stds = ([f(x) for x in flat] for f in (np.mean, np.std))
        correlation = float(np.corrcoef(flat[0], flat[1])[0, 1])
        return cls(np.array(means), np.array(stds), near, (old_gap, new_gap), correlation)


def first_ten(by: Matrix, values: Matrix) -> Matrix:
    count = min(10, by.shape[1] // 3)
    return np.take_along_axis(values, np.argsort(by, axis=1)[:, :count], axis=1)


def lines(n: Numbers, w: float) -> dict[str, tuple[Line, Line]]:
    """Return rules: slope and offset of the known old distance, and of the known new one."""
    (a, b, _), (sa, sb, sf) = n.mean, n.std

    def through(old: float, new: float, at: np.ndarray) -> tuple[Line, Line]:
        return (old, at[2] - old * at[0]), (new, at[2] - new * at[1])

    bent = w + (1 - w) * n.correlation * sb / sa, w * n.correlation * sa / sb + 1 - w
    return {
        "known for both": ((1, 0), (1, 0)),
        "as many deviations from the mean": ((1, (1 - w) * (b - a)), (1, w * (a - b))),
        "the same of the fused distance": through(sf / sa, sf / sb, n.mean),
        "regression": through(*bent, n.mean),
        "slope 1 through the first ten": through(1, 1, n.near),
        "gap of the first ten (the rule)": ((1, (1 - w) * n.gap[0]), (1, w * n.gap[1])),
    }


def alone(given: argparse.Namespace) -> None:
    header("case, seed, w", "rule", *(f"{x} alone, {given.rows:g} %" for x in ("old", "new")))
    for seed, one in draws(given, (PHOTOGRAPHS[0], *TO_DLIB, *TEXTS)):
        old, new, full = one.truth.scaled(one.fusion)
        w = 0.5 if one.case.data == "scifact" else 0.3
        few = np.zeros(old.shape[1], bool)
        few[
            np.random.default_rng(3).permutation(len(few))[: round(given.rows / 100 * len(few))]
        ] = 1
        both = w * old + (1 - w) * new
        seen = lines(Numbers.of([each.scaled(one.fusion)[:2] for each in one.folds], w), w)
        true = lines(Numbers.of([(old, new)], w), w)
        rules = seen | {f"{k}, by true queries": true[k] for k in list(true)[-2:]}
        known = {"both known": (both, w * old + (1 - w) * full)} | {
            k: (x[0] * old + x[1], y[0] * full + y[1]) for k, (x, y) in rules.items()
        }
        least = [one.truth.find(np.where(few, x, both)) for x in known["both known"]]
        for name, found in known.items():
            cells = []
            for wanted, each in zip(least, found, strict=True):
                ranked = np.where(few, each, both)
                got, share = one.truth.find(ranked), few[np.argsort(ranked, axis=1)[:, :10]].mean()
                lost = (100 * (x - wanted.values[k]) for k, x in got.values.items())
                shown = (
                    said(got)
                    if got.values == wanted.values
                    else "/".join(f"{x:+.1f}" for x in lost)
                )
                cells.append(f"{shown} x{share / few.mean():.2f}")
            row(f"{one.case}, {seed}, {w}", name, *cells)


# Other ideas


def third(given: argparse.Namespace) -> None:
    shares = (0, 0.05, 0.1, 0.2, 0.3)
    header("case, seed", "w", *(f"side {x}" for x in shares))
    for seed, one in draws(given, SIDES):
        assert one.pairs.side is not None
        assert one.gallery.side is not None
        middle = one.pairs.side.vectors.astype(float).mean(axis=0)
        learned, there = (
            (x - middle) / np.linalg.norm(x - middle, axis=1, keepdims=True)
            for x in (
                one.pairs.side.vectors[::4].astype(float),
                one.gallery.side.vectors.astype(float),
            )
        )
        side = 2 - 2 * there[one.asked] @ there.T
        side /= (2 - 2 * learned @ learned.T).std()
        old, new, full = one.truth.scaled(one.fusion)
        rows = {f"{w:g}": w * old + (1 - w) * new for w in (0, 0.3, 0.5, 1)}
        rows |= {"full backfill": full, "old 0.3 and full backfill": 0.3 * old + 0.7 * full}
        for name, base in rows.items():
            shown = (said(one.truth.find((1 - x) * base + x * side)) for x in shares)
            row(f"{one.case}, {seed}", name, *shown)


def uncertainty(given: argparse.Namespace) -> None:
    spreads = (0, 0.2, 0.4, -0.2)
    header("case, seed, w", "distances less", "by", *(f"spread {x}" for x in spreads))
    for seed, one in draws(given, (PHOTOGRAPHS[0], TO_DLIB[0], *TEXTS)):
        assert one.h.uncertainty is not None
        old, new, _ = one.truth.scaled(one.fusion)
        w = 0.5 if one.case.data == "scifact" else 0.3
        numbers = Numbers.of([each.scaled(one.fusion)[:2] for each in one.folds], w)
        errors = ((one.made.vectors - one.gallery.new.vectors) ** 2).sum(axis=1)
        unsure = {
            "h's own": one.h.uncertainty.of(one.made.vectors),
            "the true error": errors,
            "chance": np.random.default_rng(0).random(len(errors)),
        }
        for less, at in {
            "nothing": np.zeros(2),
            "means": numbers.mean,
            "first ten": numbers.near,
        }.items():
            for name, values in unsure.items():
                place = (values.argsort().argsort() + 0.5) / len(values) - 0.5
                weights = (np.clip(w + x * place, 0.02, 0.98) for x in spreads)
                shown = (
                    said(one.truth.find(v * (old - at[0]) + (1 - v) * (new - at[1])))
                    for v in weights
                )
                row(f"{one.case}, {seed}, {w}", less, name, *shown)


def sequence(given: argparse.Namespace) -> None:
    header("share, seed", "pair", *(f"w {w:g}" for w in GRID[::2]), "chosen on the other half")
    for seed in given.seeds:
        (first, _), (second, _) = (
            texts_of(given, Case("scifact", "wordllama", name, None), given.share, seed)
            for name in ("minilm", "mpnet")
        )
        (old, middle, _), (_, new, _) = (x.truth.scaled(x.fusion) for x in (first, second))
        pairs = {
            "old and first, before the second": (old, middle),
            "old and second, directly": (old, new),
            "first as upgraded, and second": (middle, new),
            "old 0.7 + first 0.3, and second": (0.7 * old + 0.3 * middle, new),
        }
        base = first.truth.find(old)
        for name, (a, b) in pairs.items():
            found = [first.truth.find(w * a + (1 - w) * b) for w in GRID]
            chosen = [best([only(x, half) for x in found]) for half in halves(len(base.scores))]
            shown = (said(x) for x in found[::2])
            row(f"{given.share:g} %, {seed}", name, *shown, beside(base, found, chosen))


# Tables


def said(found: Found) -> str:
    return "/".join(f"{100 * x:.1f}" for x in found.values.values())


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(*names: str) -> None:
    row(*names)
    row(*("---" for _ in names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[each.__name__ for each in QUESTIONS])
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--seeds", default="0", help="first and last")
    for name, default in (("pairs", 50), ("items", 100), ("queries", 600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--share", type=float, default=10, help="percent of the texts")
    parser.add_argument("--rows", type=float, default=20, help="percent of items with one vector")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    given.seeds = range(int(first), int(last or first) + 1)
    next(each for each in QUESTIONS if each.__name__ == given.what)(given)


QUESTIONS = (choose, scales, texts, alone, third, uncertainty, sequence)

if __name__ == "__main__":
    main()
