"""What an upgrade of a large gallery costs: rows a second, memory, disk, and search meanwhile.

A LanceDB gallery of random vectors is filled. A fresh process measures how many rows a second
onnxruntime alone transforms, carries over the first half of the rows, and measures onnxruntime
again: the ratio of the two is what reading and writing leave of it. Then it carries over the other
half while a second process searches, which it also did before and does afterwards.

Examples:
    python benchmarks/upgrade.py
    python benchmarks/upgrade.py --rows 1000000 --directory scratch
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onward.gallery import Gallery, create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.transformation.networks import Dense, Network, Step
from onward.upgrading import Upgrade
from onward.upgrading.routes import choose_batch_rows

ADDED_ROWS = 100_000
ALONE_SECONDS = 10.0
SEARCHES_A_SECOND = 4
IDLE_SECONDS = 15.0


def spaces(dim: int) -> tuple[Space, Space, Space]:
    return Space("old@1", dim), Space("side@1", dim), Space("new@2", dim)


def fct_network(dim: int, inner: int) -> Transformation:
    """The layers of the FCT network as they are before training, BatchNorm folded."""
    random = np.random.default_rng(0)

    def chain(*dims: int, last: bool = False) -> tuple[Dense, ...]:
        pairs = list(itertools.pairwise(dims))
        return tuple(
            Dense(
                (random.standard_normal((out, fed)) * np.sqrt(2 / fed)).astype(np.float32),
                np.zeros(out, np.float32),
                relu=not (last and number == len(pairs) - 1),
            )
            for number, (fed, out) in enumerate(pairs)
        )

    branch = (dim, 2 * dim, 2 * dim)
    mixer = chain(4 * dim, inner, inner, dim, last=True)
    old, side, new = spaces(dim)
    part = Network(chain(*branch), chain(*branch), mixer, uses_side=True)
    return Transformation(old, side, new, (Step((part,)),))


def fill(path: Path, rows: int, dim: int) -> float:
    begin = time.perf_counter()
    old, side, _ = spaces(dim)
    random = np.random.default_rng(1)
    gallery = create_gallery(path, old, side, query_model="old")
    for start in range(0, rows, ADDED_ROWS):
        ids = tuple(f"item-{row:09d}" for row in range(start, min(rows, start + ADDED_ROWS)))
        shape = (len(ids), dim)
        gallery.add(
            *(Embeddings(ids, random.standard_normal(shape, np.float32), of) for of in (old, side))
        )
    gallery.build_index(old)
    return time.perf_counter() - begin


def seconds_alone(h: Transformation, gallery: Gallery) -> tuple[int, float, float]:
    """Rows, seconds and seconds of all cores of onnxruntime on the batches that a run makes."""
    batches = gallery.scan([h.old, h.side], batch_rows=choose_batch_rows(h))
    fed = [
        [Embeddings(batch.ids, batch.vectors[space], space) for space in (h.old, h.side)]
        for batch in itertools.islice(batches, 4)
    ]
    h.apply(*fed[0])
    rows, begin, used = 0, time.perf_counter(), time.process_time()
    for old, side in itertools.cycle(fed):
        h.apply(old, side)
        rows += len(old)
        if time.perf_counter() - begin > ALONE_SECONDS:
            break
    return rows, time.perf_counter() - begin, time.process_time() - used


def upgrade(path: Path, h_path: Path, connection) -> None:
    """In a process of its own: its peak of memory is that of an upgrade."""
    h, gallery = Transformation.load(h_path), open_gallery(path)
    upgrade = Upgrade(gallery, h)
    upgrade.start()
    half = gallery.count() // 2
    told = {"peak_rss_before": peak_rss()}
    before = seconds_alone(h, gallery)
    told["peak_rss_alone"] = peak_rss()
    used = time.process_time()
    done = [0]
    first = upgrade.run(
        stop=lambda: done[0] >= half, progress=lambda now, _: done.__setitem__(0, now)
    )
    told["run"] = measured(first.done, first.seconds, time.process_time() - used)
    told["peak_rss_run"] = peak_rss()
    after = seconds_alone(h, gallery)
    told["alone"] = measured(*map(sum, zip(before, after, strict=True)))
    connection.send("half")
    connection.recv()
    begin = time.perf_counter()
    second = upgrade.run()  # it compacts at its end
    told["run_while_searched"] = measured(second.done, second.seconds)
    told["compact_seconds"] = time.perf_counter() - begin - second.seconds
    told["remaining"] = second.remaining
    told["peak_rss"] = peak_rss()
    connection.send(told)


def measured(rows: int, seconds: float, used: float | None = None) -> dict:
    told = {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}
    return told if used is None else {**told, "core_microseconds_a_row": 1e6 * used / rows}


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def search(path: Path, dim: int, connection) -> None:
    """In a process of its own: search as long as nothing is said, then tell how long it took."""
    gallery, (old, _, _) = open_gallery(path), spaces(dim)
    random = np.random.default_rng(2)
    while connection.recv():
        took = {"approximate": [], "exact": []}
        while not connection.poll():
            for kind, seconds in took.items():
                query = Embeddings(("q",), random.standard_normal((1, dim), np.float32), old)
                begin = time.perf_counter()
                gallery.search(query, 10, approximate=kind == "approximate")
                seconds.append(time.perf_counter() - begin)
                time.sleep(1 / SEARCHES_A_SECOND)
        connection.recv()
        connection.send({kind: quantiles(seconds) for kind, seconds in took.items()})


def quantiles(seconds: list[float]) -> dict:
    ordered = sorted(seconds)
    return {
        "searches": len(ordered),
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Searcher:
    """A process that searches."""

    def __init__(self, path: Path, dim: int) -> None:
        self.process, self.connection = start(search, path, dim)

    def begin(self) -> None:
        self.connection.send(True)

    def end(self) -> dict:
        self.connection.send("enough")
        return self.connection.recv()

    def for_a_while(self) -> dict:
        self.begin()
        time.sleep(IDLE_SECONDS)
        return self.end()

    def close(self) -> None:
        self.connection.send(False)
        self.process.join()


def start(what, *arguments):
    context = multiprocessing.get_context("spawn")
    connection, its_end = context.Pipe()
    process = context.Process(target=what, args=(*arguments, its_end))
    process.start()
    return process, connection


def run(directory: Path, rows: int, dim: int, inner: int) -> Iterator[tuple[str, object]]:
    path, h_path = directory / "gallery.lance", directory / "h"
    fct_network(dim, inner).save(h_path)
    filling, connection = start(fill_and_tell, path, rows, dim)
    yield "fill_seconds", connection.recv()
    filling.join()
    yield "disk_before", disk_bytes(path)
    searcher = Searcher(path, dim)
    searches = {"idle": searcher.for_a_while()}
    process, connection = start(upgrade, path, h_path)
    connection.recv()
    searcher.begin()
    connection.send("go on")
    told = connection.recv()
    searches["while it runs"] = searcher.end()
    yield from told.items()
    alone, both = told["alone"], told["run"]
    yield "ratio", both["rows_per_second"] / alone["rows_per_second"]
    yield "core_ratio", alone["core_microseconds_a_row"] / both["core_microseconds_a_row"]
    process.join()
    yield "disk_after", disk_bytes(path)
    searches["after"] = searcher.for_a_while()
    searcher.close()
    open_gallery(path).compact(keep=timedelta(0))
    yield "disk_without_old_versions", disk_bytes(path)
    yield "search_seconds", searches


def fill_and_tell(path: Path, rows: int, dim: int, connection) -> None:
    connection.send(fill(path, rows, dim))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128, help="of old, side and new vectors")
    parser.add_argument("--inner", type=int, default=512, help="width of the FCT network's mixer")
    parser.add_argument("--directory", type=Path, help="where to work; default: temporary files")
    arguments = parser.parse_args()
    told = {
        "command": f"python benchmarks/upgrade.py --rows {arguments.rows}",
        "rows": arguments.rows,
        "dim": arguments.dim,
        "inner": arguments.inner,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("lancedb", "onnxruntime", "pyarrow")},
    }
    with TemporaryDirectory(prefix="onward-", dir=arguments.directory) as directory:
        for name, value in run(Path(directory), arguments.rows, arguments.dim, arguments.inner):
            told[name] = value
            print(f"{name}: {value}", file=sys.stderr)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
