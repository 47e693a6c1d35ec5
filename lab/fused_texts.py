"""Is what is advised to serve no worse than doing nothing, where people ask in words? Measure it.

    python lab/fused_texts.py VECTORS [--seeds 0-2] [--out lab/fused_texts.json]

VECTORS is what `lab/text.py embed` wrote: SciFact's 5,183 abstracts and 1,109 claims with
judgements (train and test), by wordllama, minilm and mpnet. The new model embeds a share of the
abstracts, drawn at random; h (ridge) is fitted on these alone and carries the others, and these
keep their true new vectors. The claims ask, judged by ndcg@10.

What to serve (the old space, the new one, or both fused with a weight) is advised without the
claims that judge it: they are dealt into two halves, and each half is answered as the other half
advises.

    by fit: what `fit` advises by real queries among the abstracts that it is given.
    by plan: what `plan_upgrade` recommends by real queries in the whole gallery.
    by items: what `fit` advises where nobody asks, by items that look for their neighbours.

Prints Markdown; writes the same as JSON with --out. Differences are paired, claim by claim, with
95 % intervals of a bootstrap over the claims.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.intervals import bootstrap
from onward.evaluation.judgements import read_qrels
from onward.evaluation.relevance import RealQueries, Relevance
from onward.fusion import Fusion, Searchable, Serve, fuse
from onward.gallery import create_gallery
from onward.spaces import Embeddings
from onward.training.fit.fit import fit
from onward.training.settings import FitSettings
from onward.transformation import Transformation
from onward.upgrading import plan_upgrade

PAIRS = (("wordllama", "minilm"), ("minilm", "mpnet"))
SHARES = (0.03, 0.1, 0.3, 0.6)
NOTHING, UPGRADE, FULL = "doing nothing", "upgrade", "everything again"
EVEN = "fused, weight 0.5"
ADVISED = ("by fit", "by plan", "by items")
METRIC = "ndcg@10"
LOSS = 0.005
"""What is advised may lack so much beside doing nothing, and its interval has to reach 0."""

PerQuery = np.ndarray


@dataclass(frozen=True, eq=False)
class Texts:
    """Abstracts and claims by two models, and which abstracts each claim looks for.

    Attributes:
        side: side-information of the abstracts, if any.
    """

    old: Embeddings
    new: Embeddings
    asked_old: Embeddings
    asked_new: Embeddings
    qrels: Mapping[str, Mapping[str, int]]
    side: Embeddings | None = None

    @classmethod
    def load(cls, folder: Path, old: str, new: str, side: str | None = None) -> "Texts":
        qrels = {
            query: grades
            for part in ("train", "test")
            for query, grades in read_qrels(folder / f"qrels_{part}.tsv").items()
            if any(grade > 0 for grade in grades.values())
        }

        def read(name: str, what: str) -> Embeddings:
            return Embeddings.load(folder / f"{name}-{what}.parquet")

        asked = [read(name, "queries").align(sorted(qrels)) for name in (old, new)]
        aside = None if side is None else read(side, "items")
        return cls(read(old, "items"), read(new, "items"), *asked, qrels, aside)

    def scores(self, queries: Searchable, gallery: Searchable) -> PerQuery:
        """Return ndcg@10 of each query, in the order given."""
        relevance = Relevance.of_qrels(queries.ids, gallery.ids, self.qrels, exclude_self=False)
        found = evaluate_embeddings(
            queries, gallery, exclude_self=False, relevance=relevance, metrics=(METRIC,)
        )
        return found.per_query(METRIC)

    def ask(self, rows: np.ndarray) -> RealQueries:
        """Return some of the claims as real queries."""
        return RealQueries(self.asked_old.select(rows), self.asked_new.select(rows), self.qrels)


@dataclass(frozen=True, eq=False)
class Upgraded:
    """The gallery after an upgrade by what was learned from a share of it."""

    texts: Texts
    h: Transformation
    gallery: Embeddings

    @classmethod
    def of(cls, texts: Texts, h: Transformation, sample: np.ndarray) -> "Upgraded":
        carried = h.apply(texts.old, texts.side if h.side is not None else None)
        is_sampled = np.isin(np.array(carried.ids), np.array(texts.new.ids)[sample])
        true = texts.new.align(carried.ids).vectors
        mixed = np.where(is_sampled[:, None], true, carried.vectors)
        return cls(texts, h, replace(carried, vectors=mixed, origins=None))

    def scores(self, serve: Serve, fusion: Fusion | None, rows: np.ndarray) -> PerQuery:
        """Return what some claims find where this is served."""
        texts = self.texts
        old, new = texts.asked_old.select(rows), texts.asked_new.select(rows)
        if serve == "old":
            return texts.scores(old, texts.old)
        if serve == "new":
            return texts.scores(new, self.gallery)
        assert fusion is not None
        both = fuse(fusion, old, new, "claims"), fuse(fusion, texts.old, self.gallery, "abstracts")
        return texts.scores(*both)


Advice = tuple[Serve, Fusion | None]


def measure(texts: Texts, share: float, seed: int) -> dict[str, Any]:
    """Return the scores of each claim by what is served, and what was advised."""
    random = np.random.default_rng(seed)
    sample = np.sort(random.permutation(len(texts.old))[: round(share * len(texts.old))])
    claims = random.permutation(len(texts.asked_old))
    halves = [np.sort(half) for half in np.array_split(claims, 2)]
    every = np.arange(len(claims))

    def fitted(queries: RealQueries | None) -> tuple[Transformation, Advice]:
        found = fit(
            texts.old.select(sample),
            None,
            texts.new.align(texts.old.select(sample).ids),
            of_gallery=True,
            queries=queries,
            settings=FitSettings(method="ridge"),
            seed=seed,
        )
        assert found.serving is not None
        return found.transformation, (found.serving.advised, found.serving.fusion)

    h, by_items = fitted(None)
    upgraded = Upgraded.of(texts, h, sample)
    even = None if by_items[1] is None else replace(by_items[1], weight=0.5)
    scores = {
        NOTHING: upgraded.scores("old", None, every),
        UPGRADE: upgraded.scores("new", None, every),
        EVEN: upgraded.scores("fused", even, every),
        FULL: texts.scores(texts.asked_new, texts.new),
    }
    advised = dict[str, list[Advice]](zip(ADVISED, ([], [], []), strict=True))
    for half in reversed(halves):  # the first half is answered as the second one advises
        judged_h, by_fit = fitted(texts.ask(half))
        assert judged_h.digest == h.digest
        advised["by fit"].append(by_fit)
        advised["by plan"].append(planned(texts, judged_h, sample, texts.ask(half)))
        advised["by items"].append(by_items)
    for name, each in advised.items():
        scores[name] = np.empty(len(every))
        for half, advice in zip(halves, each, strict=True):
            scores[name][half] = upgraded.scores(*advice, half)
    told = {name: [said(*advice) for advice in each] for name, each in advised.items()}
    return {"scores": scores, "advised": told}


def planned(texts: Texts, h: Transformation, sample: np.ndarray, queries: RealQueries) -> Advice:
    """Return what the plan recommends to serve, by these queries in the whole gallery."""
    gallery = create_gallery(f"memory:{time.monotonic_ns()}", texts.old.space, items=[texts.old])
    embedded = texts.new.align(texts.old.select(sample).ids)
    plan = plan_upgrade(gallery, h, sample=embedded, queries=queries)
    assert plan.decision is not None
    assert h.serving is not None
    serve = plan.decision.advised or "old"  # where the gate cannot judge, nothing is begun
    assert plan.decision.writes_sample or serve == "old"
    return serve, h.serving.fusion


def said(serve: Serve, fusion: Fusion | None) -> str:
    return f"fused {fusion.weight:g}" if serve == "fused" and fusion is not None else serve


# What all draws give


def summary(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return means and paired differences to doing nothing of one draw, as fractions."""
    nothing = made["scores"][NOTHING]
    rows = {}
    for name, scores in made["scores"].items():
        gained = bootstrap(scores - nothing, difference=True)
        rows[name] = {METRIC: float(scores.mean()), "beside doing nothing": gained.to_json()}
        if name in ADVISED:
            rows[name] |= {
                "advised": made["advised"][name],
                "as wanted": gained.estimate >= -LOSS and gained.high >= 0,
            }
    return rows


def lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Give what was found as Markdown, in percent and points."""
    names = list(next(iter(found.values())))
    yield f"| pair, share embedded, seed ({METRIC}) | " + " | ".join(names) + " |"
    yield "| --- |" + " --- |" * len(names)
    for case, rows in found.items():
        cells = []
        for name, row in rows.items():
            gained = row["beside doing nothing"]
            ends = " to ".join(f"{100 * gained[end]:+.1f}" for end in ("low", "high"))
            beside = f" ({100 * gained['estimate']:+.2f}: {ends})" if name != NOTHING else ""
            advice = f" {', '.join(row['advised'])}" if "advised" in row else ""
            cells.append(f"{100 * row[METRIC]:.1f}{beside}{advice}")
        yield f"| {case} | " + " | ".join(cells) + " |"
    for name in ADVISED:
        bad = [case for case, rows in found.items() if not rows[name]["as wanted"]]
        yield f"\n{name}: as wanted in {len(found) - len(bad)} of {len(found)}. " + "; ".join(bad)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--seeds", default="0-2", help="first and last")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    found = {}
    for old, new in PAIRS:
        texts = Texts.load(given.vectors / "scifact", old, new)
        for share in SHARES:
            for seed in range(int(first), int(last or first) + 1):
                case = f"{old} -> {new}, {100 * share:.0f} %, {seed}"
                found[case] = summary(measure(texts, share, seed))
                print(*list(lines({case: found[case]}))[2:3], sep="\n", flush=True)
                if given.out is not None:
                    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
