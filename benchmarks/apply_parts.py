"""What a transformation of several parallel networks costs to apply, beside one network.

The parts of a step run apart and are added up, so two networks should take twice the time of one
and four should take four times. Each round applies all of them to the same rows, one after the
other, so that whatever else the machine does meets all alike; the ratio is the median over rounds.

Examples:
    python benchmarks/apply_parts.py
    python benchmarks/apply_parts.py --rows 100000 --inner 2048
"""

import argparse
import json
import os
import statistics
import time

import numpy as np
from upgrade import fct_network

from onward.spaces import Embeddings
from onward.transformation import Transformation, mean

NETWORKS = (1, 2, 4)


def seconds(h: Transformation, old: Embeddings, side: Embeddings) -> float:
    begin = time.perf_counter()
    h.apply(old, side)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128, help="of old, side and new vectors")
    parser.add_argument("--inner", type=int, default=512, help="width of each network's mixer")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    one = fct_network(arguments.dim, arguments.inner)
    several = {count: mean([one] * count) for count in NETWORKS}
    random = np.random.default_rng(1)
    vectors = random.standard_normal((2, arguments.rows, arguments.dim), np.float32)
    ids = tuple(map(str, range(arguments.rows)))
    old, side = (
        Embeddings(ids, each, space)
        for each, space in zip(vectors, (one.old, one.side), strict=True)
        if space is not None
    )
    first = np.arange(min(1000, arguments.rows))
    for h in several.values():
        seconds(h, old.select(first), side.select(first))  # the first call opens the session
    rounds = [
        {count: seconds(h, old, side) for count, h in several.items()}
        for _ in range(arguments.rounds)
    ]
    told = {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "inner": arguments.inner,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "times_one_network": {
            count: round(statistics.median(took[count] / took[1] for took in rounds), 2)
            for count in NETWORKS
        },
        "times_one_network_in_macs": {
            count: round(h.macs / one.macs, 2) for count, h in several.items()
        },
        "rows_per_second_of_one": round(
            arguments.rows / statistics.median(took[1] for took in rounds)
        ),
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
