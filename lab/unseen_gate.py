"""Does the gate know what an upgrade gives, in galleries that no model has seen?

    python lab/unseen_gate.py VECTORS DRAWS [--only WORD] [--seeds 0-9] [--shares 3 10 30]

VECTORS is what `lab/unseen_vectors.py` and `lab/text.py embed` wrote; DRAWS is a folder below
VECTORS/draws with what `lab/unseen.py` kept, of which those that are there are judged. A gallery
holds the old vectors of a draw; of a random sample of its items the true new ones are known, of
which h has learned nothing. From these the gate predicts what is to be written, less doing nothing,
and answers.

The truth is that difference by the same metric, in the same gallery with the same sample written,
asked by every item of it (cifar100, orl), or by all 300 claims (scifact), of which the gate was
given a random half. A wrong open is one where the truth is more than 1 point below doing nothing; a
wrong close is one where it is more than 1 point above.

Besides, whether the 95 % interval holds the truth: for galleries of CIFAR-100's classes 80-99 with
4 and 20 images a class, h by ridge, a sample of 30 %.

Prints Markdown; writes the same as JSON with --out.
"""

import argparse
import json
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from unseen import (
    CASES,
    PAIRS_A_CLASS,
    SETTINGS,
    Case,
    Draw,
    Vectors,
    draw,
    labelled,
    labels_of,
    load,
    path_of,
    some_of_each,
)

from onward.evaluation.intervals import Interval
from onward.evaluation.judgements import read_qrels
from onward.gallery import Gallery, create_gallery
from onward.spaces import Embeddings
from onward.training.fit.fit import fit
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation
from onward.upgrading import RealQueries, Routes, decide, forecast
from onward.upgrading.forecast import UPGRADE

ANSWERS = ("open", "closed", "cannot judge")
WRONG = 0.01
SIZES = (4, 20)
COVERAGE_SHARE = 0.3

Ends = tuple[float, float, float]
"""Estimate, low and high."""


@dataclass(frozen=True)
class Said:
    """What the gate said of a draw, and what is true, as fractions."""

    answer: str
    queries: int
    needed: int | None
    writes_sample: bool
    gain: Ends | None
    """What will be written less doing nothing; None if nothing is predicted."""
    true_gain: float
    value: Ends | None
    """What the upgrade alone gives."""
    true_value: float
    unasked_gain: float | None
    """The truth by the queries that the gate did not have; None where it had no queries."""

    @property
    def wrongly_open(self) -> bool:
        return self.answer == "open" and self.true_gain < -WRONG

    @property
    def wrongly_closed(self) -> bool:
        return self.answer == "closed" and self.true_gain > WRONG

    @property
    def gain_covered(self) -> bool:
        return self.gain is not None and self.gain[1] <= self.true_gain <= self.gain[2]

    @property
    def value_covered(self) -> bool:
        return self.value is not None and self.value[1] <= self.true_value <= self.value[2]


def ask(one: Draw, h: Transformation, share: float, seed: int, qrels: Any = None) -> Said:
    """Ask the gate as a user would, and find the truth.

    Args:
        one: the draw.
        h: what was fitted on its pairs.
        share: of the gallery's items that the sample holds.
        seed: of the sample, and of the half of the queries that the gate is given.
        qrels: judgements, if queries judge; else items of the sample do.
    """
    rng = np.random.default_rng((seed, round(1000 * share)))
    chosen = some_of(len(one.gallery.new), share, rng)
    asked = some_of(len(one.queries.new), 0.5, rng)
    real = None
    if qrels is not None:
        real = RealQueries(one.queries.old.select(asked), one.queries.new.select(asked), qrels)
    gallery, sample = gallery_of(one.gallery), one.gallery.new.select(chosen)
    prediction = forecast(gallery, Routes((h,)), sample, queries=real)
    said, judge = decide(prediction), prediction.judge
    metric = said.metric or one.metrics[-1]
    upgraded = one.upgraded(h)
    written = with_rows(upgraded, one.gallery.new, chosen) if said.writes_sample else upgraded
    nothing = one.scores(one.queries.old, one.gallery.old)[metric]
    gains = one.scores(one.queries.new, written)[metric] - nothing
    return Said(
        answer=said.answer,
        queries=said.queries,
        needed=said.needed,
        writes_sample=said.writes_sample,
        gain=ends(said.gain),
        true_gain=float(gains.mean()),
        value=None if judge is None else ends(judge.cell(UPGRADE).values[metric]),
        true_value=float(one.scores(one.queries.new, upgraded)[metric].mean()),
        unasked_gain=None if qrels is None else float(np.delete(gains, asked).mean()),
    )


def some_of(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(count)[: round(share * count)])


def gallery_of(items: Vectors) -> Gallery:
    stored = [items.old] if items.side is None else [items.old, items.side]
    spaces = [each.space for each in stored]
    return create_gallery(f"memory:{uuid.uuid4()}", *spaces, items=stored)


def with_rows(upgraded: Embeddings, true: Embeddings, rows: np.ndarray) -> Embeddings:
    vectors = upgraded.vectors.copy()
    vectors[rows] = true.align(upgraded.ids).vectors[rows]
    return Embeddings(upgraded.ids, vectors, upgraded.space)


def ends(interval: Interval | None) -> Ends | None:
    return None if interval is None else (interval.estimate, interval.low, interval.high)


# What is judged


