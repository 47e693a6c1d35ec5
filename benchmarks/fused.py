"""Search in a fused pair beside search in one of its spaces: time, and recall of the first 10.

A LanceDB gallery holds vectors of items in two spaces, made as models make them: items of many
classes lie near a surface of a few dimensions, and each model sees them with an error of its own.
Both spaces get the index that `build_index` builds. In each round the same queries are asked in the
new space, in the old one and in the pair, one after the other, so that whatever else the machine
does meets all alike. The ratio is the median over rounds of what the pair takes by what the dearer
of its spaces takes. Recall is the share of the first 10 of an exact search that the approximate one
finds, on the same queries.

Examples:
    python benchmarks/fused.py
    python benchmarks/fused.py --rows 20000 --metric cosine
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onward.evaluation.retrieval import Ranking, agreement
from onward.evaluation.serving import Asked, measure_pair
from onward.fusion import Fusion
from onward.gallery import Gallery, create_gallery, open_gallery
from onward.spaces import Embeddings, Space, Vectors

K = 10
ADDED_ROWS = 50_000
CLASSES, LATENT = 1000, 24
"""Number of classes, and of dimensions of the surface that they lie on."""
OF_CLASS, OLD_ERROR, NEW_ERROR = 1.0, 0.35, 0.2
"""How far classes lie apart, in deviations of their items, and how far a model is from right."""

Vector = Mapping[str, Vectors]


class Models:
    """Two models that see the same items, each with an error of its own."""

    def __init__(self, dim: int) -> None:
        random = np.random.default_rng(0)
        self._centres = random.standard_normal((CLASSES, LATENT)) * OF_CLASS
        self._seen = {
            name: (
                random.standard_normal((LATENT, 2 * dim)),
                random.standard_normal((2 * dim, dim)),
            )
            for name in ("old", "new")
        }

    def embed(self, count: int, seed: int) -> Vector:
        random = np.random.default_rng([1, seed])
        of_class = self._centres[random.integers(0, CLASSES, count)]
        items = of_class + random.standard_normal((count, LATENT))
        vectors = {}
        for name, error in (("old", OLD_ERROR), ("new", NEW_ERROR)):
            first, second = self._seen[name]
            hidden = np.maximum(items @ first / np.sqrt(LATENT), 0)
            clean = hidden @ second / np.sqrt(len(second))
            made = clean + error * random.standard_normal(clean.shape)
            vectors[name] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
        return vectors


def fill(path: Path, old: Space, new: Space, models: Models, rows: int) -> None:
    gallery = create_gallery(path, old, new, serving=new)
    for start in range(0, rows, ADDED_ROWS):
        ids = tuple(f"item-{row:09d}" for row in range(start, min(rows, start + ADDED_ROWS)))
        vectors = models.embed(len(ids), seed=start)
        gallery.add(*(Embeddings(ids, vectors[of], at) for of, at in (("old", old), ("new", new))))
    gallery.build_index(old)
    gallery.build_index(new)


def measured(vectors: Vectors, space: Space) -> list[Asked]:
    """Return the first hundred as queries, and the others as items."""
    every = Embeddings(tuple(f"other-{row}" for row in range(len(vectors))), vectors, space)
    return [(every.select(range(100)), every.select(range(100, len(every))))]


class Searches:
    """The three searches that are compared, each of the same queries."""

    def __init__(self, gallery: Gallery, fusion: Fusion, queries: Vector) -> None:
        self._gallery, self._fusion = gallery, fusion
        ids = tuple(f"query-{row}" for row in range(len(queries["old"])))
        self.old = Embeddings(ids, queries["old"], fusion.old)
        self.new = Embeddings(ids, queries["new"], fusion.new)

    def ask(self, what: str, rows: slice, *, approximate: bool) -> Ranking:
        chosen = np.arange(len(self.old))[rows]
        old, new = self.old.select(chosen), self.new.select(chosen)
        options = {"approximate": approximate, "allow_unserved": True}
        if what != "fused":
            return self._gallery.search(old if what == "old" else new, K, **options)
        return self._gallery.search(new, K, queries_old=old, fusion=self._fusion, **options)

    def recall(self, what: str) -> float:
        every = slice(None)
        found, wanted = (self.ask(what, every, approximate=one) for one in (True, False))
        return float(agreement(found, wanted).mean())

    def seconds(self, what: str, rows: slice) -> float:
        begin = time.perf_counter()
        self.ask(what, rows, approximate=True)
        return time.perf_counter() - begin


def rounds(searches: Searches, batch: int, count: int) -> Iterator[dict[str, float]]:
    for number in range(-1, count):
        start = max(number, 0) * batch % (len(searches.old) - batch + 1)
        rows = slice(start, start + batch)
        took = {what: searches.seconds(what, rows) for what in ("new", "fused", "old")}
        if number >= 0:  # the first call reads the indexes
            yield took


def compared(searches: Searches, batch: int, count: int) -> dict[str, float]:
    took = list(rounds(searches, batch, count))

    def median(of: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(of, took)), 4)

    return {
        **{f"seconds_{what}": median(lambda one, what=what: one[what]) for what in took[0]},
        "ratio": median(lambda one: one["fused"] / max(one["old"], one["new"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128, help="of old and new vectors")
    parser.add_argument("--metric", choices=["l2", "cosine", "ip"], default="cosine")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=60, help="of one query; of 100: a fifth")
    parser.add_argument("--directory", type=Path, help="where to work; default: temporary files")
    arguments = parser.parse_args()
    old, new = (Space(name, arguments.dim, arguments.metric) for name in ("old@1", "new@2"))
    models = Models(arguments.dim)
    queries, others = models.embed(arguments.queries, -1 % 2**32), models.embed(200, 2**32)
    fusion = measure_pair(measured(others["old"], old), measured(others["new"], new), seed=0)
    with TemporaryDirectory(prefix="onward-", dir=arguments.directory) as directory:
        path = Path(directory) / "gallery.lance"
        fill(path, old, new, models, arguments.rows)
        searches = Searches(open_gallery(path), fusion, queries)
        told = {
            "rows": arguments.rows,
            "dim": arguments.dim,
            "metric": arguments.metric,
            "cores": len(os.sched_getaffinity(0)),
            "load_before": os.getloadavg()[0],
            "versions": {name: version(name) for name in ("lancedb", "pyarrow")},
            "recall_at_10": {what: searches.recall(what) for what in ("old", "new", "fused")},
            "one_query": compared(searches, 1, arguments.rounds),
            "100_queries": compared(searches, 100, arguments.rounds // 5),
        }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
