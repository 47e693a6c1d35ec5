"""What `baselines.py` and `better_h.py` share: one way after another to search an old gallery.

    python lab/SCRIPT IMAGES CACHE KEPT [--seeds 0 1 2] [--only WORD] [--every 1] [--out FILE]

IMAGES is CIFAR-100, CACHE that of `onward experiment cifar100-small`, whose models (old with its
layers, new) are trained where they are not there. Each map is fitted on the new model's training
images, then the new model's queries search what it makes of the gallery: of the closed set, and of
the open one, whose classes no model has seen. What a map has to choose (a penalty, say) is chosen
on the held-out classes of `fit`'s three folds and by its rule; so is the weight of the fused pair
(`advise`). Each cell is shown in the better metric of l2 and the cosine, of the same vectors.

    one: one space.
    half: fused with the old space, weight 0.5.
    advised: the old space, the new one or both fused, as `advise` says.
    ranks: reciprocal rank fusion of the rankings of both spaces (k = 60).

Every n-th item asks (--every); the average precision of a fourth of these is measured. What was
measured is kept in KEPT, a file for each map and seed, and not measured again. Prints Markdown,
with differences from the best control in points; writes all of it as JSON with --out.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onward.evaluation.intervals import bootstrap, over_clusters, over_seeds
from onward.evaluation.serving import Found, advise
from onward.experiments.recipe import Arm, Recipe, load_recipe
from onward.experiments.splits import CLOSED, OPEN, TRAIN, split
from onward.experiments.vectors import LAYERS, Stage, StudyArm, StudyVectors, train_models
from onward.training.fit.pairs import Classifier
from onward.training.fit.selection import FLAT, Folds, Judge

METRICS = ("l2", "cosine")
SERVED = ("one", "half", "advised", "ranks")
INTERVALS = ("over seeds", "over queries")
NOTHING, FULL, RIDGE = "old/old", "new/new", "ridge, side"
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 3.0, 10.0, 30.0)
RANKS_K = 60
SIDE_DIM, MOST_JUDGED, BLOCK = 256, 6000, 1000
ASKED, MEASURED = 3, 4
"""Every so many held-out items choose a weight, and the average precision of every so many queries
is measured."""

Matrix = np.ndarray
Pair = tuple[Matrix, Matrix]
"""What is asked and what is searched, in one space."""


@dataclass(frozen=True, eq=False)
class Items:
    """Items by both models and by what is stored beside the old vector, and their classes."""

    vectors: Mapping[str, Matrix]
    labels: np.ndarray

    def __getitem__(self, name: str) -> Matrix:
        return self.vectors[name]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "Items":
        return Items({name: each[rows] for name, each in self.vectors.items()}, self.labels[rows])

    def given(self, side: str | None) -> Matrix:
        """Return what a map is given: the old vector, with side-information if it has a name."""
        return self["old"] if side is None else np.hstack([self["old"], self[side]])


Carry = Callable[[Items], Pair]
Prepare = Callable[[Items, Mapping[str, Any]], Callable[[Any], Carry]]


@dataclass(frozen=True)
class Way:
    """A way to search an old gallery by new queries.

    Attributes:
        prepare: is given items to learn from and what other ways chose, and returns what makes of
            a setting what carries a gallery over.
        settings: what it chooses among.
        beside: the way whose old vectors it is fused with.
        fused_as: the way whose weight and scales it takes, where it cannot be judged by folds.
        after: ways whose settings it needs.
        is_fused: whether it is measured fused too.
        by_ranks: whether both rankings are fused as well.
        by_error: whether errors of its settings compare; not where a setting changes distances.
    """

    name: str
    prepare: Prepare
    settings: Sequence[Any] = (None,)
    beside: str = NOTHING
    fused_as: str | None = None
    after: tuple[str, ...] = ()
    is_fused: bool = True
    by_ranks: bool = False
    by_error: bool = True


@dataclass(frozen=True, eq=False)
class Study:
    """What a seed's models give: items to learn from, in folds, and two galleries.

    Attributes:
        folds: rows of `train` that are learned from, and rows that are judged.
        heads: rows of both models' classifiers, of the classes that both know.
    """

    train: Items
    galleries: Mapping[str, Items]
    folds: Sequence[tuple[np.ndarray, np.ndarray]]
    heads: Pair

    @cached_property
    def split(self) -> list[tuple[Items, Items]]:
        return [(self.train.select(some), self.train.select(rest)) for some, rest in self.folds]

    @cached_property
    def asked(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The classes of each fold's held-out items, and which of these ask."""
        return [(x.labels, np.arange(0, len(x), ASKED)) for _, x in self.split]

    @cached_property
    def clusters(self) -> list[int]:
        """The classes of all that ask, which are hard or easy together."""
        return [int(each) for labels, own in self.asked for each in labels[own]]


