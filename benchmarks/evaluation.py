"""Time and memory of ranking and evaluating N queries against N items, beside a full matrix.

Example: python benchmarks/evaluation.py 10000 --dim 128
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from onward.compatibility import evaluate_embeddings
from onward.spaces import Embeddings, Space


def make_embeddings(items: int, dim: int) -> Embeddings:
    random = np.random.default_rng(0)
    labels = random.integers(0, 100, items)
    centres = random.standard_normal((100, dim))
    vectors = centres[labels] + 2 * random.standard_normal((items, dim))
    ids = tuple(f"item-{row:09d}" for row in range(items))
    return Embeddings(ids, vectors.astype(np.float32), Space("benchmark", dim), labels)


def blocked(embeddings: Embeddings) -> float:
    return evaluate_embeddings(embeddings, embeddings, exclude_self=True).map


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", type=int, nargs="?", default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--skip-full-matrix", action="store_true", help="it needs 40 bytes a pair")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ways = [blocked] if arguments.skip_full_matrix else [blocked, full_matrix]
    results = {way.__name__: in_fresh_process(way, arguments.items, arguments.dim) for way in ways}
    if len(ways) == 2:
        ours, theirs = results["blocked"], results["full_matrix"]
        results["ratio"] = {
            "seconds": theirs["seconds"] / ours["seconds"],
            "peak_rss": theirs["peak_rss"] / ours["peak_rss"],
        }
    if arguments.json:
        print(json.dumps({"items": arguments.items, "dim": arguments.dim, **results}, indent=2))
        return
    print(f"{arguments.items:,} queries x {arguments.items:,} items x {arguments.dim}")
    for way in ways:
        result = results[way.__name__]
        print(
            f"{way.__name__:<12}{result['seconds']:>9.2f} s{result['peak_rss'] / 1e6:>10,.0f} MB "
            f"peak ({result['before'] / 1e6:,.0f} MB before)   map {result['map']:.6f}"
        )
    if "ratio" in results:
        print(
            f"full matrix / blocked: {results['ratio']['seconds']:.1f} x the time, "
            f"{results['ratio']['peak_rss']:.1f} x the memory"
        )


if __name__ == "__main__":
    main()
