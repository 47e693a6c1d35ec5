"""Does `fit` keep the right h for a gallery that no model has seen? Draw, fit, compare, and say.

    python lab/unseen.py VECTORS [--only WORD] [--seeds 0-9] [--processes 2]

VECTORS is what `lab/unseen_vectors.py` and `lab/text.py embed` wrote. In every draw h is fitted on
some pairs: what `fit` keeps of its own accord (auto), and ridge, mlp and ensemble by name, where
there is side-information with it and without. Then the new model's queries are answered by h of a
gallery of other classes, people or texts than those pairs, beside doing nothing and full backfill.
The score is the mean of cmc@1 and map where labels judge, and ndcg@10 of real queries where texts
do. Regret is the score of the method that is best over all draws less that of what was kept, on the
same draw.

    cifar100: pairs of classes 0-79, 50 images a class; gallery and queries of 80-99, 5 a class.
    orl: pairs of half of the people, gallery and queries of the other half, 10 pictures of each.
    scifact: pairs of 1,500 abstracts that no test claim needs; gallery of 2,000 others with all
        that the 300 test claims need, which are the queries.

Draws that are done are kept below VECTORS/draws, apart for each state of the code, and not made
again. Prints Markdown; writes the same as JSON with --out. The code before `fit` judged by unseen
classes is measured by this script as it stands at c5da893, with PYTHONPATH set to that code.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onward.artifacts import digest
from onward.evaluation.intervals import bootstrap
from onward.evaluation.judgements import read_qrels
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import rank
from onward.spaces import Embeddings
from onward.training.fit.fit import fit
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation, mean

ALONE = ("ridge", "mlp")
METHODS = (*ALONE, "ensemble")
WITHOUT = " without side"
KEPT = "auto"
NOTHING, FULL = "nothing", "full"
ALLOWED_MEAN, ALLOWED = 0.005, 0.02
SETTINGS = {"epochs": 20, "batch_size": 256, "least_steps": 200}
PAIRS_A_CLASS, ITEMS_A_CLASS = 50, 5
TEXT_PAIRS, TEXT_ITEMS = 1500, 2000

PerQuery = np.ndarray
Scores = dict[str, PerQuery]
"""What each query gets, by metric."""


class Case(NamedTuple):
    """A pair of models on a data set, with or without side-information."""

    data: str
    old: str
    new: str
    side: str | None

    def __str__(self) -> str:
        return f"{self.data} {self.old} -> {self.new}" + (f" with {self.side}" if self.side else "")


CASES = (
    Case("cifar100", "old", "new", None),
    Case("cifar100", "old", "new", "old-layers"),
    Case("orl", "resnet", "dlib", None),
    Case("orl", "resnet", "dlib", "resnet-layers"),
    Case("orl", "hog", "dlib", None),
    Case("orl", "hog", "dlib", "hog-thumbnail"),
    Case("orl", "dlib-far", "dlib", None),
    Case("orl", "dlib-far", "dlib", "hog-thumbnail"),
    Case("scifact", "wordllama", "minilm", None),
    Case("scifact", "minilm", "mpnet", None),
    Case("scifact", "minilm", "mpnet", "wordllama"),
)


class Vectors(NamedTuple):
    """The same items in the old space, as side-information and in the new space."""

    old: Embeddings
    side: Embeddings | None
    new: Embeddings

    def select(self, rows: np.ndarray) -> "Vectors":
        side = None if self.side is None else self.side.select(rows)
        return Vectors(self.old.select(rows), side, self.new.select(rows))


@dataclass(frozen=True, eq=False)
class Draw:
    """What h is fitted on, and the gallery and queries that it is judged by."""

    pairs: Vectors
    gallery: Vectors
    queries: Vectors
    relevance: Relevance
    metrics: tuple[str, ...]

    def scores(self, queries: Embeddings, gallery: Embeddings) -> Scores:
        rankings = rank(queries, gallery, exclude_self=self.relevance.exclude_self)
        found = evaluate(rankings, self.relevance, metrics=self.metrics)
        return {name: found.per_query(name)[found.counted] for name in self.metrics}

    def upgraded(self, h: Transformation) -> Embeddings:
        return h.apply(self.gallery.old, None if h.side is None else self.gallery.side)

    def carried(self, h: Transformation) -> Scores:
        return self.scores(self.queries.new, self.upgraded(h))


def score_of(scores: Mapping[str, Sequence[float]]) -> PerQuery:
    """Return what counts of each query: the mean of its metrics."""
    return np.mean([np.asarray(one) for one in scores.values()], axis=0)


# Draws


@cache
def load(folder: Path, case: Case, part: str) -> Vectors:
    def read(name: str) -> Embeddings:
        return Embeddings.load(folder / case.data / f"{name}-{part}.parquet")

    side = None if case.side is None or part == "queries" else read(case.side)
    return Vectors(read(case.old), side, read(case.new))


def draw(folder: Path, case: Case, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    return {"cifar100": draw_photographs, "orl": draw_faces, "scifact": draw_texts}[case.data](
        folder, case, rng
    )


def draw_photographs(folder: Path, case: Case, rng: np.random.Generator) -> Draw:
    pairs, items = load(folder, case, "pairs"), load(folder, case, "items")
    return labelled(
        pairs.select(some_of_each(labels_of(pairs), PAIRS_A_CLASS, rng)),
        items.select(some_of_each(labels_of(items), ITEMS_A_CLASS, rng)),
    )


def draw_faces(folder: Path, case: Case, rng: np.random.Generator) -> Draw:
    items = load(folder, case, "items")
    people = rng.permutation(np.unique(labels_of(items)))
    half = np.isin(labels_of(items), people[: len(people) // 2])
    return labelled(items.select(np.flatnonzero(half)), items.select(np.flatnonzero(~half)))


def draw_texts(folder: Path, case: Case, rng: np.random.Generator) -> Draw:
    items, claims = load(folder, case, "items"), load(folder, case, "queries")
    qrels = read_qrels(folder / case.data / "qrels_test.tsv")
    needed = {item for grades in qrels.values() for item, grade in grades.items() if grade > 0}
    is_needed = np.array([item in needed for item in items.old.ids])
    free = rng.permutation(np.flatnonzero(~is_needed))
    fillers = free[TEXT_PAIRS : TEXT_PAIRS + TEXT_ITEMS - int(is_needed.sum())]
    gallery = items.select(np.sort(np.concatenate([np.flatnonzero(is_needed), fillers])))
    asked = [row for row, query in enumerate(claims.old.ids) if query in qrels]
    queries = claims.select(np.array(asked))
    relevance = Relevance.of_qrels(queries.old.ids, gallery.old.ids, qrels, exclude_self=False)
    pairs = items.select(np.sort(free[:TEXT_PAIRS]))
    return Draw(pairs, gallery, queries, relevance, ("ndcg@10",))


def labelled(pairs: Vectors, gallery: Vectors) -> Draw:
    relevance = Relevance.between(gallery.new, gallery.new, exclude_self=True)
    return Draw(pairs, gallery, gallery, relevance, ("cmc@1", "map"))


def labels_of(vectors: Vectors) -> np.ndarray:
    return np.asarray(vectors.new.labels)


def some_of_each(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chosen = [rng.permutation(np.flatnonzero(labels == one))[:count] for one in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


# What one draw gives


def measure(folder: Path, case: Case, seed: int, place: Path) -> dict[str, Any]:
    """Fit by every method, save what fit keeps, and return the scores of each query."""
    one = draw(folder, case, seed)
    scores = {
        NOTHING: one.scores(one.queries.old, one.gallery.old),
        FULL: one.scores(one.queries.new, one.gallery.new),
    }
    seconds, made = {}, {}
    for way in ("",) if case.side is None else ("", WITHOUT):
        pairs = one.pairs._replace(side=None) if way else one.pairs
        for method in ALONE if way else (*ALONE, KEPT):
            start = time.process_time()
            made[method + way] = fit_by(method, pairs, seed)
            seconds[method + way] = time.process_time() - start
        made["ensemble" + way] = mean([made["mlp" + way], made["ridge" + way]])  # as fit makes it
    scores |= {method: one.carried(h) for method, h in made.items()}
    made_by = {method: said_of(made[method], case) for method in seconds}
    made[KEPT].save(place)
    rounded = {
        name: {metric: np.round(values, 6).tolist() for metric, values in found.items()}
        for name, found in scores.items()
    }
    return {"scores": rounded, "seconds": seconds, "made_by": made_by}


def fit_by(method: str, pairs: Vectors, seed: int) -> Transformation:
    settings = FitSettings(method=method, **SETTINGS)
    fitted: Any = fit(*pairs, settings=settings, seed=seed, run=RunSettings(device="cpu"))
    h: Transformation = getattr(fitted, "transformation", fitted)
    return h


def said_of(h: Transformation, case: Case) -> dict[str, Any]:
    """Return the method of h, and the penalty where it has one."""
    method = h.made_by.get("method")
    without = WITHOUT if case.side is not None and h.side is None else ""
    return {"method": f"{method}{without}", "penalty": h.made_by.get("penalty")}


def measured(job: tuple[Path, Path, Case, int]) -> dict[str, Any]:
    """Return what a draw gives, from where it is kept if it was made before."""
    folder, kept, case, seed = job
    path = path_of(kept, case, seed)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(measure(folder, case, seed, path.with_suffix(""))))
        aside.rename(path)
        print(f"{case}, seed {seed}", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def path_of(kept: Path, case: Case, seed: int) -> Path:
    """Return where a draw is kept; what fit kept of it lies beside it, without the suffix."""
    return kept / f"{str(case).replace(' -> ', '-to-').replace(' ', '_')}-{seed}.json"


def code_digest() -> str:
    """Return what changes with the code that is measured, or with how."""
    ours = (module for name, module in sys.modules.items() if name.partition(".")[0] == "onward")
    files = sorted(Path(module.__file__) for module in ours if module.__file__)
    sizes = (SETTINGS, PAIRS_A_CLASS, ITEMS_A_CLASS, TEXT_PAIRS, TEXT_ITEMS)
    return digest(*(file.read_bytes() for file in files), repr(sizes).encode())[:12]


# What all draws give


@dataclass(frozen=True)
class Regret:
    """What the kept h lacks beside the method that is best over all draws, as fractions."""

    best: str
    mean: float
    worst: float
    worst_seed: int
    wrong: tuple[int, ...]
    """Seeds of the draws that lack more than 2 points, beyond the paired 95 % interval."""
    kept: Mapping[str, int]

    @property
    def good(self) -> bool:
        return self.mean <= ALLOWED_MEAN and not self.wrong

    @classmethod
    def of(cls, draws: Mapping[int, Mapping[str, Any]]) -> "Regret":
        means = {
            name: np.mean([score_of(one["scores"][name]).mean() for one in draws.values()])
            for name in next(iter(draws.values()))["scores"]
            if name not in (NOTHING, FULL, KEPT)
        }
        best = max(means, key=means.__getitem__)
        lacks = {
            seed: bootstrap(
                score_of(one["scores"][best]) - score_of(one["scores"][KEPT]), difference=True
            )
            for seed, one in draws.items()
        }
        worst = max(lacks, key=lambda seed: lacks[seed].estimate)
        return cls(
            best,
            float(np.mean([one.estimate for one in lacks.values()])),
            lacks[worst].estimate,
            worst,
            tuple(seed for seed, one in lacks.items() if one.estimate > ALLOWED and one.low > 0),
            dict(Counter(one["made_by"][KEPT]["method"] for one in draws.values())),
        )


def mean_scores(draws: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the means over draws, by what answered and by metric."""
    first = next(iter(draws.values()))["scores"]
    return {
        name: {
            metric: float(np.mean([np.mean(one["scores"][name][metric]) for one in draws.values()]))
            for metric in found
        }
        for name, found in first.items()
    }