# What is found


def distances(queries: Matrix, gallery: Matrix, metric: str) -> Matrix:
    """Return squared distances: of the vectors, or of their directions."""
    if metric == "cosine":
        queries, gallery = (
            x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery)
        )
    else:
        middle = gallery.mean(axis=0)
        queries, gallery = queries - middle, gallery - middle
    queries, gallery = queries.astype(np.float32), gallery.astype(np.float32)
    found: Matrix = (-2 * queries) @ gallery.T
    found += (queries**2).sum(axis=1)[:, None]
    found += (gallery**2).sum(axis=1)
    return np.maximum(found, 0, out=found)


def find(found: Matrix, labels: np.ndarray, own: np.ndarray, some: int = 1) -> Matrix:
    """Return cmc@1 and average precision of each query, which is item `own` of the gallery.

    Args:
        some: the average precision of every so many queries is measured, which takes most of the
            time; that of the others is NaN.
    """
    found[np.arange(len(own)), own] = np.inf
    scores = np.full((2, len(own)), np.nan)
    scores[0] = labels[found.argmin(axis=1)] == labels[own]
    ordered = np.sort(found[::some], axis=1)
    members = {x: np.flatnonzero(labels == x) for x in set(labels[own])}
    for row, item in enumerate(own[::some]):
        relevant = np.sort(found[row * some, members[labels[item]]])[:-1]  # without the query
        place = np.arange(1, len(relevant) + 1)
        ranks = np.maximum(np.searchsorted(ordered[row], relevant) + 1, place)
        scores[1, row * some] = (place / ranks).mean()
    return scores


def fused_ranks(old: Matrix, new: Matrix, own: np.ndarray) -> Matrix:
    """Return minus the sum of 1 / (60 + rank), without the queries; what ties goes by place."""
    score = 1e-12 * np.arange(old.shape[1]) + np.zeros(old.shape)
    for each in (old, new):
        without = each.copy()
        without[np.arange(len(own)), own] = np.inf
        order = np.argsort(without, axis=1, kind="stable")
        ranks = np.broadcast_to(np.arange(1.0, each.shape[1] + 1), each.shape)
        gained = np.empty(each.shape)
        np.put_along_axis(gained, order, 1 / (RANKS_K + ranks), axis=1)
        score -= gained
    return score


@dataclass(frozen=True)
class Fused:
    """What is served by a metric, and what both distances are divided by."""

    advised: str
    weight: float
    old: float
    new: float
    by_ranks: bool = False

    def cells(self, old: Matrix, new: Matrix, own: np.ndarray) -> dict[str, Matrix]:
        """Return the distances of queries, which are items `own`, by what is served."""
        weight = {"old": 1.0, "new": 0.0}.get(self.advised, self.weight)
        cells = {"half": self.combine(old, new, 0.5), "advised": self.combine(old, new, weight)}
        if self.by_ranks:
            cells["ranks"] = fused_ranks(old, new, own)
        return cells

    def combine(self, old: Matrix, new: Matrix, weight: float) -> Matrix:
        return weight / self.old * old + (1 - weight) / self.new * new

    @classmethod
    def choose(
        cls, olds: Sequence[Pair], news: Sequence[Pair], study: Study, metric: str
    ) -> "Fused":
        """Return what the product's rule says, by what was held out in each fold."""
        pairs = [
            [
                distances(pair[0][own], pair[1], metric)
                for pair, (_, own) in zip(each, study.asked, strict=True)
            ]
            for each in (olds, news)
        ]
        apart = [own[:, None] != np.arange(len(labels)) for labels, own in study.asked]
        stds = [
            float(np.concatenate([x[y] for x, y in zip(each, apart, strict=True)]).std())
            for each in pairs
        ]
        even = cls("", 0.5, *stds)

        def found(weight: float) -> Found:
            each = [
                find(even.combine(old, new, weight), *asked)
                for old, new, asked in zip(*pairs, study.asked, strict=True)
            ]
            return Found(dict(zip(("cmc@1", "map"), np.concatenate(each, axis=1), strict=True)))

        said = advise(found(1), found(0), found, study.clusters, by="label", lenient="held out")
        return cls(said.advised, said.weight, *stds)


