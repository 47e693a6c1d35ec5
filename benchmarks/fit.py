"""What choosing on held-out classes costs: `fit` by auto beside one network, in turn, as a ratio.

Auto tries everything in three folds before it fits what it keeps. Where it keeps ridge no network
is trained on everything; the ratio that counts is that of a network or the ensemble.

Examples:
    python benchmarks/fit.py
    python benchmarks/fit.py --items 20000 --repeats 3
"""

import argparse
import statistics
import time

import numpy as np

from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit
from onward.training.settings import FitSettings, RunSettings

OLD, SIDE, NEW = Space("old", 128), Space("side", 128), Space("new", 128)


def make_pairs(items: int) -> tuple[Embeddings, Embeddings, Embeddings]:
    """Twenty items a class, in spaces between which a network is better than a linear map."""
    random = np.random.default_rng(0)
    labels = np.arange(items) % max(items // 20, 3)
    meaning = random.standard_normal((labels.max() + 1, 160))[labels]
    meaning += 0.5 * random.standard_normal(meaning.shape)
    spread = [random.standard_normal((160, 128)) / 6 for _ in range(3)]
    vectors = [np.tanh(meaning @ each).astype(np.float32) for each in spread]
    vectors[2] = np.maximum(vectors[2], 0)
    ids = tuple(f"item-{row:09d}" for row in range(items))
    spaces = zip((OLD, SIDE, NEW), vectors, strict=True)
    return tuple(Embeddings(ids, values, space, labels) for space, values in spaces)


def seconds_of(method: str, pairs: tuple[Embeddings, Embeddings, Embeddings]) -> tuple[float, str]:
    """Return the processor's time that a fit takes, and what it keeps."""
    before = time.process_time()
    settings = FitSettings(method=method, gallery_classes="seen")
    fitted = fit(*pairs, settings=settings, run=RunSettings(device="cpu"))
    return time.process_time() - before, fitted.chosen["method"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[400, 4000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for items in arguments.items:
        pairs = make_pairs(items)
        taken: dict[str, list[float]] = {"mlp": [], "auto": []}
        for _ in range(arguments.repeats):
            for method, seconds in taken.items():
                spent, kept = seconds_of(method, pairs)
                seconds.append(spent)
        one, all_of_it = (statistics.median(taken[method]) for method in ("mlp", "auto"))
        print(
            f"{items:,} pairs: one network {one:.1f} s, auto {all_of_it:.1f} s, "
            f"{all_of_it / one:.2f} times; auto kept {kept}"
        )


if __name__ == "__main__":
    main()