def tables(found: Mapping[Case, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return what was found as Markdown, in percent and points."""
    columns = (NOTHING, *METHODS, *(method + WITHOUT for method in METHODS), KEPT, FULL)
    lines = [
        "| case (cmc@1 / map, or ndcg@10) | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for case, draws in found.items():
        means = mean_scores(draws)
        cells = [
            " / ".join(f"{100 * x:.1f}" for x in means.get(name, {}).values()) for name in columns
        ]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    heads = ("case", "best", "kept", "mean regret", "worst (seed)", "wrong draws", "as wanted")
    lines += ["", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for case, draws in found.items():
        regret = Regret.of(draws)
        cells = [
            str(case),
            regret.best,
            ", ".join(f"{name} {count}" for name, count in sorted(regret.kept.items())),
            f"{100 * regret.mean:.2f}",
            f"{100 * regret.worst:.2f} ({regret.worst_seed})",
            ", ".join(map(str, regret.wrong)) or "none",
            "yes" if regret.good else "NO",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seconds = [sum(one["seconds"].values()) for draws in found.values() for one in draws.values()]
    lines += ["", f"{len(seconds)} draws, {sum(seconds) / 60:.0f} minutes of fitting on one core."]
    return "\n".join(lines)


def to_json(found: Mapping[Case, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        str(case): {
            "means": mean_scores(draws),
            "regret": asdict(Regret.of(draws)),
            "draws": {
                seed: {
                    "scores": mean_scores({seed: one}),
                    "made_by": one["made_by"],
                    "seconds": {name: round(x, 1) for name, x in one["seconds"].items()},
                }
                for seed, one in draws.items()
            },
        }
        for case, draws in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    cases = [case for case in CASES if given.only in str(case)]
    kept = given.vectors / "draws" / code_digest()
    jobs = [(given.vectors, kept, case, seed) for seed in seeds for case in cases]
    with multiprocessing.get_context("spawn").Pool(given.processes, one_thread) as pool:
        results = dict(zip([job[2:] for job in jobs], pool.map(measured, jobs, 1), strict=True))
    found = {case: {seed: results[case, seed] for seed in seeds} for case in cases}
    print(tables(found))
    if given.out is not None:
        given.out.write_text(json.dumps(to_json(found), indent=1) + "\n")


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