def measure(
    items: Items, asked: np.ndarray, way: Pair, old: Pair, fused: Mapping[str, Fused]
) -> dict[str, Matrix]:
    """Return cmc@1 and average precision of each query, by metric and what is served.

    Args:
        asked: which items ask.
        way: what asks and what is searched.
        old: the same in the old space.
        fused: how both are fused, by metric.
    """
    parts: dict[str, list[Matrix]] = {}
    for own in np.split(asked, range(BLOCK, len(asked), BLOCK)):
        for metric in METRICS:
            cells = {"one": distances(way[0][own], way[1], metric)}
            if metric in fused:
                before = distances(old[0][own], old[1], metric)
                cells |= fused[metric].cells(before, cells["one"], own)
            for served, each in cells.items():
                found = find(each, items.labels, own, MEASURED)
                parts.setdefault(f"{metric} {served}", []).append(found)
    return {name: np.concatenate(each, axis=1) for name, each in parts.items()}


# Maps

Map = Callable[[Matrix], Matrix]


def ridges(
    inputs: Matrix, targets: Matrix, weights: Matrix | None = None, scale: Matrix | float = 1.0
) -> Callable[[float], Map]:
    """Return what gives the ridge of a penalty, of standardised inputs times a scale."""
    share = np.full(len(inputs), 1 / len(inputs)) if weights is None else weights / weights.sum()
    x, y = inputs.astype(float), targets.astype(float)
    mean, middle = share @ x, share @ y
    x, y = x - mean, y - middle
    std = np.sqrt(share @ x**2)
    factor = np.where(std > 1e-9, scale / np.maximum(std, 1e-9), 0)
    x *= factor
    weighted = x * share[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ x)
    projected = vectors.T @ (weighted.T @ y)

    def solve(penalty: float) -> Map:
        shrunk = projected / (np.maximum(values, 0) + penalty)[:, None]
        weight = (factor[:, None] * (vectors @ shrunk)).astype(np.float32)
        offset = (middle - mean @ weight).astype(np.float32)
        return lambda given: given @ weight + offset

    return solve


def carrying(h: Map, side: str | None) -> Carry:
    return lambda items: (items["new"], h(items.given(side)))


def as_it_is(queries: str, gallery: str) -> Prepare:
    return lambda _, __: lambda ___: lambda items: (items[queries], items[gallery])


