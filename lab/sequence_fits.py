"""Direct, chained and composed fits of a sequence once more, from other seeds, on the same models.

Usage: python lab/sequence_fits.py SOURCE CACHE [SEED ...]

SOURCE and CACHE are what `onward experiment sequence` was given, whose models are taken from the
cache. By ridge and network together, penalty 6, side-information of 256 bytes in both steps; the
direct fit has two networks, each step of a chain one. Prints cmc@1 and map, closed and open, in
percent, then what the direct fit has more, as the mean over all fits.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from onward.evaluation.comparison import evaluate_embeddings
from onward.experiments.recipe import load_recipe
from onward.experiments.splits import CLOSED, MIDDLE_TRAIN, OPEN, TRAIN, split
from onward.experiments.vectors import Stage, StudyArm, train_models
from onward.progress import silent
from onward.spaces import Embeddings
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Classifier
from onward.training.settings import RunSettings
from onward.transformation import Transformation

FITS = (11, 12, 13)
Carry = Callable[[Embeddings, Embeddings | None], Embeddings]


def main() -> None:
    source, cache, *seeds = sys.argv[1:]
    torch.set_num_threads(1)
    chosen = [int(seed) for seed in seeds] or [0, 1, 2]
    numbers = [scores(source, Path(cache), seed) for seed in chosen]
    direct, chained, composed = np.concatenate(numbers).transpose(1, 0, 2)
    for name, chain in (("chained", chained), ("composed", composed)):
        more = direct - chain
        print(f"direct less {name}", *(f"{number:+.2f}" for number in more.mean(axis=0)))


def scores(source: str, cache: Path, seed: int) -> np.ndarray:
    """Return the four numbers of direct, chained and composed for every fit."""
    recipe = load_recipe("sequence", {"data.source": source, "seed": seed})
    stage = Stage("cpu", lambda _: None, lambda *_: nullcontext(silent), cache)
    vectors = train_models(recipe, split(recipe), stage)
    arm = StudyArm(next(arm for arm in recipe.arms if arm.name == "new/old"), vectors)
    settings = recipe.fit.model_copy(update={"ridge_penalties": (6.0,)})
    classifier = Classifier.of(vectors.models["new"])

    def learn(old: Embeddings, part: str, new: str, seed: int, networks: int) -> Transformation:
        known = classifier if new == "new" else None
        changes = {"networks": networks} | ({} if known else {"discriminative": "none"})
        return fit(
            old,
            arm.side(part),
            vectors.of(new, part),
            classifier=known,
            settings=settings.model_copy(update=changes),
            seed=seed,
            run=RunSettings(device="cpu", precision=recipe.precision),
        ).transformation

    def score(carry: Carry) -> list[float]:
        found = []
        for part in (CLOSED, OPEN):
            new = vectors.of("new", part)
            gallery = replace(carry(vectors.of("old", part), arm.side(part)), labels=new.labels)
            judged = evaluate_embeddings(new, gallery, exclude_self=True)
            found += [100 * judged.cmc(1), 100 * judged.map]
        return found

    rows = []
    for number in FITS:
        old, middle = vectors.of("old", TRAIN), vectors.of("middle", TRAIN)
        direct = learn(old, TRAIN, "new", number, 2)
        first = learn(vectors.of("old", MIDDLE_TRAIN), MIDDLE_TRAIN, "middle", number, 1)
        chained = learn(first.apply(old, arm.side(TRAIN)), TRAIN, "new", number + 7, 1)
        composed = learn(middle, TRAIN, "new", number + 7, 1)
        row = [score(direct.apply), *(score(_one_after(first, h)) for h in (chained, composed))]
        rows.append(row)
        for name, four in zip(("direct", "chained", "composed"), row, strict=True):
            print(f"seed {seed} fit {number} {name:8}", *(f"{x:.2f}" for x in four), flush=True)
    return np.array(rows)


def _one_after(first: Transformation, second: Transformation) -> Carry:
    return lambda old, side: second.apply(first.apply(old, side), side)


if __name__ == "__main__":
    main()