def gate(
    folder: Path, kept: Path, cases: Sequence[Case], seeds: Sequence[int], shares: Sequence[float]
) -> Iterator[tuple[str, float, int, Said]]:
    """Give what the gate says of each draw that is there, by the sample's share."""
    for case in cases:
        qrels = None
        if case.data == "scifact":
            qrels = read_qrels(folder / case.data / "qrels_test.tsv")
        for seed in seeds:
            place = path_of(kept, case, seed).with_suffix("")
            if not place.exists():
                print(f"{case}, seed {seed}: nothing is kept", file=sys.stderr, flush=True)
                continue
            one, h = draw(folder, case, seed), Transformation.load(place)
            for share in shares:
                yield str(case), share, seed, ask(one, h, share, seed, qrels)
            print(f"{case}, seed {seed}", file=sys.stderr, flush=True)


def coverage(
    folder: Path, cases: Sequence[Case], seeds: Sequence[int]
) -> Iterator[tuple[str, int, int, Said]]:
    """Give what the gate says of small galleries of photographs, by the images a class."""
    for case in cases:
        if case.data != "cifar100":
            continue
        pairs, items = load(folder, case, "pairs"), load(folder, case, "items")
        for seed in seeds:
            rng = np.random.default_rng(seed)
            learned = pairs.select(some_of_each(labels_of(pairs), PAIRS_A_CLASS, rng))
            h = fit_ridge(learned, seed)
            for size in SIZES:
                one = labelled(learned, items.select(some_of_each(labels_of(items), size, rng)))
                yield str(case), size, seed, ask(one, h, COVERAGE_SHARE, seed)


def fit_ridge(pairs: Vectors, seed: int) -> Transformation:
    settings = FitSettings(method="ridge", **SETTINGS)
    fitted: Any = fit(*pairs, settings=settings, seed=seed, run=RunSettings(device="cpu"))
    h: Transformation = getattr(fitted, "transformation", fitted)
    return h


# What is said of it

Found = Mapping[tuple[str, float], Mapping[int, Said]]
"""By case and the sample's share, or the images a class; then by seed."""


def gathered(given: Iterator[tuple[str, float, int, Said]]) -> Found:
    found: dict[tuple[str, float], dict[int, Said]] = {}
    for case, of, seed, said in given:
        found.setdefault((case, of), {})[seed] = said
    return found


def gate_table(found: Found) -> str:
    heads = (
        "case",
        "sample",
        "draws",
        *ANSWERS,
        "wrongly open, of those below -1",
        "wrongly closed, of those above +1",
        "true gain, mean (worst, best)",
        "held by the interval",
    )
    lines = row(heads) + row(["---"] * len(heads))
    for (case, share), by_seed in found.items():
        lines += row([case, f"{100 * share:g} %", *summary(list(by_seed.values()))])
    for share in sorted({share for _, share in found}):
        every = [one for (_, each), some in found.items() if each == share for one in some.values()]
        lines += row(["all", f"{100 * share:g} %", *summary(every)])
    return lines


def summary(some: Sequence[Said]) -> list[str]:
    gains = [100 * one.true_gain for one in some]
    predicted = [one for one in some if one.gain is not None]
    return [
        str(len(some)),
        *(str(sum(one.answer == answer for one in some)) for answer in ANSWERS),
        f"{sum(one.wrongly_open for one in some)} of {sum(gain < -100 * WRONG for gain in gains)}",
        f"{sum(one.wrongly_closed for one in some)} of {sum(gain > 100 * WRONG for gain in gains)}",
        f"{np.mean(gains):+.1f} ({min(gains):+.1f}, {max(gains):+.1f})",
        f"{sum(one.gain_covered for one in predicted)} of {len(predicted)}",
    ]


def coverage_table(found: Found) -> str:
    heads = (
        "case",
        "images a class",
        *ANSWERS,
        "gain held",
        "value of the upgrade held",
        "predicted gain, mean",
        "true gain, mean",
        "half width, mean",
    )
    lines = row(heads) + row(["---"] * len(heads))
    for case in dict.fromkeys(case for case, _ in found):
        by_size = {
            size: list(some.values()) for (name, size), some in found.items() if name == case
        }
        for size, some in by_size.items():
            lines += row([case, f"{size:g}", *covered(some)])
        lines += row([case, "both", *covered([one for some in by_size.values() for one in some])])
    return lines


def covered(some: Sequence[Said]) -> list[str]:
    gains = np.array([one.gain for one in some if one.gain is not None])
    return [
        *(str(sum(one.answer == answer for one in some)) for answer in ANSWERS),
        f"{sum(one.gain_covered for one in some)} of {len(some)}",
        f"{sum(one.value_covered for one in some)} of {len(some)}",
        f"{100 * gains[:, 0].mean():+.1f}",
        f"{100 * np.mean([one.true_gain for one in some]):+.1f}",
        f"{50 * (gains[:, 2] - gains[:, 1]).mean():.1f}",
    ]


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def plain(found: Found) -> list[dict[str, Any]]:
    return [
        {"case": case, "of": of, "seed": seed, **asdict(said)}
        for (case, of), by_seed in found.items()
        for seed, said in by_seed.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("draws", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--shares", type=float, nargs="+", default=[3, 10, 30], help="in percent")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    cases = [case for case in CASES if given.only in str(case)]
    covers = gathered(coverage(given.vectors, cases, seeds))
    print(coverage_table(covers))
    shares = [share / 100 for share in given.shares]
    found = gathered(gate(given.vectors, given.draws, cases, seeds, shares))
    print(gate_table(found))
    if given.out is not None:
        both = {"coverage": plain(covers), "gate": plain(found)}
        given.out.write_text(json.dumps(both, indent=1) + "\n")


if __name__ == "__main__":
    main()