def by_ridge(side: str | None) -> Prepare:
    def prepare(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
        solve = ridges(items.given(side), items["new"])
        return lambda penalty: carrying(solve(penalty), side)

    return prepare


# A seed's models


def open_study(vectors: StudyVectors, parts: Mapping[str, Items] | None = None) -> Study:
    """Return the study of a seed's models; of parts with more vectors, if they are given."""
    (arm,) = vectors.recipe.performed
    seed = vectors.recipe.seed_of("fit")
    folds = Folds.of(StudyArm(arm, vectors).pairs(TRAIN), gallery_classes="unseen", seed=seed)
    judged = Judge.of(folds, most=MOST_JUDGED, seed=seed).rows
    both = [(folds.learned(fold), rows) for fold, rows in enumerate(judged)]
    old, new = (Classifier.of(vectors.models[role]) for role in ("old", "new"))
    common = sorted(set(old.classes) & set(new.classes))
    heads = tuple(each.weight[[each.classes.index(x) for x in common]] for each in (old, new))
    galleries = dict(parts or open_parts(vectors))
    return Study(galleries.pop(TRAIN), galleries, both, heads)


def open_parts(vectors: StudyVectors) -> dict[str, Items]:
    """Return what h is fitted on and both galleries, with side-information as it is stored."""
    (arm,) = vectors.recipe.performed
    one = StudyArm(arm, vectors)
    return {
        part: Items(
            {
                "old": vectors.of("old", part).vectors,
                "new": vectors.of("new", part).vectors,
                LAYERS: one.side(part).vectors.astype(np.float32),
            },
            np.asarray(vectors.of("new", part).labels),
        )
        for part in (TRAIN, CLOSED, OPEN)
    }


def open_vectors(images: str, cache: Path, seed: int) -> StudyVectors:
    @contextmanager
    def bar(*_: str) -> Iterator[Callable[..., None]]:
        yield lambda *_, **__: None

    recipe = load_recipe("cifar100-small", {"data.source": images, "seed": seed})
    arm = Arm(name="new/old", side=LAYERS, dim=SIDE_DIM, format="int8")
    recipe = Recipe.model_validate(recipe.model_dump() | {"arms": [arm], "baselines": []})
    return train_models(recipe, split(recipe), Stage("cpu", print, bar, cache))


# What is measured, and kept


@dataclass(frozen=True, eq=False)
class Measurement:
    """Ways of one seed, each measured once; its file has the scores of all queries.

    Attributes:
        every: every n-th item asks.
        chosen: the setting of each way.
        held: what each makes of the held-out items of each fold.
        fused: by way and metric, what is served.
    """

    study: Study
    ways: Sequence[Way]
    kept: Path
    every: int
    chosen: dict[str, Any] = field(default_factory=dict)
    held: dict[str, list[Pair]] = field(default_factory=dict)
    fused: dict[str, dict[str, Fused]] = field(default_factory=dict)

    def run(self, only: str) -> None:
        needed = {each for way in self.ways for each in (way.beside, way.fused_as, *way.after)}
        for way in self.ways:
            path = self.kept / file_of(way.name)
            if (only not in way.name or path.exists()) and way.name not in needed:
                continue
            settings = way.settings
            if path.exists():
                setting = json.loads(str(np.load(path)["about"]))["setting"]
                settings = [tuple(setting) if isinstance(setting, list) else setting]
            if way.fused_as is None:
                self.choose(way, settings)
            if way.is_fused:
                self.fuse(way)
            if not path.exists():
                self.write(way, path)

    def choose(self, way: Way, settings: Sequence[Any]) -> None:
        """Choose a setting as `fit` does: of those that find as much, the one that errs least.

        Where errors do not compare, the one that finds most.
        """
        made: dict[Any, list[Pair]] = {each: [] for each in settings}
        for learned, there in self.study.split:
            make = way.prepare(learned, self.chosen)
            for setting in settings:
                made[setting].append(make(setting)(there))
        best = settings[0] if len(settings) == 1 else self.best_of(way, made)
        self.chosen[way.name], self.held[way.name] = best, made[best]

    def best_of(self, way: Way, made: Mapping[Any, Sequence[Pair]]) -> Any:
        scores, errors, clusters = {}, {}, self.study.clusters
        for setting, pairs in made.items():
            each = [
                find(distances(queries[own], there, "l2"), labels, own).mean(axis=0)
                for (queries, there), (labels, own) in zip(pairs, self.study.asked, strict=True)
            ]
            scores[setting] = np.concatenate(each)
            errors[setting] = np.mean(
                [((x - y) ** 2).sum(axis=1).mean() / x.var(axis=0).sum() for x, y in pairs]
            )
        best = max(scores, key=lambda setting: scores[setting].mean())
        if not way.by_error:
            return best
        flat = [
            setting
            for setting, score in scores.items()
            if over_clusters(score - scores[best], clusters, difference=True, confidence=FLAT).high
            >= 0
        ]
        return min(flat, key=lambda setting: errors[setting])

    def fuse(self, way: Way) -> None:
        if way.fused_as is not None:
            self.fused[way.name] = self.fused[way.fused_as]
            return
        olds, news = self.held[way.beside], self.held[way.name]
        self.fused[way.name] = {
            metric: replace(Fused.choose(olds, news, self.study, metric), by_ranks=way.by_ranks)
            for metric in METRICS
        }

    def write(self, way: Way, path: Path) -> None:
        """Fit a way on everything, measure it in both galleries, and keep that."""
        carry, fused = self.carry(way), self.fused.get(way.name, {})
        other = next(each for each in self.ways if each.name == way.beside)
        beside = self.carry(other) if fused else carry
        found: dict[str, Matrix] = {}
        for part, items in self.study.galleries.items():
            asked = np.arange(0, len(items), self.every)
            scores = measure(items, asked, carry(items), beside(items), fused)
            found |= {f"{part} {name}": each.astype(np.float32) for name, each in scores.items()}
        served = {metric: [one.advised, one.weight] for metric, one in fused.items()}
        about = json.dumps({"setting": self.chosen.get(way.name), "served": served})
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, about=np.array(about), **found)
        print(f"{way.name}: {about}", file=sys.stderr, flush=True)

    def carry(self, way: Way) -> Carry:
        return way.prepare(self.study.train, self.chosen)(self.chosen.get(way.name))


def file_of(name: str) -> str:
    return f"{name.replace('/', '-').replace(' ', '_')}.npz"


# Tables


@dataclass(frozen=True, eq=False)
class Cell:
    """What a way finds in a gallery by a metric and what is served, by seed: scores of queries."""

    metric: str
    found: Mapping[int, Matrix]

    def mean(self, which: int) -> float:
        return float(np.mean(list(self.by_seed(which).values())))

    def by_seed(self, which: int) -> dict[int, float]:
        return {seed: float(np.nanmean(each[which])) for seed, each in self.found.items()}

    def beside(self, other: "Cell", which: int) -> dict[str, Any]:
        """Return what it has more, with intervals over seeds and over queries."""
        mine, theirs = self.by_seed(which), other.by_seed(which)
        gained = np.mean([x[which] - other.found[s][which] for s, x in self.found.items()], axis=0)
        gained = gained[~np.isnan(gained)]
        over = over_seeds(mine, baseline=theirs), bootstrap(gained, difference=True)
        found = dict(zip(INTERVALS, over, strict=True))
        ends = {name: [x.low, x.high] for name, x in found.items()}
        by_seed = {seed: mine[seed] - theirs[seed] for seed in mine}
        return {"mean": over[0].estimate, **ends, "by seed": by_seed}


