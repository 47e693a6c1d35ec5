"""Time and peak memory of exact evaluation: N queries against N items, each way in a process.

Beside it stands the plain way with a matrix of all distances, where the memory is there for it.

Examples:
    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --items 50000
    python benchmarks/evaluation.py --curve
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from onward.evaluation.backfill_curve import backfill_curve, random_order
from onward.evaluation.comparison import evaluate_embeddings
from onward.spaces import Embeddings, Space

BYTES_A_PAIR = 40
"""What the full matrix takes: distances, their order, hits and precision."""


def make_embeddings(items: int, dim: int) -> Embeddings:
    random = np.random.default_rng(0)
    labels = random.integers(0, 100, items)
    centres = random.standard_normal((100, dim))
    vectors = centres[labels] + 2 * random.standard_normal((items, dim))
    ids = tuple(f"item-{row:09d}" for row in range(items))
    return Embeddings(ids, vectors.astype(np.float32), Space("benchmark", dim), labels)


def blocked(embeddings: Embeddings) -> float:
    return evaluate_embeddings(embeddings, embeddings, exclude_self=True).map


def curve(embeddings: Embeddings) -> float:
    """The backfill curve: 22 evaluations, the gallery moved a little before its backfill."""
    moved = embeddings.vectors + np.random.default_rng(1).standard_normal(embeddings.vectors.shape)
    upgraded = Embeddings(
        embeddings.ids, moved.astype(np.float32), embeddings.space, embeddings.labels
    )
    order = random_order(embeddings.ids, seed=0)
    return backfill_curve(embeddings, upgraded, embeddings, order, exclude_self=True).auc("map")


def full_matrix(embeddings: Embeddings) -> float:
    """The plain way: all distances at once, a full argsort, all hits."""
    vectors, labels = embeddings.vectors, embeddings.labels
    squares = (vectors**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[:, None]
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())


def measured(way: Callable[[Embeddings], float], items: int, dim: int, queue) -> None:
    embeddings = make_embeddings(items, dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    value = way(embeddings)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put({"seconds": seconds, "map": value, "peak_rss": peak << 10, "before": before << 10})


def in_fresh_process(way: Callable[[Embeddings], float], items: int, dim: int) -> dict:
    context = multiprocessing.get_context("spawn")  # a peak of its own
    queue = context.Queue()
    process = context.Process(target=measured, args=(way, items, dim, queue))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{way.__name__} ended with {process.exitcode}; too little memory?")
    return queue.get()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000, help="queries, and gallery items")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--skip-full-matrix", action="store_true", help="it needs 40 bytes a pair")
    parser.add_argument("--curve", action="store_true", help="also a backfill curve of 22 points")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    needed = BYTES_A_PAIR * arguments.items**2
    fits = needed < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    ways: list[Callable[[Embeddings], float]] = [blocked]
    if arguments.curve:
        ways.append(curve)
    if fits and not arguments.skip_full_matrix:
        ways.append(full_matrix)
    results = {way.__name__: in_fresh_process(way, arguments.items, arguments.dim) for way in ways}
    if arguments.json:
        print(json.dumps({"items": arguments.items, "dim": arguments.dim, **results}, indent=2))
        return
    print(f"{arguments.items:,} queries x {arguments.items:,} items x {arguments.dim}")
    ours = results["blocked"]
    for name, result in results.items():
        print(
            f"{name:<12}{result['seconds']:>9.2f} s{result['peak_rss'] / 1e6:>10,.0f} MB "
            f"peak ({result['before'] / 1e6:,.0f} MB before)   map {result['map']:.6f}   "
            f"{result['seconds'] / ours['seconds']:.1f} x the time, "
            f"{result['peak_rss'] / ours['peak_rss']:.1f} x the memory"
        )
    if not fits:
        print(f"full_matrix is left out: it would need {needed / 1e9:,.0f} GB")


if __name__ == "__main__":
    main()