Table = Mapping[str, Mapping[str, Cell]]


def read(kept: Path, seeds: Sequence[int], names: Sequence[str]) -> Table:
    """Return of each way its cells by gallery and what is served, each in the better metric."""
    table: dict[str, dict[str, Cell]] = {}
    for name in names:
        paths = {seed: kept / str(seed) / file_of(name) for seed in seeds}
        if not all(path.exists() for path in paths.values()):
            continue
        arrays = {seed: dict(np.load(path)) for seed, path in paths.items()}
        table[name] = {}
        for key in arrays[seeds[0]]:
            if key == "about" or not all(key in each for each in arrays.values()):
                continue
            part, metric, served = key.split(" ")
            cell = Cell(metric, {seed: each[key].astype(float) for seed, each in arrays.items()})
            best = table[name].get(f"{part} {served}")
            if best is None or cell.mean(0) > best.mean(0):
                table[name][f"{part} {served}"] = cell
    return table


def best_of(table: Table, controls: Sequence[str], column: str) -> Cell | None:
    """Return the cell of the control that finds most first."""
    cells = [table[name][column] for name in controls if column in table.get(name, {})]
    return max(cells, key=lambda cell: cell.mean(0), default=None)


def describe(table: Table, controls: Sequence[str]) -> dict[str, Any]:
    """Return all numbers; differences are from the best control."""
    whole: dict[str, Any] = {}
    for name, cells in table.items():
        whole[name] = {}
        for column, cell in cells.items():
            one: dict[str, Any] = {"metric": cell.metric}
            best = best_of(table, controls, column)
            for which, what in enumerate(("cmc@1", "map")):
                one[what] = {"mean": cell.mean(which), "by seed": cell.by_seed(which)}
                if best is not None and name not in controls:
                    one[what]["beside the best control"] = cell.beside(best, which)
            whole[name][column] = one
    return whole


def show(whole: Mapping[str, Any], part: str) -> None:
    """Print cmc@1 and map of a gallery, in percent; then what is gained, in points."""

    def found(one: Mapping[str, Any]) -> str:
        values = [f"{100 * one[what]['mean']:.1f}" for what in ("cmc@1", "map")]
        return f"{' / '.join(values)} ({one['metric']})"

    def gained(one: Mapping[str, Any]) -> str:
        first, second = (one[what].get("beside the best control") for what in ("cmc@1", "map"))
        if first is None:
            return ""
        ends = ["{:+.1f} to {:+.1f}".format(*np.multiply(100, first[by])) for by in INTERVALS]
        return f"{100 * first['mean']:+.2f} ({'; '.join(ends)}) / {100 * second['mean']:+.2f}"

    for what, say in (("cmc@1 / map", found), (f"gained ({'; '.join(INTERVALS)})", gained)):
        print(f"\n| {part}: {what} | " + " | ".join(SERVED) + " |")
        print("| --- " * (len(SERVED) + 1) + "|")
        for name, cells in whole.items():
            some = (cells.get(f"{part} {served}") for served in SERVED)
            shown = ["" if one is None else say(one) for one in some]
            if any(shown):
                print(f"| {name} | " + " | ".join(shown) + " |")


Opened = Callable[[StudyVectors], tuple[Study, Sequence[Way]]]


def main(said: str, opened: Opened, controls: Sequence[str]) -> None:
    """Measure the ways of every seed, and print what all seeds gave."""
    parser = argparse.ArgumentParser(
        description=said, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images")
    parser.add_argument("cache", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="ways whose name has this in it")
    parser.add_argument("--every", type=int, default=1, help="ask every n-th item")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names: list[str] = []
    for seed in given.seeds:
        study, ways = opened(open_vectors(given.images, given.cache, seed))
        Measurement(study, ways, given.kept / str(seed), given.every).run(given.only)
        names = [way.name for way in ways]
    whole = describe(read(given.kept, given.seeds, names), controls)
    for part in (OPEN, CLOSED):
        show(whole, part)
    if given.out:
        about = {"seeds": given.seeds, "every": given.every, "controls": controls, "ways": whole}
        given.out.write_text(json.dumps(about, indent=1) + "\n")
